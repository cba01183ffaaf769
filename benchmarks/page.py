"""`docs/benchmarks.md` and its pictures, from one whole run."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import svg
from benchmarks.aims import Verdict
from benchmarks.measure import Table
from benchmarks.proxy import ROOT
from benchmarks.report import rows, unit
from benchmarks.scenarios.outage import BIN

PAGE = ROOT / "docs/benchmarks.md"

GROUPS = {
    "The pool and the shortest query": ("acquire/", "waiting/", "loan/", "query/"),
    "SQLAlchemy: sessions and Core": ("session/", "core/"),
    "Round trips, counted on the wire": ("trips/",),
    "On a network": ("delay ",),
    "HTTP": ("http/",),
    "A spike on slow connects": ("spike/",),
    "Callers who leave": ("cancel/",),
    "A greedy neighbour": ("hog/",),
    "The server is killed, and comes back": ("outage/",),
    "Memory": ("memory/",),
    "EDBotv8: the promises of PRP-27": ("edbot/",),
}

PICTURES = (
    ("query/10", "query"),
    ("acquire/100", "acquire"),
    ("waiting/10000", "waiting"),
    ("loan/10", "loan"),
    ("session/read", "session"),
    ("core/10", "core"),
    ("trips/query", "trips"),
    ("delay 1/read", "network"),
    ("http/rate", "http"),
    ("http/p99", "http-p99"),
    ("spike/opened", "spike"),
    ("cancel/reconnects", "cancel"),
    ("hog/p99", "hog"),
    ("outage/full", "outage"),
)

INTRODUCTION = """\
# Benchmarks

Written by `make bench`, which measures all of it anew. All peers are measured in one run and in turns, in an order that
is shuffled for each round (with a fixed seed, so each run has the same orders); a first round does not count. A figure
is the median of the rounds, the spread their least and most, and the ratio tells how many times better than the named
peer it is. Machines differ, and a machine that has other work moves the figures; the ratios move less.

Everybody has uvloop, the same statement on the same table, and 10 connections: *bare asyncpg* is ten connections in a
deque with a queue, asked by their public methods; *asyncpg.Pool*; *psycopg_pool* in autocommit; *SQLAlchemy* with its
default pool and no overflow; *PRP-27* with the engine and the session that it prescribes (10 connections, 20 of
overflow, pre-ping). PRP-27 is the requirements document of the service in this repository. *pulsepool* is the direct
lane, or the session that is named. The server does not wait for its disk.

For a statement in asyncpg's cache the direct lane calls asyncpg's `bind_execute`, which is not public and which the
public methods reach through several coroutines more; so the lane may be faster than *bare asyncpg*. *bare asyncpg,
bind_execute* is the same call without a pool. Where one query is measured, two peers are there as most have them and as
fast as their public settings make them: *asyncpg.Pool, no reset* leaves a connection as its caller left it, and
*SQLAlchemy, autocommit* has no transactions.
"""

NOTES = {
    "The pool and the shortest query": """\
Through a unix socket. *The pool's own lending* is acquire and release with nothing in between. With pulsepool that is
what the direct lane and the sessions use inside, and it resets nothing, as they know what they have done; asyncpg.Pool
and SQLAlchemy reset whatever comes back. *N tasks* do so in a loop and hold nothing, so that only those two make each
other wait; *N waiting* starts with all connections lent, and who was served queues again. *A connection lent* is like
for like: `async with db.connection()`, `pool.acquire()` of asyncpg.Pool and `pool.connection()` of psycopg_pool, each
with one row fetched inside. asyncpg.Pool resets the session after that while its caller waits, psycopg_pool only ends a
transaction, and pulsepool resets more of the session than asyncpg.Pool, when its caller has left; but here as many ask
as there are connections, so the next caller waits for it.
""",
    "On a network": """\
A proxy in a process of its own holds every packet back, half of the delay in each direction. It takes part of the
machine's time, most of all at 0.2 ms.
""",
    "HTTP": """\
One uvicorn worker (uvloop, httptools) in a process of its own for each, asked by keep-alive clients in another. *Sync
on the loop* is a synchronous session in `async def`: it deadlocks, as those who hold a connection need the event loop
that those who wait for one have stopped; its p99 is how long was waited.
""",
    "A spike on slow connects": "HikariCP's case: 5 connections to start with, 50 allowed.\n",
    "A greedy neighbour": """\
Every query of the neighbour's takes 2 ms, so a fair turn comes after some 20 ms; sooner with PRP-27's overflow, which
gives it 30 connections.
""",
    "The server is killed, and comes back": f"""\
SIGKILL to all of it under 20 callers, half a second of nothing, and a start; time counts from when it accepts again.
One round; what was served is counted in bins of {BIN * 1e3:.0f} ms. A failure is typed when the peer's own base class
catches it.
""",
}


def write(tables: Sequence[Table], verdicts: Sequence[Verdict], machine: dict[str, str]) -> Path:
    """Write page and pictures; gives the page's path, from the repository's root."""
    pictures = {}
    by_name = {table.name: table for table in tables}
    for name, picture in PICTURES:
        if table := by_name.get(name):
            path = ROOT / f"docs/images/bench-{picture}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(svg.bars(table))
            pictures[name] = f"![{table.title}](images/{path.name})\n"
    parts = [INTRODUCTION, ", ".join(f"{name} {version}" for name, version in machine.items()) + ".\n", _aims(verdicts)]
    for title, prefixes in GROUPS.items():
        group = [table for table in tables if table.name.startswith(prefixes)]
        if group:
            parts += [f"## {title}\n", *([NOTES[title]] if title in NOTES else [])]
            parts += [pictures[table.name] for table in group if table.name in pictures]
            parts += [_table(table) for table in group]
    PAGE.write_text("\n".join(parts))
    return PAGE.relative_to(ROOT)


def _aims(verdicts: Sequence[Verdict]) -> str:
    lines = ["| aim | measured | |", "|---|---:|---|", *(f"| {' | '.join(verdict.cells())} |" for verdict in verdicts)]
    reasons = [f"- *{verdict.aim}*: {verdict.measured}. {verdict.obstacle}" for verdict in verdicts if verdict.obstacle]
    missed = ["", "What stands in the way of those that were missed:", "", *reasons] if reasons else []
    return "## Aims\n\n" + "\n".join([*lines, *missed]) + "\n"


def _table(table: Table) -> str:
    head = f"| {table.title} | {unit(table)} | least – most | beside {table.baseline} |"  # noqa: RUF001 - from to
    lines = [head, "|---|---:|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows(table))]
    notes = [f"{line}: {series.note}." for line, series in table.lines.items() if series.note]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)
