"""What the benchmarks' figures stand on: counting on the wire, turns, ratios and verdicts."""

import pytest

from benchmarks.aims import AIMS, judge
from benchmarks.measure import Series, Table, interleave, percentile
from benchmarks.svg import bars
from benchmarks.wire import CANCEL_REQUEST, SSL_REQUEST, Wire

SESSION = (8).to_bytes(4) + (196_608).to_bytes(4)


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + (len(body) + 4).to_bytes(4) + body


def request(code: int) -> bytes:
    return (8).to_bytes(4) + code.to_bytes(4)


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.said(SESSION)
    return wire


def test_bind_execute_and_sync_are_one_trip(wire: Wire) -> None:
    wire.said(frame("B", b"x" * 40) + frame("E", b"y") + frame("S"))
    assert wire.trips == 1


def test_a_message_cut_anywhere_counts_once(wire: Wire) -> None:
    query = frame("Q", b"select 1\0")
    for cut in range(1, len(query)):
        before = wire.trips
        wire.said(query[:cut])
        assert wire.trips == before, cut
        wire.said(query[cut:])
        assert wire.trips == before + 1, cut
        wire.answered()


def test_queries_sent_before_an_answer_are_one_trip_and_after_it_another(wire: Wire) -> None:
    wire.said(frame("Q", b"a\0"))
    wire.said(frame("Q", b"b\0"))
    assert wire.trips == 1
    wire.answered()
    wire.said(frame("S"))
    assert wire.trips == 2


def test_a_goodbye_is_no_trip(wire: Wire) -> None:
    wire.said(frame("X"))
    assert wire.trips == 0


def test_asking_for_tls_does_not_start_a_session_and_the_session_after_it_does() -> None:
    wire = Wire()
    wire.said(request(SSL_REQUEST))
    assert not wire.started
    wire.said(SESSION)
    assert wire.started
    assert not wire.cancels


def test_a_cancel_request_is_told_from_a_session() -> None:
    wire = Wire()
    wire.said((16).to_bytes(4) + CANCEL_REQUEST.to_bytes(4) + b"\0" * 8)
    assert wire.cancels
    assert not wire.started


async def test_lines_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def line(name: str, figures: list[float]):
        async def measure() -> float:
            calls.append(name)
            return figures.pop(0)

        return measure

    done = await interleave({"a": line("a", [99, 1, 2]), "b": line("b", [99, 3, 4])}, rounds=2)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert done == {"a": Series((1, 2)), "b": Series((3, 4))}


async def test_a_line_that_fails_is_out_with_its_reason_and_the_others_go_on() -> None:
    async def fails() -> float:
        raise AttributeError("no such thing")

    async def works() -> float:
        return 1.0

    done = await interleave({"fails": fails, "works": works}, rounds=3)
    assert done["works"].values == (1.0, 1.0, 1.0)
    assert done["fails"].values == ()
    assert "no such thing" in done["fails"].note


@pytest.mark.parametrize(("better", "ratio"), [("more", 2.0), ("less", 0.5)])
def test_a_ratio_is_how_many_times_better_whichever_way_is_better(better, ratio) -> None:
    table = Table("t", "t", "", better, "theirs", {"ours": Series((10,)), "theirs": Series((5,))})
    assert table.ratio("ours") == ratio
    assert table.ratio("nobody") is None


@pytest.mark.parametrize(("ours", "met"), [(30, True), (29, False)])
def test_an_aim_is_met_from_its_bound_on(ours: float, met: bool) -> None:
    aim = AIMS[0]
    lines = {aim.line: Series((ours,)), aim.other: Series((10,))}
    (verdict,) = judge([Table(aim.table, "t", "op/s", "more", aim.other, lines)])[:1]
    assert verdict.met is met


def test_an_aim_without_a_figure_is_missed() -> None:
    aim = AIMS[0]
    verdicts = judge([Table(aim.table, "t", "op/s", "more", aim.other, {aim.line: Series((), "not available")})])
    assert {verdict.met for verdict in verdicts} == {False}


def test_the_longest_bar_stays_inside_the_picture_and_what_has_no_figure_is_named() -> None:
    svg = bars(Table("t", "a < b", "op/s", "more", "x", {"x": Series((5, 10)), "y": Series((), "hangs")}))
    assert "a &lt; b" in svg
    assert 'x2="610.0"' in svg
    assert ">no figure<" in svg


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 3), (0.99, 5), (1, 5)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([5, 1, 4, 2, 3], share) == value
