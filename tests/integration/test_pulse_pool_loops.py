"""One engine, many event loops, threads and processes: each gets connections of its own, and none piles up."""

import asyncio
import gc
import multiprocessing
import os
import sys
import threading
import warnings
import weakref
from multiprocessing.connection import Connection as Pipe

import pytest
import uvloop
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pulsepool import Database, PulsePool, WrongLoop
from pulsepool.pool import Pool

PID = text("select pg_backend_pid()")
LOOPS = 50


def on_a_bare_loop(work):
    """As older code runs things: a loop is closed without a word to what lives on it."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


RUNNERS = {"asyncio.run": asyncio.run, "uvloop.run": uvloop.run, "a bare loop": on_a_bare_loop}


@pytest.fixture
def unraisable(monkeypatch):
    """What finalizers complain of while this is watched."""
    heard: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: heard.append(f"{said.exc_value!r}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield heard


@pytest.fixture(params=["asyncpg", "psycopg"])
def engine(request, pg_url):
    engine = create_async_engine(pg_url.replace("postgresql:", f"postgresql+{request.param}:"), poolclass=PulsePool)
    yield engine
    asyncio.run(engine.dispose())


async def ask_twice(engine) -> int:
    async with engine.connect() as first, engine.connect() as second:
        await first.execute(text("select 1"))
        return await second.scalar(PID)


async def backends(engine, at_most: int) -> int:
    """How many connections the engine's database has beside the one that asks, once there are so few."""
    watcher = create_async_engine(engine.url, poolclass=NullPool)
    ask = text(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    async with watcher.connect() as c:
        for _ in range(200):
            if (found := await c.scalar(ask)) <= at_most:
                break
            await c.rollback()
            await asyncio.sleep(0.01)
    await watcher.dispose()
    return found


@pytest.mark.parametrize("runner", RUNNERS)
def test_one_engine_serves_fifty_short_loops_without_a_word_or_a_backend_left(engine, unraisable, runner):
    run = RUNNERS[runner]
    pids = [run(ask_twice(engine)) for _ in range(LOOPS)]
    gc.collect()
    assert len(set(pids)) == LOOPS
    assert unraisable == []
    assert asyncio.run(backends(engine, at_most=2)) <= (2 if run is on_a_bare_loop else 0)
    asyncio.run(engine.dispose())
    gc.collect()
    assert unraisable == []
    assert asyncio.run(backends(engine, at_most=0)) == 0


def test_a_loop_that_ends_while_a_connection_is_held_is_no_trouble_for_the_next(engine, unraisable):
    held = []

    async def hold() -> int:
        held.append(await engine.connect())
        return await held[0].scalar(PID)

    pid = asyncio.run(hold())
    assert asyncio.run(ask_twice(engine)) != pid
    assert engine.pool.checkedout() == 0
    assert asyncio.run(backends(engine, at_most=0)) == 0
    with pytest.raises(Exception, match="closed"):
        asyncio.run(held[0].execute(text("select 1")))
    held.clear()


def test_a_loop_in_another_thread_has_connections_of_its_own_at_the_same_time(engine):
    both = threading.Barrier(2, timeout=10)
    pids: dict[str, list[int]] = {"here": [], "there": []}
    errors: list[BaseException] = []

    async def ask(name: str) -> None:
        for _ in range(100):
            async with engine.connect() as c:
                pids[name].append(await c.scalar(PID))
        both.wait()

    def run(name: str) -> None:
        try:
            both.wait()
            asyncio.run(ask(name))
        except BaseException as error:  # noqa: BLE001 - it is told to the parent
            errors.append(error)
            both.abort()

    there = threading.Thread(target=run, args=["there"])
    there.start()
    run("here")
    there.join(10)
    assert errors == []
    assert len(pids["here"]) == len(pids["there"]) == 100
    assert not {*pids["here"]} & {*pids["there"]}
    assert asyncio.run(backends(engine, at_most=0)) == 0


def test_a_connection_lost_in_one_thread_has_nothing_asked_in_another(engine, monkeypatch):
    """Asking would begin tasks on a loop that another thread runs."""
    ready, lost = threading.Event(), threading.Event()
    doubted: list[bool] = []
    doubt = Pool.doubt

    def doubting(pool: Pool) -> None:
        doubted.append(pool.loop is asyncio.get_running_loop())
        doubt(pool)

    monkeypatch.setattr(Pool, "doubt", doubting)

    async def bystander() -> None:
        async with engine.connect() as c:
            await c.execute(text("select 1"))
        ready.set()
        assert await asyncio.to_thread(lost.wait, 10)

    async def loser() -> None:
        lose = await engine.connect()
        async with engine.connect() as killer:
            pid = await lose.scalar(PID)
            await killer.execute(text(f"select pg_terminate_backend({pid})"))
        there.start()  # after all of this loop's own, so that its pool is the one used last
        assert await asyncio.to_thread(ready.wait, 10)
        with pytest.raises(DBAPIError):
            await lose.execute(text("select 1"))
        await lose.close()
        lost.set()

    there = threading.Thread(target=asyncio.run, args=[bystander()])
    asyncio.run(loser())
    there.join(10)
    assert doubted
    assert all(doubted)


def in_a_child(engine, pipe: Pipe) -> None:
    """Use the parent's engine in a forked process, let the collector have what can be had, and tell what it said."""
    heard: list[str] = []
    sys.unraisablehook = lambda said: heard.append(f"{said.exc_value!r}")
    warnings.simplefilter("error")
    try:
        pids = [asyncio.run(ask_twice(engine)) for _ in range(3)]
        gc.collect()
        pipe.send("; ".join(heard) or pids)
    except BaseException as error:  # noqa: BLE001 - it is told to the parent
        pipe.send(repr(error))
    finally:
        pipe.close()


def in_a_child_that_disposes_first(engine, pipe: Pipe) -> None:
    engine.sync_engine.dispose(close=False)
    in_a_child(engine, pipe)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("child", [in_a_child, in_a_child_that_disposes_first])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_forked_child_gets_its_own_connections_and_the_parents_stay_usable(engine, child, run):
    async def parent() -> None:
        held = await engine.connect()
        pid = await held.scalar(PID)
        async with engine.connect() as idle:
            idle_pid = await idle.scalar(PID)
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        process = fork.Process(target=child, args=[engine, theirs])
        process.start()
        try:
            assert await asyncio.to_thread(ours.poll, 20)
            pids = ours.recv()
        finally:
            await asyncio.to_thread(process.join, 10)
            process.kill()
        assert process.exitcode == 0
        assert isinstance(pids, list), pids
        assert not {*pids} & {pid, idle_pid}
        async with asyncio.timeout(5):
            assert await held.scalar(PID) == pid
            async with engine.connect() as again:
                assert await again.scalar(PID) == idle_pid
        await held.close()

    run(parent())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("child", [in_a_child, in_a_child_that_disposes_first])
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_child_that_forgets_its_parents_loop_takes_nothing_off_it(engine, child, make_loop):
    """What both know of the loop's sockets is one thing in the kernel: who closes one there, closes it for both."""
    kept = {"loop": make_loop()}
    loop = weakref.ref(kept["loop"])
    pid = kept["loop"].run_until_complete(ask_twice(engine))

    def forget(pipe: Pipe) -> None:
        kept.clear()
        gc.collect()
        child(engine, pipe)

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=forget, args=[theirs])
    process.start()
    try:
        assert ours.poll(20)
        pids = ours.recv()
    finally:
        process.join(10)
        process.kill()
    assert isinstance(pids, list), pids
    assert loop() is kept["loop"]
    assert kept["loop"].run_until_complete(asyncio.wait_for(ask_twice(engine), 5)) == pid
    kept["loop"].run_until_complete(kept["loop"].shutdown_asyncgens())
    kept["loop"].close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_goes_on_with_its_parents_loop_shares_no_connection(engine):
    loop = asyncio.new_event_loop()
    pid = loop.run_until_complete(ask_twice(engine))

    def go_on(pipe: Pipe) -> None:
        try:
            pipe.send(loop.run_until_complete(asyncio.wait_for(ask_twice(engine), 10)))
        except BaseException as error:  # noqa: BLE001 - it is told to the parent
            pipe.send(repr(error))

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=go_on, args=[theirs])
    process.start()
    try:
        assert ours.poll(20)
        found = ours.recv()
    finally:
        process.join(10)
        process.kill()
    assert isinstance(found, int), found
    assert found != pid
    assert loop.run_until_complete(asyncio.wait_for(ask_twice(engine), 5)) == pid
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture(scope="module")
def shared(pg_server):
    """As suites have it: the engine is of the module, and each test has a loop of its own."""
    engine = create_async_engine(pg_server.url().replace("postgresql:", "postgresql+asyncpg:"), poolclass=PulsePool)
    yield engine
    asyncio.run(engine.dispose())


@pytest.fixture
async def connection(shared):
    async with shared.connect() as c:
        yield c


@pytest.mark.parametrize("time", range(5))
async def test_an_engine_of_all_tests_is_usable_in_each_with_a_fixture_beside_it(shared, connection, time):
    assert await connection.scalar(text("select 1")) == 1
    assert len(await asyncio.gather(*(ask_twice(shared) for _ in range(3)))) == 3
    assert shared.pool.checkedout() == 1


async def in_another_loop(work) -> object:
    def run() -> object:
        async def attempt() -> object:
            return await work()

        return asyncio.run(attempt())

    return await asyncio.to_thread(run)


async def test_a_database_says_wrong_loop_for_everything_from_another_loop(pg_url):
    async with Database(pg_url) as db:

        async def session() -> None:
            async with db.session() as s:
                await s.execute(text("select 1"))

        async def read() -> None:
            async with db.read() as s:
                await s.execute(text("select 1"))

        async def fetch() -> None:
            await db.fetch("select 1")

        for work in (session, read, fetch):
            with pytest.raises(WrongLoop):
                await in_another_loop(work)
            await work()  # at home all is well
        assert db.stats().in_use == 0


def database_in_a_child(db: Database, pipe: Pipe) -> None:
    async def ask() -> int:
        async with db.session() as s:
            pid = await s.scalar(PID)
        assert await db.fetchval("select 1") == 1
        return pid

    try:
        pipe.send(asyncio.run(ask()))
    except BaseException as error:  # noqa: BLE001 - it is told to the parent
        pipe.send(repr(error))
    finally:
        pipe.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_fork_of_a_started_database_gets_a_fresh_pool(pg_url):
    async with Database(pg_url, max_size=1) as db:
        async with db.session() as s:
            pid = await s.scalar(PID)
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        process = fork.Process(target=database_in_a_child, args=[db, theirs])
        process.start()
        try:
            assert await asyncio.to_thread(ours.poll, 20)
            found = ours.recv()
        finally:
            await asyncio.to_thread(process.join, 10)
            process.kill()
        assert isinstance(found, int), found
        assert found != pid
        assert found != os.getpid()
        async with db.session() as s:
            assert await s.scalar(PID) == pid


async def test_who_waits_for_a_database_whose_engine_is_disposed_of_is_served(pg_url):
    async with Database(pg_url, max_size=1) as db:

        async def ask() -> int:
            async with db.session() as s:
                return await s.scalar(text("select 1"))

        async with db.session() as s:
            await s.execute(text("select 1"))
            waiting = [asyncio.create_task(ask()) for _ in range(5)]
            waiting += [asyncio.create_task(db.fetchval("select 1")) for _ in range(5)]
            async with asyncio.timeout(5):
                while db.stats().waiting < 10:
                    await asyncio.sleep(0)
            await db.async_engine.dispose()
            assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [1] * 10
        assert await ask() == 1
