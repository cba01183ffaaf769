"""What a question is after, decided without a database."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.models.entities import QueryType
from src.pipeline.classify import MAX_TERM_LENGTH, MAX_TERMS, classify


@pytest.mark.parametrize(
    ("query", "kind", "terms"),
    [
        ("who is on call for cardiology", QueryType.CONTACT, ("cardiology",)),
        ("orthopedics pager", QueryType.CONTACT, ("orthopedics",)),
        ("phone number of the stroke team", QueryType.CONTACT, ("stroke", "team")),
        ("show me the blood transfusion form", QueryType.FORM, ("blood", "transfusion")),
        ("I need a consent form for a procedure", QueryType.FORM, ("consent",)),
        ("what is the ED STEMI protocol", QueryType.PROTOCOL, ("ed", "stemi")),
        ("how do we manage DKA", QueryType.PROTOCOL, ("dka",)),
        ("ICU admission criteria", QueryType.CRITERIA, ("icu", "admission")),
        ("when should I call the trauma team", QueryType.CRITERIA, ("call", "trauma", "team")),
        ("how much narcan", QueryType.DOSAGE, ("narcan",)),
        ("enoxaparin 1.5 mg/kg?", QueryType.DOSAGE, ("enoxaparin",)),
        ("summarise the chest pain pathway", QueryType.SUMMARY, ("chest", "pain")),
        ("what do I say at handoff", QueryType.SUMMARY, ("handoff",)),
        ("stroke pathway on one page", QueryType.SUMMARY, ("stroke", "page")),
    ],
)
def test_a_question_has_a_type_and_words_to_look_for(query: str, kind: QueryType, terms: tuple[str, ...]):
    intent = classify(query)
    assert (intent.type, intent.terms) == (kind, terms)
    assert intent.confidence > 0


def test_without_a_cue_there_is_no_confidence():
    assert classify("hyponatraemia").confidence == 0
    assert classify("").confidence == 0


def test_a_cue_that_speaks_for_another_type_takes_confidence_away():
    assert classify("sepsis protocol").confidence > classify("sepsis protocol form").confidence > 0


def test_a_question_of_nothing_but_cues_is_looked_for_as_it_stands():
    assert classify("the form").terms == ("form",)
    assert classify("how to page").terms == ("page",)


def test_figures_and_a_letter_alone_are_not_looked_for():
    assert classify("' or 1=1 --").terms == ()
    assert classify("plan D, 12.5, 3-4, h1n1, O2, c-spine").terms == ("plan", "h1n1", "o2", "c-spine")


def test_words_that_only_look_like_a_cue_are_none():
    assert classify("contact precautions").terms == ("contact", "precautions")
    for query in ("contact precautions for norovirus", "sign language interpreter"):
        assert classify(query).confidence == 0


def test_how_a_question_is_written_makes_no_difference():
    plain = classify("what's the dose of aspirin")
    shouted = classify("  WHAT\N{RIGHT SINGLE QUOTATION MARK}S the\n DOSE of   Aspirin ")
    assert (plain.type, plain.confidence, plain.terms) == (shouted.type, shouted.confidence, shouted.terms)


def test_what_cannot_be_stored_is_taken_out():
    assert classify("a\0b\ud800c").query == "a b c"


@given(st.text(alphabet=st.characters(), max_size=2_000))
@example("\0" * 2_000)
@example("x" * 2_000)
@example("do " * 666)
@example("1" * 2_000)
def test_any_text_is_classified_within_bounds(query: str):
    intent = classify(query)
    assert 0 <= intent.confidence < 1
    assert len(intent.terms) == len(set(intent.terms)) <= MAX_TERMS
    assert all(0 < len(term) <= MAX_TERM_LENGTH for term in intent.terms)
    assert len(intent.query) == len(query)
    assert "\0" not in intent.query
    intent.query.encode()
    "".join(intent.terms).encode()


def test_a_question_as_long_as_they_come_does_not_ask_for_everything():
    assert len(classify(" ".join(f"word{n}" for n in range(400))).terms) == MAX_TERMS
