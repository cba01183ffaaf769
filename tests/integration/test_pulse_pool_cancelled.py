"""A cancelled statement does not cost its connection under SQLAlchemy either, and no cancellation costs a place."""

import asyncio
import time
import weakref

import anyio
import pytest
from sqlalchemy import event, exc, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.testing import cancellation

from pulsepool import PulsePool

PID = text("select pg_backend_pid()")
SLEEP = text("select pg_sleep(30)")
CANCELS = 200


OPENED: weakref.WeakKeyDictionary[AsyncEngine, list] = weakref.WeakKeyDictionary()


def opened(engine) -> int:
    """How many connections an engine opened since it was made."""
    return len(OPENED[engine])


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request):
    return request.param


@pytest.fixture
def url(pg_url, driver):
    return pg_url.replace("postgresql:", f"postgresql+{driver}:")


@pytest.fixture
async def make(url):
    """Makes engines, counts what they open, and disposes of them."""
    engines = []

    def making(**arguments):
        arguments = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5} | arguments
        engine = create_async_engine(url, poolclass=PulsePool, **arguments)
        opened = OPENED[engine] = []
        event.listen(engine.sync_engine, "connect", lambda *said: opened.append(said))
        engines.append(engine)
        return engine

    yield making
    for engine in engines:
        await engine.dispose()


@pytest.fixture
async def server(url):
    """Asks the server, beside the pool."""
    watcher = create_async_engine(url, poolclass=NullPool)

    class Server:
        async def pids(self, where: str = "true") -> set[int]:
            async with watcher.connect() as c:
                found = await c.scalars(
                    text(
                        "select pid from pg_stat_activity where datname = current_database()"
                        f" and backend_type = 'client backend' and pid <> pg_backend_pid() and {where}"
                    )
                )
                return set(found)

        async def until(self, where: str, count: int = 1) -> None:
            async with asyncio.timeout(5):
                while len(await self.pids(where)) < count:
                    await asyncio.sleep(0.005)

    return Server()


async def session(engine) -> None:
    async with AsyncSession(engine) as s:
        await s.execute(select(1))
        await s.commit()


async def connect(engine) -> None:
    async with engine.connect() as c:
        await c.execute(select(1))


async def reuse(engine) -> None:
    """Closed while cancelled, and used again at once."""
    connection = await engine.connect()
    try:
        await connection.execute(select(1))
        await connection.commit()
    except asyncio.CancelledError:
        await connection.close()
        raise
    try:
        await connection.close()
    except asyncio.CancelledError:
        async with engine.connect() as again:
            if not connection.closed:
                await connection.invalidate()
            await again.execute(select(1))
        raise


@pytest.mark.parametrize(
    ("scenario", "how"),
    [
        (session, {}),
        (session, {"warm": True}),
        (session, {"warm": True, "recycle": True}),
        (session, {"warm": True, "cancels": 2}),
        (connect, {"warm": True}),
        (reuse, {"warm": True}),
    ],
    ids=["first use", "warm", "recycled", "cancelled twice", "a connection", "used again"],
)
async def test_a_cancellation_at_any_await_point_leaks_nothing(url, scenario, how):
    def make():
        return create_async_engine(url, poolclass=PulsePool, pool_size=1, max_overflow=0, pool_timeout=1)

    async with asyncio.timeout(50):
        assert await cancellation.sweep(make, scenario, **how) == []


async def test_two_hundred_cancelled_queries_cost_no_connection(make, server):
    engine = make(pool_size=4)

    async def ask() -> None:
        async with AsyncSession(engine) as s:
            await s.execute(text("select pg_sleep(0.3)"))  # a cancel that overtakes its statement is without effect

    async def cancel_one(number: int) -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0.0005 * (number % 8))  # in the line, in BEGIN, in the statement
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.gather(*(_ask_one(engine) for _ in range(4)))
    warm = await server.pids()
    for _ in range(CANCELS // 8):
        async with asyncio.timeout(20):
            await asyncio.gather(*map(cancel_one, range(8)))
    async with asyncio.timeout(5):
        while engine.pool.core.stats().kept:
            await asyncio.sleep(0.005)
    assert engine.pool.checkedout() == 0
    assert opened(engine) <= 4
    assert warm <= await server.pids()
    assert len(await server.pids()) == len(engine.pool.core.slots) == opened(engine)
    assert await server.pids("state = 'active'") == set()
    assert await _ask_one(engine) == 1


async def _ask_one(engine) -> int:
    async with AsyncSession(engine) as s:
        return await s.scalar(text("select 1"))


async def test_a_query_under_asyncio_timeout_is_stopped_and_its_connection_lent_again(make, server):
    engine = make()
    async with AsyncSession(engine) as s:
        pid = await s.scalar(PID)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), AsyncSession(engine) as s:
            await s.execute(SLEEP)
    async with asyncio.timeout(2), AsyncSession(engine) as s:
        assert await s.scalar(PID) == pid
    assert await server.pids("query like '%sleep(30)%' and state = 'active'") == set()
    assert opened(engine) == 1


async def test_a_query_in_an_anyio_scope_is_stopped_and_its_connection_lent_again(make, driver):
    """But on psycopg: a scope cancels again and again, psycopg's waiting for the statement's end, too."""
    engine = make()
    for _ in range(3):
        with anyio.move_on_after(0.1) as scope:
            async with AsyncSession(engine) as s:
                await s.execute(SLEEP)
        assert scope.cancelled_caught
        assert await asyncio.wait_for(_ask_one(engine), 2) == 1
    assert opened(engine) == (1 if driver == "asyncpg" else 4)
    assert engine.pool.checkedout() == 0


async def test_a_transaction_goes_on_after_a_cancelled_statement_was_rolled_back(make):
    engine = make()
    async with AsyncSession(engine) as s:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await s.execute(SLEEP)
        await s.rollback()
        assert await s.scalar(text("select 1")) == 1
    assert opened(engine) == 1


async def test_a_statement_that_takes_long_after_a_cancelled_one_is_left_alone(make):
    """The look at whether the server lives must not end a connection that is merely busy."""
    engine = make()
    async with engine.connect() as c:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await c.execute(SLEEP)
        await c.rollback()
        assert await c.scalar(text("select 1 from pg_sleep(3.5)")) == 1
    assert opened(engine) == 1


async def test_what_was_cancelled_is_undone(make):
    engine = make()
    async with engine.begin() as c:
        await c.execute(text("create table t (i int)"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), engine.begin() as c:
            await c.execute(text("insert into t values (1)"))
            await c.execute(SLEEP)
    async with engine.connect() as c:
        assert await c.scalar(text("select count(*) from t")) == 0
    assert opened(engine) == 1


SLOW_COMMIT = (
    "create table t (i int)",
    "create function l() returns trigger language plpgsql as $$ begin perform pg_sleep(30); return null; end $$",
    "create constraint trigger slow after insert on t deferrable initially deferred for each row execute function l()",
)


async def test_a_cancelled_commit_leaves_no_place_lost_and_no_transaction_open(make, server):
    engine = make()
    async with engine.begin() as c:
        for statement in SLOW_COMMIT:
            await c.execute(text(statement))

    async def commit() -> None:
        async with engine.begin() as c:
            await c.execute(text("insert into t values (1)"))

    task = asyncio.create_task(commit())
    await server.until("query ilike '%commit%' and state = 'active'")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    async with asyncio.timeout(5), engine.connect() as c:
        assert await c.scalar(text("select count(*) from t")) == 0
    assert await server.pids("state = 'idle in transaction'") == set()
    assert engine.pool.checkedout() == 0


@pytest.mark.parametrize("stage", ["begin", "rollback", "commit"])
async def test_a_cancellation_at_the_edges_of_a_transaction_leaves_a_usable_pool(make, stage):
    engine = make()
    await _ask_one(engine)

    @event.listens_for(engine.sync_engine, stage)
    def cancel(_) -> None:
        if (task := tasks.pop()) is not None:
            task.cancel()

    async def work() -> None:
        async with engine.connect() as c:
            await c.execute(text("select 1"))
            await (c.rollback if stage == "rollback" else c.commit)()
            await c.execute(text("select 1"))

    tasks: list = [None] * 10
    task = asyncio.create_task(work())
    tasks.append(task)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), 5)
    assert task.cancelled()
    event.remove(engine.sync_engine, stage, cancel)
    assert await asyncio.wait_for(_ask_one(engine), 2) == 1
    assert engine.pool.checkedout() == 0


async def test_one_who_is_cancelled_in_the_line_takes_nothing_with_him(make):
    engine = make()
    async with engine.connect() as held:
        await held.execute(text("select 1"))
        waiting = [asyncio.create_task(_ask_one(engine)) for _ in range(5)]
        async with asyncio.timeout(5):
            while engine.pool.core.line.waiting < 5:
                await asyncio.sleep(0)
        for task in waiting[:4]:
            task.cancel()
    assert await asyncio.wait_for(waiting[4], 5) == 1
    assert all(
        isinstance(each, asyncio.CancelledError)
        for each in await asyncio.gather(*waiting, return_exceptions=True)
        if not isinstance(each, int)
    )
    assert engine.pool.checkedout() == 0
    assert opened(engine) == 1


async def test_one_who_is_cancelled_when_served_in_the_same_tick_loses_nothing(make):
    engine = make()
    held = await engine.connect()
    waiting = asyncio.create_task(_ask_one(engine))
    async with asyncio.timeout(5):
        while not engine.pool.core.line.waiting:
            await asyncio.sleep(0)
    await held.close()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(_ask_one(engine), 2) == 1
    assert engine.pool.checkedout() == 0
    assert opened(engine) == 1


async def test_one_who_is_cancelled_while_connecting_leaves_the_connection_to_the_next(make):
    engine = make()
    connecting = asyncio.create_task(_ask_one(engine))
    async with asyncio.timeout(5):
        while engine.pool.checkedout() or not (core := engine.pool._cores.current()) or not core.stats().connecting:
            await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert await asyncio.wait_for(_ask_one(engine), 5) == 1
    assert opened(engine) == 1


@pytest.fixture
def patience(driver):
    """Seconds for one that does not answer: ours on asyncpg; psycopg takes ten to give up, within the statement."""
    return 6 if driver == "asyncpg" else 13


async def test_a_backend_that_freezes_while_a_cancelled_query_drains_is_given_up(
    make, server, frozen_backend, patience
):
    engine = make()
    async with AsyncSession(engine) as s:
        pid = await s.scalar(PID)

    async def ask() -> None:
        async with AsyncSession(engine) as s:
            await s.execute(SLEEP)

    task = asyncio.create_task(ask())
    await server.until("query like '%sleep(30)%' and state = 'active'")
    with frozen_backend(pid):
        began = time.monotonic()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, exc.DBAPIError)):
            await asyncio.wait_for(asyncio.shield(task), patience)
        async with asyncio.timeout(patience), AsyncSession(engine) as s:
            assert await s.scalar(PID) != pid
        assert time.monotonic() - began < patience
    assert engine.pool.checkedout() == 0
    assert opened(engine) == 2
