"""What the benchmarks' figures stand on: counting on the wire, turns, ratios, verdicts, pictures."""

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.aims import AIMS, LEAST_TRIPS, WRITING, doubts, judge
from benchmarks.measure import Series, Table, interleave, percentile
from benchmarks.record import commit, processor
from benchmarks.report import counted, unit
from benchmarks.svg import STYLE, WIDTH, bars
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
    assert [sorted(calls[at : at + 2]) for at in (0, 2, 4)] == [["a", "b"]] * 3
    assert done == {"a": Series((1, 2)), "b": Series((3, 4))}


async def test_each_round_has_an_order_and_neighbours_of_its_own_and_the_next_run_has_the_same() -> None:
    async def run() -> list[tuple[str, ...]]:
        calls: list[str] = []

        def line(name: str):
            async def measure() -> float:
                calls.append(name)
                return 1.0

            return measure

        await interleave({name: line(name) for name in "abcdef"}, rounds=5)
        return list(zip(*[iter(calls)] * 6, strict=True))

    rounds = await run()
    assert all(sorted(order) == list("abcdef") for order in rounds)
    before_a = {earlier for order in rounds for earlier, later in pairwise(order) if later == "a"}
    assert len(before_a) > 2
    assert await run() == rounds


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


def sketch(better: str, **values: float) -> str:
    return bars(Table("t", "t", "ms", better, "a", {line: Series((value,)) for line, value in values.items()}))


def test_a_bar_that_would_dwarf_the_others_is_out_of_scale_with_its_figure() -> None:
    svg = sketch("less", loop=2_200, threads=100, pulsepool=50)
    assert ">2,200, not to scale<" in svg
    assert 'width="410.0"' in svg  # of threads: all of the room
    assert 'width="205.0"' in svg


@pytest.mark.parametrize(("better", "longest"), [("less", 500), ("more", 5_000)])
def test_a_bar_that_leaves_room_or_is_long_as_it_is_better_is_to_scale(better: str, longest: float) -> None:
    assert "not to scale" not in sketch(better, a=longest, b=100)


def test_a_bar_beside_nothing_but_zeros_is_to_scale() -> None:
    assert "not to scale" not in sketch("less", a=96, b=0, c=0)


def test_a_long_title_is_wrapped_and_everything_below_it_moves() -> None:
    long = "spike of 50 requests, connects take 150 ms, queries 2 ms: connects, beyond the 5 of the start"
    short_svg, long_svg = (bars(Table("t", title, "", "less", "a", {"a": Series((1,))})) for title in ("spike", long))
    lines = re.findall(r'class="title"[^>]*>([^<]*)<', long_svg)
    assert " ".join(lines) == long
    assert all(len(line) * 8.8 < WIDTH for line in lines)  # 8.8 px: a wide font's average at 15 px, bold
    bar_at = [int(found[1]) for svg in (short_svg, long_svg) if (found := re.search(r'<rect[^>]* y="(\d+)"', svg))]
    assert bar_at[1] == bar_at[0] + 19


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("mode", "page"), [(0, "#ffffff"), (1, "#0d1117")])
def test_the_spread_is_seen_on_every_bar_and_our_bar_on_the_page(mode: int, page: str) -> None:
    bar, ours, stroke = (
        re.findall(rf"\.{name} {{ (?:fill|stroke): (#\w+)", STYLE)[mode] for name in ("bar", "ours", "spread")
    )
    assert contrast(stroke, bar) >= 3  # WCAG 2's least for graphics
    assert contrast(stroke, ours) >= 3
    assert contrast(ours, page) >= 3


@pytest.mark.parametrize(("trips", "doubted"), [(LEAST_TRIPS, False), (LEAST_TRIPS - 1, True)])
def test_a_session_that_writes_in_too_few_round_trips_is_not_believed(trips: float, doubted: bool) -> None:
    lines = {"fine": Series((3, 6)), "ours": Series((6, trips)), "absent": Series((), "hangs")}
    found = doubts(
        [Table(WRITING, "t", "trips", "less", "fine", lines), Table("trips/read", "t", "", "less", "", lines)]
    )
    assert [line.partition(":")[0] for line in found] == ["ours"] * doubted


@pytest.mark.parametrize(("number", "said"), [(1, "1 task"), (0, "0 tasks"), (10_000, "10,000 tasks")])
def test_one_task_is_no_tasks(number: int, said: str) -> None:
    assert counted(number, "task") == said


@pytest.mark.parametrize(("measured_in", "said"), [("op/s", "op/s, more is better"), ("", "more is better")])
def test_a_table_says_which_figures_are_the_better_ones(measured_in: str, said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    table = Table("query/7", "t", measured_in, "more", "a", {"a": Series((1,))})
    assert unit(table) == said
    page.write([table], [], {})
    assert f"| t | {said} |" in (tmp_path / "page.md").read_text()


def test_the_processor_is_the_models_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some: CPU @ 2 GHz\nmodel\t\t: 1\n")
    assert processor(tmp_path / "cpuinfo") == "Some: CPU @ 2 GHz"
    assert processor(tmp_path / "none")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_has_a_plus_when_the_tree_is_dirty_and_is_none_outside_a_checkout(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == ""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.check_output(["git", *identity, *arguments], cwd=tmp_path, text=True).strip()

    git("init", "--quiet")
    assert commit(tmp_path) == ""
    git("commit", "--quiet", "--allow-empty", "--message", "one")
    assert commit(tmp_path) == git("rev-parse", "--short", "HEAD") != ""
    (tmp_path / "new").touch()
    assert commit(tmp_path) == git("rev-parse", "--short", "HEAD") + "+"


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 3), (0.99, 5), (1, 5)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([5, 1, 4, 2, 3], share) == value
