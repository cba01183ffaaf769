"""The pool and its gate on a real server: which connection is lent, to whom, and who is turned away."""

import asyncio
import contextlib
import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from pulsepool import Database, Dsn, PoolClosed, PoolTimeout
from tests.planted import PLANTED

PID = text("select pg_backend_pid()")


@contextlib.asynccontextmanager
async def until(limit: float = 5):
    """The block within `limit` seconds; then a moment for whoever else is to run."""
    async with asyncio.timeout(limit):
        yield
    await asyncio.sleep(0)


async def lend(db: Database) -> int:
    async with db.async_engine.connect() as c:
        return await c.scalar(PID)


class BlockedConnects:
    """A password callable that answers when it is let go: until then a connect is under way."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.asked.set()
        assert self.released.wait(5), "the connect was held for longer than a test may take"
        return PLANTED

    async def under_way(self) -> None:
        async with until():
            while not self.asked.is_set():
                await asyncio.sleep(0.002)


@pytest.fixture
def connects(pg_url):
    return BlockedConnects()


@pytest.fixture
def slow(pg_url, connects):
    """A database with one connection, which takes until `connects` is let go."""
    dsn = Dsn.parse(pg_url).replace(password=None)
    return Database(dsn, password=connects, max_size=1, max_waiting=1)


async def test_the_connection_that_came_home_last_is_lent_first(pg_url):
    async with Database(pg_url) as db:
        async with db.async_engine.connect() as last, db.async_engine.connect() as first:
            pids = [await c.scalar(PID) for c in (last, first)]
        assert await lend(db) == pids[0]


async def test_a_connection_past_its_lifetime_is_replaced_and_a_younger_one_is_not(pg_url):
    async with Database(pg_url, max_lifetime=60) as db, Database(pg_url, max_lifetime=None) as ageless:

        async def after(db: Database, seconds: float) -> int:
            """The connection that is lent after so many seconds, and a look of the keeper's."""
            (slot,) = db.pool.slots
            slot.born -= seconds
            db.pool._keeper.tick()
            async with until():
                while db.stats().connecting or db.stats().kept:
                    await asyncio.sleep(0.002)
            return await lend(db)

        first = await lend(db)
        assert await after(db, 50) == first
        assert await after(db, 15) != first
        first = await lend(ageless)
        assert await after(ageless, 1e6) == first


async def test_what_people_sent_is_in_no_error(pg_url):
    divide = text("select 1 / (length(:name) - length(:name))")
    async with Database(pg_url) as db:
        with pytest.raises(DBAPIError, match="division by zero") as failed:
            async with db.session() as s:
                await s.execute(divide, {"name": "a patient"})
        assert "a patient" not in str(failed.value)

        def sync_work() -> None:
            with db.sync_session() as s:
                s.execute(divide, {"name": "a patient"})

        with pytest.raises(DBAPIError, match="division by zero") as failed:
            await asyncio.to_thread(sync_work)
        assert "a patient" not in str(failed.value)


async def test_a_pool_with_a_free_connection_turns_nobody_away_however_few_may_wait(pg_url):
    async with Database(pg_url, max_size=1, max_waiting=0, acquire_timeout=30) as db:
        async with db.async_engine.connect(), until(1):
            with pytest.raises(PoolTimeout, match=r"max_waiting=0 may wait, .*\(1 of 1 in use, 0 idle, 0 waiting"):
                await db.async_engine.connect()
        assert await lend(db)


@pytest.mark.parametrize("gives_up", ["out of time", "cancelled"])
async def test_a_waiter_that_gave_up_leaves_its_place_to_the_next(pg_url, gives_up):
    async with Database(pg_url, max_size=1, max_waiting=1, acquire_timeout=0.1) as db:
        async with db.async_engine.connect():
            waiter = asyncio.create_task(lend(db))
            if gives_up == "cancelled":
                await asyncio.sleep(0)
                waiter.cancel()
            with pytest.raises((PoolTimeout, asyncio.CancelledError)):
                await waiter
            with pytest.raises(PoolTimeout, match="no connection within"):
                await lend(db)
        assert await lend(db)


async def test_a_caller_who_connects_is_not_one_who_waits(slow, connects):
    connecting = asyncio.create_task(lend(slow))
    await connects.under_way()
    waiter = asyncio.create_task(lend(slow))
    async with until():
        while slow.stats().waiting < 2:
            await asyncio.sleep(0.002)
    connects.released.set()
    assert await connecting == await waiter
    assert slow.stats().waiting == 0
    await slow.stop()


async def test_each_engine_has_its_own_places_and_its_own_queue(pg_url):
    async with Database(pg_url, max_size=1, max_waiting=1, acquire_timeout=30, name="main") as db:
        async with db.async_engine.connect():
            waiter = asyncio.create_task(lend(db))
            async with until():
                while not db.stats().waiting:
                    await asyncio.sleep(0.002)

            def fill_the_other() -> str:
                with db.sync_engine.connect():
                    started = threading.Thread(target=wait_there)
                    started.start()
                    ends = time.monotonic() + 5
                    while not db._sync_gate.waiting and time.monotonic() < ends:
                        time.sleep(0.002)
                    with pytest.raises(PoolTimeout) as full:
                        db.sync_engine.connect()
                started.join(5)
                return str(full.value)

            served = threading.Event()

            def wait_there() -> None:
                with db.sync_engine.connect():
                    served.set()

            said = await asyncio.to_thread(fill_the_other)
        assert "from pool 'main (sync)' (1 of 1 in use, 1 waiting)" in said
        assert served.is_set()
        assert await waiter


async def test_a_pool_that_is_full_is_not_taken_for_a_silent_server_when_a_lost_connection_is_replaced(pg_url):
    async with Database(pg_url, max_size=1, acquire_timeout=0.05) as db, db.async_engine.connect() as c:
        await c.invalidate()
        async with db.async_engine.connect():
            with pytest.raises(PoolTimeout, match="no connection within"):
                await c.execute(text("select 1"))


@pytest.mark.parametrize("opened_again", [False, True])
async def test_a_connection_that_arrives_when_the_database_has_stopped_is_closed_and_lent_to_nobody(
    slow, connects, pg_url, opened_again
):
    async def connect() -> AsyncConnection:
        return await slow.async_engine.connect()

    connecting = asyncio.create_task(connect())
    await connects.under_way()
    waiter = asyncio.create_task(connect())
    await slow.stop(deadline=0.05)
    if opened_again:
        slow.open()
    connects.released.set()
    async with until():
        for caller in (connecting, waiter):
            with pytest.raises(PoolClosed):
                await caller
    async with Database(pg_url) as watcher, until():
        others = text(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        async with watcher.async_engine.connect() as c:
            await c.execution_options(isolation_level="AUTOCOMMIT")
            while await c.scalar(others):
                await asyncio.sleep(0.01)


async def test_stop_waits_no_longer_than_the_work_under_way_takes(pg_url, caplog):
    db = Database(pg_url)
    await db.start()
    held = await db.async_engine.connect()
    stopping = asyncio.create_task(db.stop(deadline=60))
    await asyncio.sleep(0.03)
    assert not stopping.done()
    await held.close()
    async with until():
        await stopping
    assert "still held" not in caplog.text
