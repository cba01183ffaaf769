"""The server is killed with -9 under load, and comes back."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import perf_counter

import asyncpg
import psycopg
from psycopg_pool import PoolTimeout as PsycopgPoolTimeout
from sqlalchemy.exc import SQLAlchemyError

from benchmarks import data
from benchmarks.bench import DATABASE, POOLS, Bench, own_server
from benchmarks.measure import Series, Table, describe, percentile
from benchmarks.peers.base import ASYNCPG, PRP27, PSYCOPG, PULSEPOOL, SQLALCHEMY, Peer
from pulsepool import PulsePoolError
from pulsepool.embedded import EmbeddedPostgres

TASKS = 20
BEFORE, DOWN, AFTER = 1.0, 0.5, 4.0
"""Seconds of load before the kill, of the server being away, and after it accepts again."""
BIN = 0.05
RETRY = 0.01
"""Seconds that a caller waits after a failure."""
FULL_SPEED = 0.7
"""Share of the speed before (the median of its bins) that counts as all of it, three bins in a row."""
HANGS = 10.0

TYPED: dict[str, tuple[type[Exception], ...]] = {
    ASYNCPG: (asyncpg.PostgresError, asyncpg.InterfaceError),
    PSYCOPG: (psycopg.Error, PsycopgPoolTimeout),
    SQLALCHEMY: (SQLAlchemyError,),
    PRP27: (SQLAlchemyError,),
    PULSEPOOL: (PulsePoolError,),
}
"""What each has as the base of its errors; whatever else comes out, an `except` for its errors would miss."""


@dataclass
class Log:
    """What the callers saw: when they were served, and how they were not; `over` ends them."""

    served: list[float] = field(default_factory=list)
    over: bool = False
    typed: int = 0
    untyped: Counter[str] = field(default_factory=Counter)


async def outage(_: Bench) -> AsyncIterator[Table]:
    """Failures, typed or not; the time to the first success and to full speed, from when the server accepts again."""
    titles = {
        "first": ("until the first success", "ms"),
        "full": (f"until full speed, one round in bins of {BIN * 1e3:.0f} ms", "ms"),
        "typed": ("typed failures", ""),
        "untyped": ("untyped failures", ""),
    }
    found: dict[str, dict[str, Series]] = {name: {} for name in titles}
    with own_server() as server:
        await data.create(server.url(DATABASE))
        for kind in POOLS:
            figures = await _survive(kind, server)
            for name in titles:
                found[name][kind.name] = figures[name]
    for name, (title, unit) in titles.items():
        yield Table(f"outage/{name}", f"server killed and restarted: {title}", unit, "less", ASYNCPG, found[name])


async def _survive(kind: type[Peer], server: EmbeddedPostgres) -> dict[str, Series]:
    log = Log()
    peer = kind(server.url(DATABASE))
    try:
        await peer.open()
        await peer.one()
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
        with contextlib.suppress(Exception):
            await peer.close()
        return dict.fromkeys(("first", "full", "typed", "untyped"), Series((), describe(error)))
    callers = [asyncio.create_task(_call(peer, log)) for _ in range(TASKS)]
    started = perf_counter()
    await asyncio.sleep(BEFORE)
    killed = perf_counter()
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(DOWN)
    await asyncio.to_thread(server.start)
    accepts = perf_counter()
    await asyncio.sleep(AFTER)
    log.over = True
    _, hang = await asyncio.wait(callers, timeout=HANGS)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(peer.close(), HANGS)
    notes = [f"{count} {name}" for name, count in log.untyped.most_common(3)]
    notes += [f"{len(hang)} callers hang"] * bool(hang)
    return {
        "first": _first(log, accepts),
        "full": _full(log, started, killed, accepts),
        "typed": Series((log.typed,)),
        "untyped": Series((log.untyped.total(),), ", ".join(notes)),
    }


async def _call(peer: Peer, log: Log) -> None:
    while not log.over:
        try:
            await peer.one()
        except TYPED[peer.name]:
            log.typed += 1
            await asyncio.sleep(RETRY)
        except Exception as error:  # noqa: BLE001 - counted by name
            log.untyped[type(error).__name__] += 1
            await asyncio.sleep(RETRY)
        else:
            log.served.append(perf_counter())


def _first(log: Log, accepts: float) -> Series:
    after = [moment for moment in log.served if moment > accepts]
    return Series(((after[0] - accepts) * 1e3,)) if after else Series((), f"none within {AFTER:g} s")


def _full(log: Log, started: float, killed: float, accepts: float) -> Series:
    bins = Counter(int((moment - accepts) // BIN) for moment in log.served)
    warm, end = int((started + BEFORE / 4 - accepts) // BIN), int((killed - accepts) // BIN)
    before = percentile([bins[index] for index in range(warm, end)], 0.5)
    for index in range(int(AFTER / BIN) - 3):
        if all(bins[index + later] >= FULL_SPEED * before for later in range(3)):
            return Series(((index + 1) * BIN * 1e3,))
    return Series((), f"not within {AFTER:g} s")
