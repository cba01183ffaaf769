"""The pool on a real server at its edges: cancelled in an outage, stopped while it starts, behind a pooler."""

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import time
import weakref

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util.concurrency import greenlet_spawn

from pulsepool import ConfigurationError, Database, DatabaseUnavailable, Dsn, PoolClosed, PulsePool, WrongLoop
from tests.listeners import listening, never_answers

ONE = text("select 1")
PID = text("select pg_backend_pid()")
SLEEP = text("select pg_sleep(30)")
SSL_REQUEST = (80877103).to_bytes(4, "big")
READ_ONLY = b"default_transaction_read_only\0"


def end(url: str, pids: list[int]) -> None:
    """End backends from outside; in this very thread, so that no event loop can notice one before the others."""
    with psycopg.connect(url, autocommit=True) as c:
        assert c.execute("select pg_terminate_backend(pid, 5000) from unnest(%s) pid", [pids]).fetchall()


@contextlib.contextmanager
def within(limit: float):
    """The block has so many seconds; measured, as what it awaits may outlast a cancellation."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < limit


@pytest.fixture
async def make(pg_url):
    """Makes engines on `PulsePool`, and disposes of them."""
    engines = []

    def making(driver="asyncpg", **arguments):
        arguments = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5} | arguments
        engine = create_async_engine(pg_url.replace(":", f"+{driver}:", 1), poolclass=PulsePool, **arguments)
        engines.append(engine)
        return engine

    yield making
    for engine in engines:
        await engine.dispose()


@pytest.fixture
def closed_port():
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("ticks", range(0, 12, 2))
async def test_a_victim_cancelled_while_all_connections_die_costs_no_place(make, pg_url, ticks):
    troubles = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    engine = make(pool_size=10)
    held, *others = [await engine.connect() for _ in range(10)]
    pids = [await c.scalar(PID) for c in (held, *others)]
    for c in others:
        await c.close()

    async def ask() -> None:
        try:
            await held.execute(SLEEP)
        finally:
            await held.close()

    victim = asyncio.create_task(ask())
    await asyncio.sleep(0.02)
    end(pg_url, pids)
    for _ in range(ticks):
        await asyncio.sleep(0)
    victim.cancel()
    await asyncio.wait([victim], timeout=5)
    assert victim.done()
    async with asyncio.timeout(5):
        again = [await engine.connect() for _ in range(10)]
    assert engine.pool.checkedout() == 10
    for c in again:
        assert await c.scalar(ONE) == 1
        await c.close()
    assert engine.pool.core.stats().size == 10
    assert troubles == []


async def test_the_holder_of_a_cancelled_statement_that_has_ended_is_not_disturbed(make, monkeypatch):
    monkeypatch.setattr("pulsepool.alchemy.cancelled.DRAINING", 0.4)
    engine = make(pool_size=10)

    async def go_on() -> int:
        async with engine.connect() as c:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await c.execute(SLEEP)
            await c.rollback()
            asked, ends = 0, time.monotonic() + 0.8
            while time.monotonic() < ends:
                asked += await c.scalar(ONE)
                await asyncio.sleep(0.001)  # at rest between two statements, too
            return asked

    assert all(await asyncio.gather(*(go_on() for _ in range(10))))
    assert engine.pool.core.counters.connects == 10


async def test_a_second_cancelled_statement_on_a_frozen_backend_is_given_up_as_the_first_is(
    make, frozen_backend, monkeypatch
):
    monkeypatch.setattr("pulsepool.alchemy.cancelled.DRAINING", 0.4)
    engine = make()
    c = await engine.connect()
    pid = await c.scalar(PID)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await c.execute(SLEEP)
    await c.rollback()
    await asyncio.sleep(0.6)  # the first one's time is over
    second = asyncio.create_task(c.execute(SLEEP))
    await asyncio.sleep(0.05)
    with frozen_backend(pid), within(3):
        second.cancel()
        with pytest.raises((asyncio.CancelledError, DBAPIError)):
            await asyncio.wait_for(asyncio.shield(second), 5)
        with pytest.raises(DBAPIError):
            await asyncio.wait_for(c.rollback(), 5)
        await c.close()
        async with engine.connect() as other:
            assert await other.scalar(PID) != pid


async def test_stop_ends_a_start_that_waits_for_a_silent_server():
    async with listening(never_answers) as port:
        db = Database(f"postgresql://u:p@127.0.0.1:{port}/x", connect_timeout=8)
        starting = asyncio.create_task(db.start())
        await asyncio.sleep(0.05)
        with within(1):
            await db.stop(deadline=0.5)
        with within(1), pytest.raises(PoolClosed):
            await starting


async def test_stop_behind_another_stop_returns_by_its_own_deadline(pg_url):
    db = Database(pg_url)
    await db.start()
    held = await db.async_engine.connect()
    first = asyncio.create_task(db.stop(deadline=30))
    await asyncio.sleep(0)
    with within(1):
        await db.stop(deadline=0.3)
    assert not first.done()
    await held.close()
    await asyncio.wait_for(first, 5)


@pytest.mark.parametrize("deadline", [None, float("nan"), "soon", -1])
async def test_a_deadline_that_is_no_time_is_refused_and_stops_nothing(pg_url, deadline):
    async with Database(pg_url) as db:
        with pytest.raises(ConfigurationError, match="is no time"):
            await db.stop(deadline)
        assert await db.fetchval("select 1") == 1


async def test_what_a_listener_set_for_each_connection_is_in_force_again_after_a_loan_and_a_reset(pg_url):
    db = Database(pg_url, max_size=1)

    @event.listens_for(db.async_engine.sync_engine, "connect")
    def set_path(connection, _) -> None:
        cursor = connection.cursor()
        cursor.execute("SET search_path TO tenant")
        cursor.close()
        connection.commit()

    async def path() -> str:
        async with db.session() as s:
            return await s.scalar(text("show search_path"))

    async with db:
        assert await path() == "tenant"
        async with db.connection() as c:
            await c.execute("SET search_path TO somewhere_else")
        assert await path() == "tenant"
        assert await db.fetchval("show search_path") == "tenant"
        async with db.session() as s:
            await s.execute(text("SET search_path TO somewhere_else"))
        assert await path() == "tenant"
        assert db.stats().counters.connects == 1


async def test_each_caller_of_a_refused_connect_gets_an_error_of_its_own_that_keeps_nobody_alive(closed_port):
    engine = create_async_engine(f"postgresql+asyncpg://u:p@127.0.0.1:{closed_port}/x", poolclass=PulsePool)

    class Payload:
        pass

    alive: list[weakref.ref] = []
    identities: list[int] = []

    async def request() -> None:
        payload = Payload()
        alive.append(weakref.ref(payload))
        try:
            await engine.connect()
        except OSError as error:
            errors.append(error)
            identities.append(id(error))

    errors: list[BaseException] = []
    await asyncio.gather(*(request() for _ in range(5)))
    assert len(identities) == len(set(identities)) == 5
    errors.clear()
    await asyncio.sleep(0)
    gc.collect()
    assert [payload() for payload in alive] == [None] * 5
    await engine.dispose()


async def test_a_synchronous_dispose_closes_what_idles_and_the_engine_goes_on(make):
    engine = make()
    async with engine.connect() as c:
        pid = await c.scalar(PID)
    core = engine.pool.core
    engine.sync_engine.dispose()
    async with engine.connect() as c:
        assert await c.scalar(PID) != pid
        async with asyncio.timeout(5):
            while await c.scalar(text("select count(*) from pg_stat_activity where pid = :pid"), {"pid": pid}):
                await c.rollback()
    assert core.closed


async def test_the_engine_shows_the_size_that_the_pool_was_given_and_a_new_pool_keeps_it(pg_url):
    async with Database(pg_url, max_size=4) as db:
        pool = db.async_engine.pool
        assert (pool.size(), pool.overflow()) == (4, -3)
        db.pool.resize(max_size=8)
        assert (pool.size(), pool.overflow()) == (8, -7)
        assert pool.status().startswith("Pool size: 8  Connections in pool: 1 Current Overflow: -7")
        await db.async_engine.dispose()
        assert await db.fetchval("select 1") == 1
        assert db.pool.limits.max_size == db.async_engine.pool.size() == 8
        db.async_engine.sync_engine.dispose()
        assert await db.fetchval("select 1") == 1
        assert db.pool.limits.max_size == 8


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_listener_that_fails_at_the_close_keeps_no_connection_open(make, driver):
    engine = make(driver)

    @event.listens_for(engine.sync_engine, "close")
    def fail(*_) -> None:
        raise ZeroDivisionError

    c = await engine.connect()
    await c.scalar(ONE)
    connection = c.sync_connection.connection.driver_connection
    assert await engine.pool.core.stop(0.0) == 1  # ended under its holder
    closed = connection.is_closed if driver == "asyncpg" else lambda: connection.closed
    assert closed()
    with contextlib.suppress(DBAPIError, ZeroDivisionError):
        await c.close()


@pytest.mark.parametrize("driver", ["psycopg", "aiosqlite"])
async def test_who_waits_gets_no_closed_connection_of_an_engine_that_resets_none(make, tmp_path, driver):
    if driver == "psycopg":
        engine = make("psycopg", pool_reset_on_return=None)
    else:
        pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
        only = {"pool_size": 1, "max_overflow": 0, "pool_reset_on_return": None}
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/file.db", poolclass=PulsePool, **only)
    held = await engine.raw_connection()

    async def ask() -> int:
        async with engine.connect() as c:
            return await c.scalar(ONE)

    waiter = asyncio.create_task(ask())
    async with asyncio.timeout(5):
        while not engine.pool.core.line.waiting:
            await asyncio.sleep(0)
    await held.driver_connection.close()
    await greenlet_spawn(held.close)
    assert await asyncio.wait_for(waiter, 5) == 1
    await engine.dispose()


@pytest.mark.parametrize("kind", ["read", "session"])
async def test_a_session_whose_driver_connection_was_ended_does_not_lose_its_place(pg_url, kind):
    async with Database(pg_url, max_size=1, acquire_timeout=1) as db:
        with contextlib.suppress(DatabaseUnavailable, DBAPIError):
            async with getattr(db, kind)() as s:
                await s.execute(ONE)
                raw = await (await s.connection()).get_raw_connection()
                raw.driver_connection.terminate()
        assert await db.fetchval("select 1") == 1
        assert db.stats().in_use == 0


@pytest.mark.parametrize("how", ["read", "session", "lane"])
async def test_a_switch_that_a_silent_server_does_not_answer_takes_no_longer_than_acquire_timeout(
    pg_url, frozen_backend, how
):
    db = Database(pg_url, max_size=1, acquire_timeout=0.5, validate_after=60)
    await db.start()
    async with db.session() if how == "read" else db.read() as s:
        pid = await s.scalar(PID)

    async def use() -> None:
        if how == "lane":
            await db.fetch("select 1")
        else:
            async with getattr(db, how)() as s:
                await s.execute(ONE)

    with frozen_backend(pid):
        with within(2), pytest.raises(DatabaseUnavailable, match=r"did not answer within 0\.5 s"):
            await use()
        await db.stop(0.5)


async def test_a_loan_is_counted_once_however_readers_and_writers_alternate(pg_url):
    async with Database(pg_url, max_size=1) as db:
        for _ in range(5):
            async with db.session() as s:
                await s.execute(ONE)
            async with db.read() as s:
                await s.execute(ONE)
            await db.fetch("select 1")
        assert db.stats().counters.use_time.count == 15


def pooler(port: int):
    """A server's deputy that keeps to itself what `default_transaction_read_only` is, as PgBouncer does."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)

        async def forward() -> None:
            while data := await reader.read(65536):
                to_server.write(data)
            to_server.close()

        first = await reader.readexactly(8)
        to_server.write(first)
        if first[4:] == SSL_REQUEST:
            writer.write(await from_server.readexactly(1))
        forwarding = asyncio.create_task(forward())
        try:
            while True:
                head = await from_server.readexactly(5)
                body = await from_server.readexactly(int.from_bytes(head[1:], "big") - 4)
                if not (head[:1] == b"S" and body.startswith(READ_ONLY)):
                    writer.write(head + body)
        except asyncio.IncompleteReadError:
            pass
        finally:
            forwarding.cancel()
            to_server.close()

    return relay


async def test_through_a_pooler_read_is_a_transaction_that_refuses_writes_and_leaves_the_session_as_it_was(
    pg_url, pg_server
):
    async with (
        listening(pooler(pg_server.port)) as port,
        Database(Dsn.parse(pg_url).replace(port=port), max_size=1) as db,
    ):
        await db.execute("create table t (i int)")
        shown = text(
            "select current_setting('transaction_read_only'), current_setting('default_transaction_read_only')"
        )
        async with db.read() as s:
            assert tuple((await s.execute(shown)).one()) == ("on", "off")
        with pytest.raises(DBAPIError) as refused:
            async with db.read() as s:
                await s.execute(text("insert into t values (1)"))
        assert refused.value.orig.sqlstate == "25006"
        async with db.session() as s:
            assert tuple((await s.execute(shown)).one()) == ("off", "off")
            await s.execute(text("insert into t values (2)"))
        async with db.read() as s:
            assert await s.scalar(text("select sum(i) from t")) == 2
        assert await db.execute("insert into t values (3)") == "INSERT 0 1"
        assert db.stats().counters.connects == 1


async def test_the_pool_of_a_started_database_is_for_its_own_loop_and_so_are_its_numbers(pg_url):
    async with Database(pg_url, max_size=3, min_size=2) as db:

        async def elsewhere() -> None:
            with pytest.raises(WrongLoop):
                db.pool.drain()
            async with db.async_engine.connect() as c:
                assert await c.scalar(ONE) == 1

        before = db.stats()
        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert db.stats() == before
        assert before.size == 2
        assert db.pool.loop is asyncio.get_running_loop()


NEVER_ANSWERS = """
import asyncio, threading
from pulsepool import Database, PulsePoolError

def password():
    threading.Event().wait()

def database():
    return Database("postgresql://u@127.0.0.1:{port}/x", password=password, connect_timeout=0.3)

for connect in (lambda: asyncio.run(database().start()), lambda: database().sync_engine.connect()):
    try:
        connect()
    except PulsePoolError as error:
        print(error.message)
"""


def test_a_password_callable_that_never_returns_does_not_hold_up_the_end(closed_port):
    script = NEVER_ANSWERS.format(port=closed_port)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=10, check=True)
    said = "no password for a new connection: the callable gave nothing in time"
    assert ended.stdout.splitlines() == [said, said]


async def test_a_slow_password_callable_and_a_silent_server_together_give_an_error_that_tells_the_time(monkeypatch):
    monkeypatch.setattr("pulsepool.pool.connector.GRACE", 0.1)

    async def password() -> str:
        await asyncio.sleep(0.4)
        return "p"

    async with listening(never_answers) as port:
        db = Database(f"postgresql://u@127.0.0.1:{port}/x", connect_timeout=0.5, password=password)
        with within(1.5), pytest.raises(DatabaseUnavailable, match=r"0\.5 s") as raised:
            await db.start()
        assert str(port) in raised.value.message
        await db.stop(0.5)


async def test_one_that_was_taken_in_another_mode_is_given_back_when_the_database_has_stopped_lending(pg_url):
    async with Database(pg_url, max_size=1) as db:
        async with db.read() as s:
            await s.scalar(text("select 1"))
        db._cores.closed = db.pool.closed = True
        with contextlib.suppress(PoolClosed):
            async with db.async_engine.connect() as c:
                await c.scalar(text("select 1"))
        assert db._cores.current().in_use == 0


async def test_a_connection_that_sqlalchemy_made_anew_in_place_is_not_lent_on_as_what_the_old_one_was(pg_url):
    async with Database(pg_url, max_size=1) as db:
        async with db.read() as s:
            await s.scalar(text("select 1"))
        refused = []

        @event.listens_for(db._reading_sessions.kw["bind"].sync_engine, "checkout")
        def refuse_once(*_) -> None:
            if not refused:
                refused.append(True)
                raise DisconnectionError

        async with db.read() as s:
            await s.scalar(text("select 1"))
        assert refused
        with pytest.raises(DBAPIError, match="read-only transaction"):
            async with db.read() as s:
                await s.execute(text("create table sneaky (a int)"))
