"""What goes wrong every day: a burst on slow connects, callers who leave, a neighbour who takes everything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter

from benchmarks.bench import POOLS, Bench, opened
from benchmarks.measure import Several, Table, interleave_several, percentile
from benchmarks.peers.base import ASYNCPG, PRP27, PULSEPOOL, SESSION, SIZE, SQLALCHEMY, Peer
from benchmarks.peers.pulse import PulsePool
from benchmarks.proxy import Proxy, proxied

BURST, CONNECTING, QUERYING = 50, 0.150, 0.002
"""Requests at once, seconds for a connect and for a query: HikariCP's spike, with its 5 connections to start with."""
LEAST = 5

SETTLED = 0.4
"""Seconds after which every connect that was under way has come through."""


async def spike(bench: Bench) -> AsyncIterator[Table]:
    """50 requests at once where connects are slow and queries are not."""
    async with proxied(bench.server.port) as proxy:
        url = bench.through(proxy)
        lines = {kind.name: _bursting(kind, url, proxy) for kind in POOLS}
        kept, made, times = await interleave_several(lines, bench.effort.fewer, figures=3)
    title = f"spike of {BURST} requests, connects take {CONNECTING * 1e3:.0f} ms, queries {QUERYING * 1e3:.0f} ms:"
    yield Table("spike/connections", f"{title} connections at the end", "", "less", ASYNCPG, kept)
    yield Table("spike/opened", f"{title} connects, beyond the {LEAST} of the start", "", "less", ASYNCPG, made)
    yield Table("spike/time", f"{title} until the last is served", "ms", "less", ASYNCPG, times)


def _bursting(kind: type[Peer], url: str, proxy: Proxy) -> Several:
    async def measure() -> tuple[float, float, float]:
        await proxy.slow()
        async with kind(url, BURST, LEAST) as peer:
            await peer.nap(QUERYING)
            await proxy.slow(connect_delay=CONNECTING)
            before = await proxy.counts()
            started = perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(BURST):
                    group.create_task(peer.nap(QUERYING))
            took = (perf_counter() - started) * 1e3
            await asyncio.sleep(SETTLED)
            after = await proxy.counts()
            await proxy.slow()
        return after.open, after.connects - before.connects, took

    return measure


CANCELS = 100
LONG, SOON = 10.0, 0.01
"""Seconds: what a query would take, and when its caller leaves."""


async def cancel(bench: Bench) -> AsyncIterator[Table]:
    """Callers who leave in the midst of a query: what it costs in connections, and how soon the next one is served."""
    async with proxied(bench.server.port) as proxy:
        url = bench.through(proxy)
        async with opened(POOLS[:-1], url) as peers, PulsePool(url) as ours:
            lines = {name: _storm(peer.nap, peer, proxy) for name, peer in peers.items()}
            lines[PULSEPOOL] = _storm(ours.nap, ours, proxy)
            lines[SESSION] = _storm(ours.nap_in_session, ours, proxy)
            lost, waits = await interleave_several(lines, bench.effort.fewer, figures=2)
    title = f"{CANCELS} queries cancelled midway, {SIZE} at a time:"
    yield Table("cancel/reconnects", f"{title} reconnects a hundred", "", "less", SQLALCHEMY, lost)
    yield Table("cancel/next", f"{title} the next query takes (median)", "ms", "less", SQLALCHEMY, waits)


def _storm(nap: Callable[[float], Awaitable[None]], peer: Peer, proxy: Proxy) -> Several:
    async def one_leaves(waits: list[float]) -> None:
        task = asyncio.ensure_future(nap(LONG))
        await asyncio.sleep(SOON)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        started = perf_counter()
        await peer.one()
        waits.append((perf_counter() - started) * 1e3)

    async def measure() -> tuple[float, float]:
        await peer.one()
        before = await proxy.counts()
        waits: list[float] = []

        async def some_leave() -> None:
            for _ in range(CANCELS // SIZE):
                await one_leaves(waits)

        async with asyncio.TaskGroup() as group:
            for _ in range(SIZE):
                group.create_task(some_leave())
        await asyncio.sleep(SETTLED)
        reconnects = (await proxy.counts()).connects - before.connects
        return reconnects / CANCELS * 100, percentile(waits, 0.5)

    return measure


HOGS = 100
BETWEEN = 0.005


async def hog(bench: Bench) -> AsyncIterator[Table]:
    """A light user, one request at a time, beside one who always has more requests than there are connections."""
    async with opened(POOLS, bench.url) as peers:
        lines = {name: _light(peer, bench) for name, peer in peers.items()}
        half, tails = await interleave_several(lines, bench.effort.fewer, figures=2)
    title = f"a light user beside {HOGS} requests that never end,"
    yield Table("hog/p50", f"{title} median", "ms", "less", PRP27, half)
    yield Table("hog/p99", f"{title} p99", "ms", "less", PRP27, tails)


def _light(peer: Peer, bench: Bench) -> Several:
    async def measure() -> tuple[float, float]:
        waits: list[float] = []
        ends = perf_counter() + 4 * bench.effort.seconds

        async def heavy() -> None:
            while perf_counter() < ends:
                await peer.nap(QUERYING)

        async with asyncio.TaskGroup() as group:
            for _ in range(HOGS):
                group.create_task(heavy())
            while (started := perf_counter()) < ends:
                await peer.one()
                waits.append((perf_counter() - started) * 1e3)
                await asyncio.sleep(BETWEEN)
        return percentile(waits, 0.5), percentile(waits, 0.99)

    return measure
