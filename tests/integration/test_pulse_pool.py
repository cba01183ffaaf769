"""PulsePool behind SQLAlchemy's `Pool` interface: what SQLAlchemy holds its own pools to, on asyncpg and psycopg."""

import asyncio
import contextlib
import gc
import socket
import time

import pytest
from sqlalchemy import create_engine, event, exc, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, PoolResetState, QueuePool, StaticPool
from sqlalchemy.util.concurrency import greenlet_spawn

from pulsepool import ConfigurationError, Dsn, PoolTimeout, PulsePool

EVENTS = (
    "first_connect",
    "connect",
    "checkout",
    "checkin",
    "reset",
    "invalidate",
    "soft_invalidate",
    "close",
    "detach",
    "close_detached",
)
PID = text("select pg_backend_pid()")
RETURNED = ["reset", "checkin"]
"""What a connection does that comes home."""

pytestmark = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])


def address(url: str, driver: str) -> str:
    return url.replace("postgresql:", f"postgresql+{driver}:")


class Watched:
    """An engine, and what its pool and its connections said."""

    def __init__(self, engine):
        self.engine = engine
        self.log: list[str] = []
        self.resets: list[PoolResetState] = []
        for name in EVENTS:
            event.listen(engine.sync_engine, name, self._hearing(name))
        event.listen(engine.sync_engine, "engine_disposed", lambda _: self.log.append("engine_disposed"))

    def _hearing(self, name):
        def hear(*said):
            self.log.append(name)
            if name == "reset":
                self.resets.append(said[2])

        return hear

    def said(self) -> list[str]:
        log, self.log[:] = list(self.log), []
        return log

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        pool = self.engine.pool
        return pool.size(), pool.checkedin(), pool.overflow(), pool.checkedout()

    async def settled(self):
        """The keeper has nothing in hand: what was asked lives, what was condemned is closed."""
        async with asyncio.timeout(5):
            while self.engine.pool.core.stats().kept or self.engine.pool.core.stats().connecting:
                await asyncio.sleep(0.002)


@pytest.fixture
async def make(pg_url, driver):
    """Makes engines on PulsePool, and disposes of them."""
    engines = []

    def making(**arguments):
        arguments = {"pool_size": 2, "max_overflow": 1, "pool_timeout": 0.2} | arguments
        url = address(arguments.pop("url", pg_url), driver)
        engines.append(create_async_engine(url, **{"poolclass": PulsePool} | arguments))
        return Watched(engines[-1])

    yield making
    for engine in engines:
        await engine.dispose()


@pytest.fixture(params=["poolclass", "plugin"])
async def watched(request, make, pg_url):
    if request.param == "poolclass":
        return make()
    return make(url=pg_url + "?plugin=pulsepool", poolclass=None)


async def test_a_fresh_pool_has_the_numbers_of_a_queue_pool(watched):
    assert watched.numbers == (2, 0, -2, 0)
    assert type(watched.engine.pool) is PulsePool
    assert watched.engine.pool.status() == (
        "Pool size: 2  Connections in pool: 0 Current Overflow: -2 Current Checked out connections: 0"
    )
    assert watched.engine.pool.timeout() == 0.2


async def test_every_event_of_a_checkout_and_a_return_fires_in_sqlalchemys_order(watched):
    async with watched.engine.connect():
        assert watched.said() == ["first_connect", "connect", "checkout"]
        assert watched.numbers == (2, 0, -1, 1)
    assert watched.said() == RETURNED
    assert watched.resets[-1] == PoolResetState(transaction_was_reset=False, terminate_only=False, asyncio_safe=True)
    assert watched.numbers == (2, 1, -1, 0)
    async with watched.engine.connect() as c:
        await c.execute(text("select 1"))
    assert watched.said() == ["checkout", *RETURNED]
    assert watched.resets[-1] == PoolResetState(transaction_was_reset=True, terminate_only=False, asyncio_safe=True)
    async with watched.engine.begin() as c:
        await c.execute(text("select 1"))
    assert watched.said() == ["checkout", *RETURNED]
    assert watched.resets[-1] == PoolResetState(transaction_was_reset=False, terminate_only=False, asyncio_safe=True)


async def test_overflow_opens_when_needed_and_is_kept(watched):
    held = [await watched.engine.connect() for _ in range(3)]
    assert watched.numbers == (2, 0, 1, 3)
    for connection in held:
        await connection.close()
    assert watched.numbers == (2, 3, 1, 0)
    assert "close" not in watched.said()


async def test_a_full_pool_raises_what_code_written_for_sqlalchemys_pool_catches(watched):
    held = [await watched.engine.connect() for _ in range(3)]
    began = time.monotonic()
    with pytest.raises(exc.TimeoutError, match=r"no connection within 0\.2 s") as caught:
        await watched.engine.connect()
    assert time.monotonic() - began < 1
    assert caught.value.code == "3o7r"
    assert isinstance(caught.value, PoolTimeout)
    assert watched.numbers == (2, 0, 1, 3)
    for connection in held:
        await connection.close()


async def test_a_connection_that_is_invalidated_is_closed_and_its_place_free(watched):
    connection = await watched.engine.connect()
    pid = await connection.scalar(PID)
    await connection.rollback()
    watched.said()
    await connection.invalidate()
    assert watched.said() == ["invalidate", "close", "checkin"]
    assert watched.numbers == (2, 0, -2, 0)
    assert await connection.scalar(PID) != pid
    assert watched.said() == ["connect", "checkout"]
    await connection.close()
    assert watched.said() == RETURNED


async def test_a_connection_that_is_softly_invalidated_is_lent_no_more(watched):
    connection = await watched.engine.connect()
    pid = await connection.scalar(PID)
    watched.said()
    (await connection.get_raw_connection()).invalidate(soft=True)
    assert watched.said() == ["soft_invalidate"]
    await connection.close()
    await watched.settled()
    assert watched.said() == [*RETURNED, "close"]
    async with watched.engine.connect() as other:
        assert await other.scalar(PID) != pid


async def test_a_detached_connection_leaves_its_place_and_lives(watched, driver):
    connection = await watched.engine.connect()
    pid = await connection.scalar(PID)
    watched.said()
    raw = await connection.get_raw_connection()
    detached = raw.driver_connection
    raw.detach()
    assert watched.said() == ["detach"]
    assert watched.numbers == (2, 0, -2, 0)
    assert raw._connection_record is None
    assert raw.record_info is None
    assert watched.engine.pool.core.counters.lost == 0
    assert await connection.scalar(PID) == pid
    await connection.close()
    await detached.close()  # SQLAlchemy drops psycopg's as it is
    assert watched.said() == (["reset", "close_detached"] if driver == "asyncpg" else ["reset"])
    async with watched.engine.connect() as other:
        assert await other.scalar(PID) != pid


@pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")
async def test_a_connection_that_nobody_returned_is_ended_by_the_collector_and_its_place_is_free(make):
    watched = make(pool_size=1, max_overflow=0)
    raw = await watched.engine.raw_connection()
    dropped = raw.driver_connection
    watched.said()
    del raw
    gc.collect()
    await asyncio.sleep(0)
    await dropped.close()  # SQLAlchemy leaves psycopg's to its own fate
    assert watched.said()[:2] == ["reset", "detach"]
    assert watched.resets[-1].terminate_only
    assert watched.numbers == (1, 0, -1, 0)
    async with watched.engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1


async def test_disposing_closes_what_idles_and_what_comes_home_later(watched):
    first, second = await watched.engine.connect(), await watched.engine.connect()
    await first.close()
    old, core = watched.engine.pool, watched.engine.pool.core
    watched.said()
    await watched.engine.dispose()
    assert watched.said() == ["close", "engine_disposed"]
    assert watched.engine.pool is not old
    assert watched.numbers == (2, 0, -2, 0)
    assert await second.scalar(text("select 1")) == 1
    await second.close()
    async with asyncio.timeout(5):
        while core.slots:
            await asyncio.sleep(0.002)
    assert watched.said() == [*RETURNED, "close"]
    async with watched.engine.connect():
        assert watched.said() == ["first_connect", "connect", "checkout"]


async def test_disposing_without_closing_leaves_the_connections_alone(watched):
    async with watched.engine.connect() as c:
        pid = await c.scalar(PID)
        watched.said()
        await watched.engine.dispose(close=False)
        assert watched.said() == ["engine_disposed"]
        assert await c.scalar(PID) == pid
        async with watched.engine.connect() as other:
            assert await other.scalar(PID) != pid
        await c.invalidate()  # nobody else closes it


async def test_who_waits_while_the_engine_is_disposed_of_gets_a_connection_of_the_next_pool(make):
    watched = make(pool_size=1, max_overflow=0, pool_timeout=5)

    async def ask() -> int:
        async with watched.engine.connect() as served:
            return await served.scalar(text("select 1"))

    async with watched.engine.connect():
        waiting = asyncio.create_task(ask())
        async with asyncio.timeout(5):
            while not watched.engine.pool.core.line.waiting:
                await asyncio.sleep(0)
        await watched.engine.dispose()
        assert await asyncio.wait_for(waiting, 2) == 1


async def test_recreating_keeps_arguments_and_listeners(make):
    watched = make(
        pool_size=3, max_overflow=4, pool_recycle=600, min_size=1, max_idle=7, validate_after=2, leak_after=9
    )
    old = watched.engine.sync_engine.pool
    new = old.recreate()
    assert type(new) is PulsePool
    assert new.limits == old.limits
    assert (new.limits.max_size, new.limits.max_lifetime, new.limits.max_idle) == (7, 600, 7)
    assert (new.size(), new.timeout()) == (old.size(), old.timeout())
    assert list(new.dispatch.checkout) == list(old.dispatch.checkout) != []
    assert (new._reset_on_return, new._dialect, new._creator) == (old._reset_on_return, old._dialect, old._creator)


async def test_a_checkout_listener_that_disconnects_twice_is_refused_as_by_sqlalchemy(make):
    watched = make(pool_size=1, max_overflow=0)
    async with watched.engine.connect():
        pass
    watched.said()

    def refuse(*_):
        raise exc.DisconnectionError("no good")

    event.listen(watched.engine.sync_engine, "checkout", refuse)
    with pytest.raises(exc.InvalidRequestError, match="This connection is closed"):
        await watched.engine.connect()
    again = ["checkout", "invalidate", "close", "connect"]
    assert watched.said() == [*again, *again, "invalidate", "close", "checkin"]
    event.remove(watched.engine.sync_engine, "checkout", refuse)
    async with watched.engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1


class Fury(BaseException):
    pass


@pytest.mark.parametrize("kind", [RuntimeError, Fury])
async def test_a_checkout_listener_that_raises_costs_no_place(make, kind):
    watched = make(pool_size=1, max_overflow=0)

    def refuse(*_):
        raise kind("no")

    event.listen(watched.engine.sync_engine, "checkout", refuse)
    with pytest.raises(kind):
        await watched.engine.connect()
    assert watched.said()[-4:] == ["checkout", "invalidate", "close", "checkin"]
    event.remove(watched.engine.sync_engine, "checkout", refuse)
    async with watched.engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1


async def test_a_connect_listener_that_raises_is_called_once_and_leaves_no_connection(make, backends):
    watched = make(pool_size=1, max_overflow=0, pool_timeout=3)

    def refuse(*_):
        raise RuntimeError("not ready")

    event.listen(watched.engine.sync_engine, "connect", refuse)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="not ready"):
        await watched.engine.connect()
    assert time.monotonic() - began < 0.5
    assert watched.said() == ["first_connect", "connect"]
    assert await backends() == 0
    event.remove(watched.engine.sync_engine, "connect", refuse)
    async with asyncio.timeout(2):  # a moment after a refusal, the next caller gets the same answer
        while True:
            with contextlib.suppress(RuntimeError):
                async with watched.engine.connect() as c:
                    assert await c.scalar(text("select 1")) == 1
                break
            await asyncio.sleep(0.01)


@pytest.fixture
async def backends(pg_server, pg_url):
    """How many connections this test's database has, once those that are being closed have gone."""
    name = pg_url.rsplit("/", 1)[1]
    watcher = create_async_engine(address(pg_server.url(), "psycopg"), poolclass=NullPool)

    async def count(at_most: int = 0) -> int:
        ask = text("select count(*) from pg_stat_activity where datname = :name and backend_type = 'client backend'")
        async with watcher.connect() as c:
            for _ in range(200):
                if (found := await c.scalar(ask, {"name": name})) <= at_most:
                    break
                await c.rollback()
                await asyncio.sleep(0.01)
            return found

    return count


async def test_a_reset_listener_that_raises_costs_the_connection_and_no_place(make):
    watched = make(pool_size=1, max_overflow=0)
    connection = await watched.engine.connect()
    pid = await connection.scalar(PID)

    def refuse(*_):
        raise Fury

    event.listen(watched.engine.sync_engine, "reset", refuse)
    with pytest.raises(Fury):
        await connection.close()
    event.remove(watched.engine.sync_engine, "reset", refuse)
    async with watched.engine.connect() as other:
        assert await other.scalar(PID) != pid


@pytest.mark.parametrize(
    ("how", "kept"), [("rollback", 0), (True, 0), ("commit", 1)], ids=["rollback", "True", "commit"]
)
async def test_reset_on_return_does_what_it_says_to_what_was_left_open(make, how, kept):
    watched = make(pool_size=1, max_overflow=0, pool_reset_on_return=how)
    async with watched.engine.begin() as c:
        await c.execute(text("create table t (i int)"))
    raw = await watched.engine.raw_connection()
    await greenlet_spawn(lambda: raw.cursor().execute("insert into t values (1)"))
    await greenlet_spawn(raw.close)
    async with watched.engine.connect() as c:
        assert await c.scalar(text("select count(*) from t")) == kept


async def test_without_reset_on_return_a_transaction_stays_open(make):
    watched = make(pool_size=1, max_overflow=0, pool_reset_on_return=None)
    raw = await watched.engine.raw_connection()
    await greenlet_spawn(lambda: raw.cursor().execute("create table t (i int)"))
    await greenlet_spawn(raw.close)

    def look(raw):
        cursor = raw.cursor()
        cursor.execute("select count(*) from t")
        found = cursor.fetchone()
        raw.rollback()
        raw.close()
        return found[0]

    assert await greenlet_spawn(look, await watched.engine.raw_connection()) == 0


async def test_pre_ping_replaces_a_connection_that_died_since_its_last_use(make):
    watched = make(pool_pre_ping=True)
    async with watched.engine.connect() as c:
        pid = await c.scalar(PID)
    async with watched.engine.connect() as c, watched.engine.connect() as other:
        dying, killer = (c, other) if await c.scalar(PID) == pid else (other, c)
        await dying.rollback()
        await killer.execute(text(f"select pg_terminate_backend({pid})"))
    async with watched.engine.connect() as c, watched.engine.connect() as other:
        assert pid not in [await c.scalar(PID), await other.scalar(PID)]


async def test_recycle_replaces_a_connection_that_is_too_old(make):
    watched = make(pool_recycle=60)
    async with watched.engine.connect() as c:
        pid = await c.scalar(PID)
    (slot,) = watched.engine.pool.core.slots
    slot.born -= 61
    watched.engine.pool.core._keeper.tick()
    await watched.settled()
    async with watched.engine.connect() as c:
        assert await c.scalar(PID) != pid


async def test_a_pool_timeout_of_0_waits_for_no_holder_but_for_a_connect(make):
    watched = make(pool_size=1, max_overflow=0, pool_timeout=0)
    async with watched.engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1
        began = time.monotonic()
        with pytest.raises(exc.TimeoutError):
            await watched.engine.connect()
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("arguments", [{"pool_size": 0}, {"pool_size": 1, "max_overflow": -1}])
async def test_no_limit_is_no_limit(make, arguments):
    watched = make(**arguments)
    async with contextlib.AsyncExitStack() as held:
        for _ in range(8):
            await held.enter_async_context(watched.engine.connect())
        assert watched.engine.pool.checkedout() == 8
        assert watched.engine.pool.overflow() == (0 if arguments["pool_size"] == 0 else 7)


@pytest.mark.parametrize("lifo", [True, False])
async def test_use_lifo_is_taken(make, lifo):
    async with make(pool_use_lifo=lifo).engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", -1),
        ("pool_size", "5"),
        ("pool_size", True),
        ("max_overflow", -2),
        ("max_overflow", 1.5),
        ("pool_timeout", -1),
        ("pool_timeout", float("nan")),
        ("pool_timeout", None),
        ("pool_recycle", -2),
        ("pool_recycle", "soon"),
        ("min_size", -1),
        ("max_idle", 0),
        ("max_waiting", -1),
        ("validate_after", -0.1),
        ("keepalive", "often"),
        ("leak_after", -3),
        ("connect_timeout", 0),
    ],
)
async def test_a_wrong_value_is_refused_by_name(make, name, value):
    with pytest.raises(ConfigurationError, match=name) as caught:
        make(**{name: value})
    assert repr(value) in str(caught.value)


async def test_more_kept_warm_than_there_may_be_is_refused(make):
    with pytest.raises(ConfigurationError, match="min_size=9"):
        make(min_size=9)


async def test_an_argument_that_nobody_knows_is_sqlalchemys_type_error(make):
    with pytest.raises(TypeError, match="pool_sise"):
        make(pool_sise=3)


async def test_one_who_waits_too_many_is_turned_away_at_once(make):
    watched = make(pool_size=1, max_overflow=0, pool_timeout=5, max_waiting=0)
    async with watched.engine.connect():
        with pytest.raises(exc.TimeoutError, match="max_waiting=0"):
            await watched.engine.connect()


async def outcome(engine) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
        async with asyncio.timeout(10), engine.connect():
            pass
    await engine.dispose()
    return caught.value


@pytest.mark.parametrize("wrong", ["password", "database", "port"])
async def test_a_refused_connect_raises_what_it_raises_with_sqlalchemys_own_pool(pg_url, driver, wrong, nowhere):
    dsn = Dsn.parse(pg_url)
    changed = {
        "password": dsn.replace(password="no"),
        "database": dsn.replace(database="nowhere"),
        "port": Dsn.parse(f"postgresql://nobody@127.0.0.1:{nowhere}/none"),
    }[wrong]
    url = changed.sqlalchemy_url(driver)
    usual = await outcome(create_async_engine(url))
    began = time.monotonic()
    ours = await outcome(create_async_engine(url, poolclass=PulsePool))
    assert time.monotonic() - began < 3
    assert type(ours) is type(usual)
    assert type(ours.__cause__) is type(usual.__cause__)
    assert type(getattr(ours, "orig", None)) is type(getattr(usual, "orig", None))


@pytest.fixture
def nowhere() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def test_a_lost_connection_is_told_and_its_pool_goes_on(make):
    watched = make()
    async with watched.engine.connect() as killer:
        lost = await watched.engine.connect()
        pid = await lost.scalar(PID)
        watched.said()
        await killer.execute(text(f"select pg_terminate_backend({pid})"))
        with pytest.raises(exc.DBAPIError) as caught:
            await lost.execute(text("select 1"))
        assert caught.value.connection_invalidated
        assert watched.said() == ["invalidate", "close", "checkin"]
        await lost.close()
    async with watched.engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1


async def test_one_found_dead_has_the_others_asked_and_not_closed(make):
    watched = make(validate_after=60)
    async with watched.engine.connect() as first, watched.engine.connect() as second:
        pid = await second.scalar(PID)
        await first.invalidate()
    watched.engine.pool._invalidate(None)
    await watched.settled()
    async with watched.engine.connect() as c:
        assert await c.scalar(PID) == pid


async def test_many_at_once_right_after_a_dispose_are_all_served(make):
    watched = make(pool_size=10, max_overflow=0, pool_timeout=5)

    async def ask(number: int) -> int:
        async with watched.engine.connect() as c:
            return await c.scalar(text(f"select {number}"))

    assert await asyncio.gather(*map(ask, range(40))) == list(range(40))
    await watched.engine.dispose()
    assert await asyncio.gather(*map(ask, range(40))) == list(range(40))
    assert watched.engine.pool.checkedout() == 0
    assert watched.engine.pool.checkedin() <= 10


async def test_nobody_gets_a_connection_before_the_first_ones_dialect_is_made_ready(make):
    watched = make(pool_size=5)
    watched.engine.sync_engine.dialect.server_version_info = None
    seen = []
    event.listen(
        watched.engine.sync_engine, "checkout", lambda *_: seen.append(watched.engine.dialect.server_version_info)
    )

    async def ask() -> None:
        async with watched.engine.connect():
            pass

    await asyncio.gather(*(ask() for _ in range(3)))
    assert len(seen) == 3
    assert None not in seen


async def test_the_plugin_leaves_no_trace_in_the_url(make, pg_url):
    watched = make(url=pg_url + "?plugin=pulsepool&application_name=x", poolclass=None, pool_size=3)
    assert "plugin" not in watched.engine.url.query
    assert isinstance(watched.engine.pool, PulsePool)
    assert watched.engine.pool.size() == 3


@pytest.mark.parametrize("chosen", [NullPool, AsyncAdaptedQueuePool])
async def test_a_poolclass_that_was_chosen_wins_over_the_plugin(pg_url, driver, chosen):
    engine = create_async_engine(address(pg_url, driver) + "?plugin=pulsepool", poolclass=chosen)
    assert type(engine.pool) is chosen
    async with engine.connect() as c:
        assert await c.scalar(text("select 1")) == 1
    await engine.dispose()


def test_a_synchronous_engine_keeps_its_pool(pg_url, driver):
    url = address(pg_url, driver.replace("asyncpg", "psycopg2"))
    engine = create_engine(url + "?plugin=pulsepool", pool_size=2)
    assert type(engine.pool) is QueuePool
    with engine.connect() as c:
        assert c.scalar(text("select 1")) == 1
    engine.dispose()


def test_poolclass_on_a_synchronous_engine_is_refused_as_sqlalchemy_refuses_it(pg_url, driver):
    with pytest.raises(exc.ArgumentError, match="cannot be used with non-asyncio engine"):
        create_engine(address(pg_url, driver.replace("asyncpg", "psycopg2")), poolclass=PulsePool)


async def test_the_error_that_a_wrong_isolation_level_is_comes_alone(make):
    watched = make(isolation_level="FOO")
    with pytest.raises(exc.ArgumentError, match="FOO") as caught:
        await watched.engine.connect()
    assert caught.value.__context__ is None


async def test_a_record_keeps_its_info_as_long_as_its_connection(make):
    watched = make(pool_size=1, max_overflow=0)
    raw = await watched.engine.raw_connection()
    raw.info["kept"] = 1
    await greenlet_spawn(raw.close)
    raw = await watched.engine.raw_connection()
    assert raw.info["kept"] == 1
    assert raw.is_valid
    assert raw.driver_connection is raw._connection_record.driver_connection
    await greenlet_spawn(raw.invalidate)
    assert raw.dbapi_connection is None
    raw = await watched.engine.raw_connection()
    assert "kept" not in raw.info
    await greenlet_spawn(raw.close)


def test_in_memory_sqlite_keeps_its_single_connection(driver):
    pytest.importorskip("aiosqlite")
    engine = create_async_engine("sqlite+aiosqlite://?plugin=pulsepool")
    assert type(engine.pool) is StaticPool
