"""What a run is held against: the aims, each a figure of one table, and PRP-27's own claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.measure import Table
from benchmarks.peers.base import ASYNCPG, BARE, PRP27, PSYCOPG, PULSEPOOL, READ, SESSION, SQLALCHEMY
from benchmarks.report import figure

HEAD = ("aim", "measured", "")

THE_DRIVER_ITSELF = """\
The bare driver itself, by its public methods, is less than seven times as fast as psycopg_pool. A lane on it can save
some of the Python in between, but nothing of what the driver's core and the socket take."""
THE_SESSION_ITSELF = """\
An AsyncSession takes some 150 µs of SQLAlchemy's own for one statement: the session, its transaction, the greenlet,
the result. On a pool that does nothing but append and pop, with nothing to reset, it comes to 2.4 times PRP-27's."""
THE_STATEMENT_ITSELF = """\
The update is built and compiled through SQLAlchemy's cache by everybody alike, which is more than half of the time;
what is left of PRP-27's six round trips is three."""
THE_PROXY = """\
The proxy takes its turns on the same two cores, and a session's own time does not shrink with the round trips."""
THE_PROCESSOR = """\
Ten tasks that write are held up by the two cores, which the proxy shares, before they are by 1 ms of network."""
THE_SEARCH_ITSELF = """\
The answer to a question is searched for in Python, and that is the same code on both sides; only its audit row and the
documents come from the database."""
FASTAPI_ITSELF = "FastAPI and uvicorn take about 85 µs of each request, whatever comes after."
FASTAPI_AND_THE_SESSION = """\
Both carry FastAPI's 85 µs, its 40 µs for a dependency that ends before the response, and the 150 µs of an AsyncSession;
what differs are three round trips."""
NO_FASTER_THAN_THE_MEAN = """\
32 clients who ask as fast as they can wait for 32 divided by the rate on average; a fifth of PRP-27's p99 is less than
that. Its overflow does not hurt it on a socket, where a connection is opened within 5 ms."""


@dataclass(frozen=True, slots=True)
class Aim:
    """`line` is at least, or at most, `bound` times as good as `other`; where there is no `other`, as many.

    `obstacle`: what stands in the way, said when it is missed.
    """

    text: str
    table: str
    line: str
    sign: Literal["≥", "≤"]
    bound: float
    other: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim, what was measured, whether that is enough, and if not, what stands in the way, where that is known."""

    aim: str
    measured: str
    met: bool
    obstacle: str = ""

    def cells(self) -> tuple[str, str, str]:
        """One row of a table."""
        return self.aim, self.measured, "met" if self.met else "missed"


AIMS = (
    Aim("direct lane beside asyncpg.Pool", "query/10", PULSEPOOL, "≥", 3, ASYNCPG),
    Aim("direct lane beside psycopg_pool", "query/10", PULSEPOOL, "≥", 7, PSYCOPG, THE_DRIVER_ITSELF),
    Aim("direct lane beside the bare driver", "query/10", PULSEPOOL, "≥", 0.9, BARE),
    Aim("the pool's own lending beside asyncpg.Pool's, 100 tasks", "acquire/100", PULSEPOOL, "≥", 20, ASYNCPG),
    Aim("read() beside PRP-27's session, on a socket", "session/read", READ, "≥", 2.4, PRP27, THE_SESSION_ITSELF),
    Aim(
        "session() beside PRP-27's session, reading, on a socket",
        *("session/read", SESSION, "≥", 1.5, PRP27),
        obstacle=THE_SESSION_ITSELF,
    ),
    Aim(
        "session() beside PRP-27's session, writing, on a socket",
        *("session/write", SESSION, "≥", 1.5, PRP27),
        obstacle=THE_STATEMENT_ITSELF,
    ),
    Aim("read() beside PRP-27's session, 1 ms of network", "delay 1/read", READ, "≥", 4, PRP27, THE_PROXY),
    Aim("session() beside PRP-27's session, reading, 1 ms of network", "delay 1/read", SESSION, "≥", 1.8, PRP27),
    Aim(
        "session() beside PRP-27's session, writing, 1 ms of network",
        *("delay 1/write", SESSION, "≥", 1.8, PRP27),
        obstacle=THE_PROCESSOR,
    ),
    Aim("Core select on the direct lane beside AsyncSession", "core/1", PULSEPOOL, "≥", 3, SQLALCHEMY),
    Aim("HTTP: direct lane beside asyncpg.Pool", "http/rate", PULSEPOOL, "≥", 1.4, ASYNCPG, FASTAPI_ITSELF),
    Aim("HTTP: direct lane beside PRP-27", "http/rate", PULSEPOOL, "≥", 5, PRP27),
    Aim("HTTP: SessionDep beside PRP-27", "http/rate", SESSION, "≥", 1.7, PRP27, FASTAPI_AND_THE_SESSION),
    Aim("HTTP: p99 of SessionDep beside PRP-27", "http/p99", SESSION, "≥", 5, PRP27, NO_FASTER_THAN_THE_MEAN),
    Aim("reconnects for a hundred cancels, direct lane", "cancel/reconnects", PULSEPOOL, "≤", 0),
    Aim("reconnects for a hundred cancels, AsyncSession", "cancel/reconnects", SESSION, "≤", 0),
    Aim("connections at the end of a spike", "spike/connections", PULSEPOOL, "≤", 6),
    Aim("untyped failures while the server is away", "outage/untyped", PULSEPOOL, "≤", 0),
    Aim("ms until full speed after the server is back", "outage/full", PULSEPOOL, "≤", 1_000),
    Aim("PRP-27's claim: 30 % faster responses, one document", "edbot/document/time", "async", "≥", 1.3, "sync twin"),
    Aim(
        "PRP-27's claim: 30 % faster responses, one question",
        *("edbot/query/time", "async", "≥", 1.3, "sync twin"),
        obstacle=THE_SEARCH_ITSELF,
    ),
    Aim("PRP-27's claim: 3 times the requests, one document", "edbot/document/200", "async", "≥", 3, "sync twin"),
    Aim(
        "PRP-27's claim: 3 times the requests, one question",
        *("edbot/query/200", "async", "≥", 3, "sync twin"),
        obstacle=THE_SEARCH_ITSELF,
    ),
)

WRITING = "trips/write"
LEAST_TRIPS = 3
"""BEGIN, the statement, COMMIT: each has to be answered before the next is sent, by whatever sends them."""

FLAT = ("waiting/10", "waiting/10000")
FLAT_WITHIN = 1.5
"""Times; caches and the garbage collector see ten thousand waiting tasks too, whoever made them wait."""


def judge(tables: Sequence[Table]) -> list[Verdict]:
    """Every aim whose table was measured."""
    by_name = {table.name: table for table in tables}
    verdicts = [_judge(aim, by_name[aim.table]) for aim in AIMS if aim.table in by_name]
    if by_name.keys() >= set(FLAT):
        verdicts.append(_flat(*(by_name[name] for name in FLAT)))
    return verdicts


def doubts(tables: Sequence[Table]) -> list[str]:
    """What was measured and cannot be, a sentence each: then the counting is wrong, or what was counted."""
    return [
        f"{line}: the round trips of a session that writes come to {figure(series.low)}, where BEGIN, its "
        f"statement and COMMIT take {LEAST_TRIPS} at least"
        for table in tables
        if table.name == WRITING
        for line, series in table.lines.items()
        if series.values and series.low < LEAST_TRIPS
    ]


def _judge(aim: Aim, table: Table) -> Verdict:
    series = table.lines.get(aim.line)
    times = "×" if aim.other else ""  # noqa: RUF001 - times
    value = table.ratio(aim.line, aim.other) if aim.other else (series.median if series and series.values else None)
    text = f"{aim.text}: {aim.sign} {aim.bound:g}{times}"
    if value is None:
        return Verdict(text, "no figure", met=False)
    met = value >= aim.bound if aim.sign == "≥" else value <= aim.bound
    return Verdict(text, f"{figure(value)}{times}", met, "" if met else aim.obstacle)


def _flat(few: Table, many: Table) -> Verdict:
    text = f"the pool's own lending, 10,000 waiting beside 10 waiting: ≤ {FLAT_WITHIN:g}×"  # noqa: RUF001 - times
    first, last = few.lines.get(PULSEPOOL), many.lines.get(PULSEPOOL)
    if first is None or last is None or not first.values or not last.values:
        return Verdict(text, "no figure", met=False)
    times = last.median / first.median
    return Verdict(text, f"{figure(times)}×", times <= FLAT_WITHIN)  # noqa: RUF001 - times
