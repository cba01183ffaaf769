"""The pool alone: acquire and release, handing over to a queue, and the shortest query."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from time import perf_counter

from benchmarks.bench import ALL, ASKED, Bench, opened
from benchmarks.measure import Measure, Series, Table, interleave, rate_of
from benchmarks.peers.base import ASYNCPG, PRP27, SIZE, Peer
from benchmarks.peers.drivers import AsyncpgPool, PsycopgPool
from benchmarks.peers.pulse import PulsePool
from benchmarks.report import counted

LENDING = "the pool's own lending, nothing reset"
LOANS = 10
"""Tasks, each with a connection of its own: nobody waits but for what makes it good again."""

LONGEST = 10
"""How many times the usual round one may take; a peer that needs more is left out of this size, as the table says."""

TRIAL = 50
MOST = 100_000
"""Acquires in a round; more would tell nothing new about what takes a microsecond."""


async def acquire(bench: Bench) -> AsyncIterator[Table]:
    """N tasks that acquire and release in a loop; then the same with N of them queued at any time."""
    sizes = (1, 10, 100, 1_000, 10_000) if bench.effort.full else (100,)
    longest = LONGEST * bench.effort.seconds
    async with opened(ALL, bench.url) as peers:
        seconds = {name: await _trial(peer) for name, peer in peers.items()}
        for tasks in sizes:
            lines = {
                name: _churning(peer, tasks, _times(bench, seconds[name], tasks))
                for name, peer in peers.items()
                if seconds[name] * tasks < longest
            }
            done = await interleave(lines, bench.effort.rounds)
            left_out = {name: _left_out(seconds[name] * tasks) for name in peers if name not in lines}
            title = f"{LENDING}, {counted(tasks, 'task')}"
            yield Table(f"acquire/{tasks}", title, "µs", "less", ASYNCPG, done | left_out)
        for waiters in (10, 100, 1_000, 10_000) if bench.effort.full else (10, 10_000):
            lines = {
                name: _queueing(peer, waiters, _times(bench, seconds[name], waiters + _lent(peer)))
                for name, peer in peers.items()
                if seconds[name] * waiters < longest
            }
            done = await interleave(lines, bench.effort.rounds)
            left_out = {name: _left_out(seconds[name] * waiters) for name in peers if name not in lines}
            seconds |= {name: series.median / 1e6 for name, series in done.items() if series.values}
            title = f"{LENDING}, {waiters:,} waiting all the time"
            yield Table(f"waiting/{waiters}", title, "µs", "less", ASYNCPG, done | left_out)


async def loan(bench: Bench) -> AsyncIterator[Table]:
    """A connection lent in public, one row by its key on it, and whatever makes it good for the next caller."""
    async with opened((AsyncpgPool, PsycopgPool, PulsePool), bench.url) as peers:
        lines = {name: rate_of(peer.loan, LOANS, bench.effort.seconds) for name, peer in peers.items()}
        done = await interleave(lines, bench.effort.rounds)
    title = f"a connection lent for one row, {counted(LOANS, 'task')}"
    yield Table(f"loan/{LOANS}", title, "op/s", "more", ASYNCPG, done)


async def query(bench: Bench) -> AsyncIterator[Table]:
    """One row by its key."""
    async with opened(ASKED, bench.url) as peers:
        for tasks in (1, 10, 100) if bench.effort.full else (1, 10):
            lines = {name: rate_of(peer.one, tasks, bench.effort.seconds) for name, peer in peers.items()}
            done = await interleave(lines, bench.effort.rounds)
            yield Table(f"query/{tasks}", f"one-row query, {counted(tasks, 'task')}", "op/s", "more", ASYNCPG, done)


async def _trial(peer: Peer) -> float:
    """Seconds that one acquire and release takes, roughly."""
    started = perf_counter()
    try:
        await peer.churn(TRIAL)
    except Exception:  # noqa: BLE001 - it will fail again where that is reported
        return 1e-6
    return (perf_counter() - started) / TRIAL


def _left_out(seconds: float) -> Series:
    return Series((), f"left out: a round would take {seconds:.0f} s")


def _churning(peer: Peer, tasks: int, times: int) -> Measure:
    async def measure() -> float:
        async with AsyncExitStack() as held:  # none has been idle for so long that a pool asks whether it is alive
            for _ in range(SIZE):
                await held.enter_async_context(peer.hold())
        started = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(peer.churn(times))
        return (perf_counter() - started) / (tasks * times) * 1e6

    return measure


def _times(bench: Bench, seconds: float, tasks: int) -> int:
    """How often each of `tasks` has its turn, so that a round takes about as long as it should."""
    return max(1, int(min(bench.effort.seconds / seconds, MOST) / tasks))


def _lent(peer: Peer) -> int:
    return 30 if peer.name == PRP27 else SIZE  # its overflow has to be gone too


def _queueing(peer: Peer, waiters: int, times: int) -> Measure:
    """All connections are lent when the tasks come; one that was served queues again, so `waiters` wait to the end."""
    lent = _lent(peer)
    tasks = waiters + lent

    async def measure() -> float:
        async with AsyncExitStack() as held:
            for _ in range(lent):
                await held.enter_async_context(peer.hold())
            started = perf_counter()
            under_way = [asyncio.create_task(peer.churn(times)) for _ in range(tasks)]
            await asyncio.sleep(0)
        await asyncio.gather(*under_way)
        return (perf_counter() - started) / (tasks * times) * 1e6

    return measure
