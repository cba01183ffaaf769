"""What a network adds: round trips, counted on the wire, and the same queries with a delay."""

import asyncio
from collections.abc import AsyncIterator

from benchmarks.aims import WRITING
from benchmarks.bench import ALL, ASKED, Bench, opened
from benchmarks.measure import Measure, Operation, Table, interleave, rate_of
from benchmarks.peers.base import ASYNCPG, PRP27
from benchmarks.proxy import Proxy, proxied
from benchmarks.scenarios.sessions import TASKS, sessions

TIMES = 100
"""Operations in a round; enough to have each of the connections prepare its statement while nobody counts."""
ROUNDS = 2
"""Counting is exact, so the second is there to show that."""
SETTLING = 0.02
"""Seconds after which nothing of what a peer does behind its caller's back is still to come."""


async def trips(bench: Bench) -> AsyncIterator[Table]:
    """Round trips for each operation, exact, by a peer that is warm."""
    async with proxied(bench.server.port) as proxy:
        url = bench.through(proxy)
        async with opened(ASKED, url) as peers, sessions(url) as sessionful:
            queries: dict[str, Operation] = {name: peer.one for name, peer in peers.items()}
            for name, title, baseline, lines in (
                ("trips/query", "round trips, one-row query", ASYNCPG, queries),
                ("trips/read", "round trips, session that reads", PRP27, sessionful.reads()),
                (WRITING, "round trips, session that writes", PRP27, sessionful.writes()),
            ):
                measures = {line: _counting(operation, proxy) for line, operation in lines.items()}
                done = await interleave(measures, ROUNDS)
                yield Table(name, title, "trips", "less", baseline, done)


def _counting(operation: Operation, proxy: Proxy) -> Measure:
    async def measure() -> float:
        await operation()  # a pool may ask whether a connection is alive that has been idle through the others' turns
        before = await proxy.counts()
        for _ in range(TIMES):
            await operation()
        await asyncio.sleep(SETTLING)
        return ((await proxy.counts()).trips - before.trips) / TIMES

    return measure


async def delay(bench: Bench) -> AsyncIterator[Table]:
    """Queries and sessions on a network with a delay."""
    effort = bench.effort
    async with proxied(bench.server.port) as proxy:
        url = bench.through(proxy)
        async with opened(ALL, url) as peers, sessions(url) as sessionful:
            queries: dict[str, Operation] = {name: peer.one for name, peer in peers.items()}
            for milliseconds in (0.2, 1, 5) if effort.full else (1,):
                await proxy.slow(delay=milliseconds / 1e3)
                for name, title, baseline, lines in (
                    ("query", "one-row query", ASYNCPG, queries),
                    ("read", "session that reads", PRP27, sessionful.reads()),
                    ("write", "session that writes", PRP27, sessionful.writes()),
                ):
                    measures = {line: rate_of(each, TASKS, effort.seconds) for line, each in lines.items()}
                    done = await interleave(measures, effort.fewer)
                    where = f"{title}, {TASKS} tasks, {milliseconds:g} ms of network"
                    yield Table(f"delay {milliseconds:g}/{name}", where, "op/s", "more", baseline, done)
            await proxy.slow()
