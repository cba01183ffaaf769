"""The lane, sessions and readers together on a bad day: the server is killed under load; callers leave in crowds."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import asyncpg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from pulsepool import Database, PulsePoolError

TASKS = 50
STORM, GUST = 3_000, 600
"""Requests of a cancel storm, and of a smaller one."""

DICE = random.Random(1)  # noqa: S311 - who leaves when is no secret


@dataclass
class Log:
    """What the callers saw: when each was served, and how they were not."""

    served: list[tuple[float, int]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    over: bool = False

    def since(self, begins: float, ends: float = float("inf")) -> list[int]:
        """Who was served from `begins` to `ends`."""
        return [caller for moment, caller in self.served if begins <= moment < ends]


async def ask(db: Database, caller: int) -> None:
    match caller % 6:
        case 0:
            await db.fetch("select n from numbers where n = $1", caller)
        case 1:
            await db.execute("insert into asked values ($1)", caller)
        case 2:
            await db.fetchval(select(func.count()).select_from(text("numbers")))
        case 3:
            async with db.session() as s:
                await s.execute(text("insert into asked values (:caller)"), {"caller": caller})
        case 4:
            async with db.read() as s:
                await s.scalar(text("select count(*) from numbers"))
        case _:
            async with db.connection() as c, c.transaction():
                await c.fetchval("select n from numbers where n = $1", caller)


async def keep_asking(db: Database, caller: int, log: Log) -> None:
    """Ask again and again. An error that is of no documented kind ends it, and so the test."""
    while not log.over:
        started = time.monotonic()
        try:
            await ask(db, caller)
        except (PulsePoolError, asyncpg.PostgresError, DBAPIError) as error:
            log.failed[type(error).__name__] += 1
            await asyncio.sleep(0.005)
        else:
            log.served.append((time.monotonic(), caller))
        log.slowest = max(log.slowest, time.monotonic() - started)


async def accepting(url: str) -> float:
    """Return the moment at which the server lets somebody in again."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                connection = await asyncpg.connect(url, timeout=1)
                moment = time.monotonic()
                await connection.close()
                return moment
            await asyncio.sleep(0.005)


async def test_a_server_that_is_killed_under_load_is_back_at_full_speed_a_second_after_it_accepts(own_server):
    own_server.create_database("load")
    url = own_server.url("load")
    async with Database(url, max_size=8, acquire_timeout=2) as db:
        await db.execute("create table numbers as select n from generate_series(1, 100) n; create table asked (n int)")
        log = Log()
        callers = [asyncio.create_task(keep_asking(db, caller, log)) for caller in range(TASKS)]
        await asyncio.sleep(1.5)
        killed = time.monotonic()
        before = len(log.since(killed - 1, killed))
        assert not log.failed
        await asyncio.to_thread(own_server.kill)
        down = time.monotonic()
        starting = asyncio.create_task(asyncio.to_thread(own_server.start))
        accepts = await accepting(url)
        await starting
        await asyncio.sleep(max(0.0, accepts + 2.5 - time.monotonic()))
        log.over = True
        async with asyncio.timeout(10):
            await asyncio.gather(*callers)
        first = min(moment for moment, _ in log.served if moment > down) - accepts
        after = len(log.since(accepts + 1, accepts + 2))
        print(
            f"{before} a second before, {after} after; first after {first:.3f} s; slowest {log.slowest:.3f} s;",
            log.failed,
        )
        assert log.failed, "nobody noticed that the server was killed"
        assert set(log.failed) <= {"DatabaseUnavailable", "CommitUnknown", "PoolTimeout"}
        assert first < 1
        assert set(log.since(accepts, accepts + 1)) == set(range(TASKS)), "some were not served within a second"
        assert after > before / 2
        assert log.slowest < 4
        stats = db.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)


async def lane(db: Database) -> None:
    await db.fetch("select pg_sleep($1)", 5)


async def statement(db: Database) -> None:
    await db.fetch(select(func.pg_sleep(5)))


async def raw(db: Database) -> None:
    async with db.connection() as c:
        await c.execute("begin; select pg_sleep(5)")


async def stream(db: Database) -> None:
    async for _ in db.stream("select n, pg_sleep(0.01) from generate_series(1, 500) n", batch=1):
        pass


async def session(db: Database) -> None:
    async with db.session() as s:
        await s.execute(text("insert into asked values (1)"))
        await s.execute(text("select pg_sleep(5)"))


async def read(db: Database) -> None:
    async with db.read() as s:
        await s.execute(text("select pg_sleep(5)"))


async def everything(db: Database) -> None:
    await DICE.choice([lane, statement, raw, stream, session, read])(db)


@pytest.mark.parametrize(
    ("way", "requests"),
    [
        (lane, STORM),
        (session, STORM),
        (everything, STORM),
        (statement, GUST),
        (raw, GUST),
        (stream, GUST),
        (read, GUST),
    ],
)
async def test_a_storm_of_cancelled_requests_costs_no_connection_and_server_and_pool_agree(pg_url, way, requests):
    size, at_once = 10, 20
    async with Database(pg_url, max_size=size, acquire_timeout=30) as db:
        await db.execute("create table asked (n int)")
        async with contextlib.AsyncExitStack() as held:
            for _ in range(size):
                await held.enter_async_context(db.connection())
        pids = await backends(db)
        connects = db.stats().counters.connects
        assert (len(pids), connects) == (size, size)
        turns = asyncio.Semaphore(at_once)

        async def one_leaves() -> None:
            async with turns:
                task = asyncio.create_task(way(db))
                await asyncio.sleep(DICE.uniform(0, 0.03))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        async with asyncio.timeout(50):
            await asyncio.gather(*(one_leaves() for _ in range(requests)))
        async with asyncio.timeout(10):
            while db.stats().kept:
                await asyncio.sleep(0.01)
        stats = db.stats()
        lent = sum(stats.counters.use_time.counts)
        print(f"{requests} left, {lent} had a connection, {stats.counters.restored} were mended")
        assert (stats.size, stats.idle, stats.in_use, stats.waiting) == (size, size, 0, 0)
        assert (stats.counters.connects, stats.counters.lost, stats.counters.retired) == (connects, 0, 0)
        assert requests * 0.9 > lent > requests / 4, "hardly anybody left in the queue, or in a statement"
        assert await backends(db) == pids
        busy = "select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle'"
        assert await db.fetchval(busy) == 1, "the server still works for somebody who left"
        assert await db.fetchval("select count(*) from asked") == 0


async def backends(db: Database) -> set[int]:
    asked = "select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'"
    return {row["pid"] for row in await db.fetch(asked)}
