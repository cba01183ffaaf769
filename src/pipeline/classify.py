"""What kind of question is it, and which of its words are worth looking for? Pure: words in, decision out."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from src.models.entities import QueryType

MAX_TERMS = 32
"""Words looked for at most; nobody needs more to say what they want, and each is a question to the index."""
MAX_TERM_LENGTH = 64
"""Characters of a word that count; more than any word of medicine has."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a question is after.

    `query`: the question as it can be stored. `confidence`: of the type, 0 to below 1; at 0 no cue was found, and
    `PROTOCOL`, what most questions want, only decides between equals. `terms`: distinct, lower case; perhaps none.
    """

    query: str
    type: QueryType
    confidence: float
    terms: tuple[str, ...]


class Cue(NamedTuple):
    """Words that speak for a type: with weight 3 they name it, with 2 they suggest it, with 1 they lean to it."""

    type: QueryType
    weight: int
    pattern: re.Pattern[str]


def _cue(kind: QueryType, weight: int, *alternatives: str) -> Cue:
    return Cue(kind, weight, re.compile(rf"\b(?:{'|'.join(alternatives)})\b"))


_WE = "(?:we|i|you|one)"
_CALL = "(?:call|phone|telephone|ring|page|bleep|contact|reach)"
_UNIT = "(?:mg|mcg|micrograms?|milligrams?|ml|mmol)"

CARRIERS = (
    _cue(QueryType.CONTACT, 3, "on[ -]?call", "phone", "telephone", "extension", "ext", "pager", "bleep"),
    _cue(QueryType.CONTACT, 3, "contacts?(?! precautions?)"),
    _cue(QueryType.CONTACT, 3, "(?:phone|telephone|pager|bleep|extension|contact) (?:numbers?|details?)"),
    _cue(
        QueryType.CONTACT, 3, f"(?<!when )(?:do|can|should|must) {_WE} {_CALL}", f"who to {_CALL}", "number (?:for|of)"
    ),
    _cue(QueryType.CONTACT, 2, "who (?:is|are) the", "number", "(?<!one )pages?"),
    _cue(QueryType.CONTACT, 1, "doctor", "physician", "specialist", "expert"),
    _cue(QueryType.FORM, 3, "forms?", "paperwork", "fill (?:in|out|it in)"),
    _cue(QueryType.PROTOCOL, 3, "protocols?", "guidelines?"),
    _cue(QueryType.PROTOCOL, 3, f"how (?:do|to|should|can) (?:{_WE} )?(?:manage|treat|run|handle)"),
    _cue(QueryType.PROTOCOL, 2, "pathways?", "steps", "work-?up", "algorithm", "procedure", "walk me through"),
    _cue(QueryType.PROTOCOL, 2, "manag(?:e|ing|ement)", "treat(?:ing|ment)?", f"what (?:do|should) {_WE} do"),
    _cue(QueryType.CRITERIA, 3, "criteria", "criterion", "cut-?offs?", "thresholds?", "indications?"),
    _cue(QueryType.DOSAGE, 3, "dos(?:es?|ages?|ing)", "how much", rf"(?:\d+(?:\.\d+)? ?)?{_UNIT}(?:/(?:kg|h|hr|min))*"),
    _cue(QueryType.SUMMARY, 3, "summar(?:y|ies)", "summari[sz]e[sd]?", "overviews?"),
)
"""Cues that only say what kind of page is wanted: they are not looked for in the pages themselves."""

HINTS = (
    _cue(QueryType.CONTACT, 2, "paging", "reach", "escalate", "refer", "operator", "switchboard"),
    _cue(QueryType.CONTACT, 1, "calls?", "calling", "who", "get (?:an?|hold of)"),
    _cue(QueryType.FORM, 2, "consent", "certificate", "print", "sign(?! language)", "register"),
    _cue(QueryType.FORM, 2, "(?:sick|fit|doctor'?s) note"),
    _cue(QueryType.FORM, 1, "requests?", "referral", "notification", f"where (?:do|can|should) {_WE} report"),
    _cue(QueryType.CRITERIA, 2, "when (?:should|can|do|does|must|is|are|to)", "rules? out", "ruled out", "counts? as"),
    _cue(QueryType.CRITERIA, 2, f"can {_WE} (?:rule out|send|discharge)", "qualif(?:y|ies)", "eligible", "safe to"),
    _cue(QueryType.CRITERIA, 2, "(?:who|which patients?) (?:needs?|can|should)", "can (?:they|he|she) go"),
    _cue(QueryType.CRITERIA, 2, "(?:does|do|should) .{1,40} (?:need|get)"),
    _cue(QueryType.CRITERIA, 1, "rules?", "categor(?:y|ies)", "scores?", "screen", "decision"),
    _cue(QueryType.DOSAGE, 2, "infusion rate", "bolus", "how many (?:puffs|tablets|units)"),
    _cue(QueryType.SUMMARY, 3, "hand-?overs?", "hand-?offs?", "sign-?out", "one page"),
    _cue(
        QueryType.SUMMARY, 2, "figures", "statistics", "bulletin", "audit", "template", "what(?:'| i)s new", "lessons"
    ),
    _cue(QueryType.SUMMARY, 2, "(?:this|last|per|the) (?:week|month|quarter|year)", "how (?:did|are) we do(?:ing)?"),
)
"""Cues that are also what the question is about."""

_ASKING = re.compile(
    r"\w*n't|a|about|again|against|am|an|and|another|any|anybody|anyone|are|as|at|be|been|but|by|can|could|did|do|does"
    r"|doing|for|from|get|gets|getting|give|go|goes|going|had|has|have|he|her|him|his|how|i|if|in|into|is|it|its|just"
    r"|know|let|like|list|look|looking|many|me|much|my|need|needs|now|of|off|on|one|or|other|our|out|please|put|say"
    r"|she|should|show|so|some|somebody|someone|such|take|tell|than|that|the|their|them|then|there|these|they|this"
    r"|those|to|today|tomorrow|tonight|too|took|up|us|use|want|wants|was|we|weekends?|were|what|when|where|which|who"
    r"|whom|whose|why|will|with|would|you|your"
)
"""Words that ask, join or say when, and have nothing in them to look for."""
_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def classify(query: str) -> Intent:
    """Decide the type of `query` by the cues in it, and pick the words to look for. Never raises, whatever the text.

    The confidence is the winner's share of all that the cues weigh, and of 1 for the doubt that any word list leaves.
    """
    query = _UNSTORABLE.sub(" ", query)
    asked = " ".join(query.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    weights = dict.fromkeys(QueryType, 0)
    for cue in CARRIERS + HINTS:
        if cue.pattern.search(asked):
            weights[cue.type] += cue.weight
    total = sum(weights.values())
    best = max(weights, key=weights.__getitem__) if total else QueryType.PROTOCOL
    return Intent(query, best, weights[best] / (total + 1), _terms(_without_carriers(asked)) or _terms(asked))


def _without_carriers(text: str) -> str:
    for cue in CARRIERS:
        text = cue.pattern.sub(" ", text)
    return text


def _terms(text: str) -> tuple[str, ...]:
    words = (word[:MAX_TERM_LENGTH] for word in _WORD.findall(text) if _says_something(word))
    return tuple(dict.fromkeys(words))[:MAX_TERMS]


def _says_something(word: str) -> bool:
    """A letter alone, or figures, stand on many pages for many reasons."""
    return len(word) > 1 and any(map(str.isalpha, word)) and not _ASKING.fullmatch(word)
