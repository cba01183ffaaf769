"""`Database`: what it says at start, what it leaves at stop, and how both engines reach the same place."""

import asyncio
import contextlib
import logging
import threading
import time

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from pulsepool import ConfigurationError, Database, DatabaseUnavailable, Dsn, PoolClosed, PulsePoolError
from tests.planted import PLANTED


async def show(db: Database, name: str) -> str:
    async with db.session() as s:
        return await s.scalar(text("select current_setting(:name)"), {"name": name})


async def recovers(db: Database) -> None:
    """It works again, within a second: what is known to be down is asked again before that."""
    async with asyncio.timeout(1):
        while True:
            with contextlib.suppress(DatabaseUnavailable):
                assert await show(db, "application_name") == "pulsepool"
                break
            await asyncio.sleep(0.01)


async def count_backends(db: Database, application: str = "%") -> int:
    async with db.session() as s:
        counted = (
            "select count(*) from pg_stat_activity where datname = current_database() and application_name like :a"
        )
        return await s.scalar(text(counted), {"a": application})


async def backend_pid(s) -> int:
    return await s.scalar(text("select pg_backend_pid()"))


async def test_start_opens_the_least_number_of_connections_and_stop_closes_all(pg_url):
    watcher = Database(pg_url, application_name="watcher")
    async with watcher:
        async with Database(pg_url, min_size=3) as db:
            assert db.async_engine.pool.checkedin() == 3
            assert await count_backends(watcher) == 4
        async with asyncio.timeout(5):
            while await count_backends(watcher) != 1:
                await asyncio.sleep(0.01)


async def test_a_database_can_be_started_again(pg_url):
    db = Database(pg_url)
    for _ in range(2):
        async with db:
            assert await show(db, "application_name") == "pulsepool"


async def test_starting_what_is_started_does_nothing(pg_url, caplog):
    db = Database(pg_url, max_size=1, acquire_timeout=0.2)
    with caplog.at_level(logging.INFO, "pulsepool"):
        async with db, db.session() as s:
            await s.execute(text("select 1"))
            await db.start()  # which would find no connection free
    assert caplog.text.count("started") == 1


async def test_a_start_that_opens_none_to_keep_still_finds_out_what_cannot_work(pg_url):
    with pytest.raises(DatabaseUnavailable, match="nothing listens"):
        await Database(Dsn.parse(pg_url).replace(port=1), min_size=0).start()


async def test_stop_closes_the_sync_engine_that_nobody_has_used_yet(pg_url):
    async with Database(pg_url) as db:
        pass
    with pytest.raises(PoolClosed, match=r"'main \(sync\)' is closed"):
        await asyncio.to_thread(db.sync_engine.connect)


WRONG = pytest.mark.parametrize(
    ("change", "says", "remedy"),
    [
        ({"password": "wrong"}, "refused the password of user 'postgres' (28P01)", "check the password in the address"),
        ({"user": "nobody_here"}, "refused the password of user 'nobody_here'", "check the password in the address"),
        ({"database": "missing"}, "has no database 'missing' (3D000)", "create it"),
        ({"port": 1}, "nothing listens at 127.0.0.1:1", "start PostgreSQL there"),
        ({"host": "no-such-host.invalid"}, "the host name of no-such-host.invalid", "check the address"),
        ({"host": "/nowhere"}, "nothing listens at /nowhere", "start PostgreSQL there"),
        ({"sslmode": "require"}, "no TLS with the server at 127.0.0.1", "check sslmode"),
    ],
)


@WRONG
async def test_what_cannot_work_is_known_at_start_in_words_with_a_remedy(pg_url, change, says, remedy):
    db = Database(Dsn.parse(pg_url).replace(**change), connect_timeout=3)
    with pytest.raises(DatabaseUnavailable) as failed:
        await db.start()
    assert says in failed.value.message
    assert remedy in failed.value.hint
    assert PLANTED not in str(failed.value)
    assert db.async_engine.pool.checkedout() == 0
    with pytest.raises(PoolClosed):
        await db.async_engine.connect()


@WRONG
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_synchronous_engine_says_the_same(pg_url, change, says, remedy, driver):
    engine = Database(Dsn.parse(pg_url).replace(driver=driver, **change), connect_timeout=3).sync_engine
    with pytest.raises(DatabaseUnavailable) as failed:
        engine.connect()
    assert says in failed.value.message
    assert remedy in failed.value.hint
    assert PLANTED not in str(failed.value)


async def test_a_server_that_accepts_and_never_answers_costs_no_more_than_the_connect_timeout():
    done, closed = asyncio.Event(), asyncio.Event()

    async def silence(_reader, writer):
        await done.wait()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"did not answer within 0\.3 s"):
            await Database(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable", connect_timeout=0.3).start()
        assert time.monotonic() - started < 3
        done.set()
        await asyncio.wait_for(closed.wait(), 5)


async def test_stop_waits_for_the_work_under_way(pg_url):
    db = Database(pg_url)
    await db.start()
    working = asyncio.Event()

    async def work() -> int:
        async with db.session() as s:
            working.set()
            return await s.scalar(text("select 7 from pg_sleep(0.2)"))

    task = asyncio.create_task(work())
    await working.wait()
    await asyncio.sleep(0.05)
    await db.stop()
    assert await task == 7


async def test_stop_ends_by_its_deadline_what_does_not_end_by_itself(pg_url, caplog):
    db = Database(pg_url)
    await db.start()

    async def work() -> None:
        async with db.session() as s:
            await s.execute(text("select pg_sleep(60)"))

    task = asyncio.create_task(work())
    async with asyncio.timeout(5):
        while not db.async_engine.pool.checkedout():
            await asyncio.sleep(0.005)
    started = time.monotonic()
    await db.stop(deadline=1.2)
    assert time.monotonic() - started < 1.2
    assert "1 connections were still held" in caplog.text
    with pytest.raises(DatabaseUnavailable):
        await task


async def test_a_caller_who_waits_when_the_database_stops_is_refused_and_opens_nothing(pg_url):
    db = Database(pg_url, max_size=1, acquire_timeout=30)
    await db.start()
    async with Database(pg_url) as watcher:

        async def sleep() -> None:
            async with db.session() as s:
                await s.execute(text("select pg_sleep(60)"))

        async def wait() -> None:
            async with db.session() as s:
                await s.execute(text("select 1"))

        holder = asyncio.create_task(sleep())
        async with asyncio.timeout(5):
            while not db.async_engine.pool.checkedout():
                await asyncio.sleep(0.005)
        waiters = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0.05)
        await db.stop(deadline=0.3)
        with pytest.raises(DatabaseUnavailable):
            await holder
        async with asyncio.timeout(2):
            for waiter in waiters:
                with pytest.raises(PoolClosed):
                    await waiter
        async with watcher.session() as s:
            idle = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle'"
            assert await s.scalar(text(idle)) == 0


async def test_stop_waits_for_synchronous_work_too(pg_url):
    db = Database(pg_url)
    await db.start()
    working = threading.Event()

    def work() -> int:
        with db.sync_session() as s:
            s.execute(text("select 1"))
            working.set()
            return s.scalar(text("select 7 from pg_sleep(0.2)"))

    task = asyncio.create_task(asyncio.to_thread(work))
    assert await asyncio.to_thread(working.wait, 5)
    await db.stop()
    assert task.done() or await asyncio.wait_for(task, 1) == 7
    assert await task == 7


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_at_the_deadline_a_synchronous_session_loses_its_connection(pg_url, driver):
    db = Database(Dsn.parse(pg_url).replace(driver=driver))
    await db.start()

    def work() -> None:
        with db.sync_session() as s:
            s.execute(text("select pg_sleep(60)"))

    task = asyncio.create_task(asyncio.to_thread(work))
    async with asyncio.timeout(5):
        while not db.sync_engine.pool.checkedout():
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)
    await db.stop(deadline=0.4)
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(task, 2)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_stop_ends_by_its_deadline_when_the_server_is_frozen_under_a_synchronous_session(
    own_server, frozen, driver
):
    db = Database(Dsn.parse(own_server.url("postgres")).replace(driver=driver))
    await db.start()
    holding, released = threading.Event(), threading.Event()

    def work() -> None:
        with db.sync_session() as s:
            s.execute(text("select 1"))
            holding.set()
            released.wait(20)
            s.execute(text("select 1"))

    task = asyncio.create_task(asyncio.to_thread(work))
    assert await asyncio.to_thread(holding.wait, 5)
    with frozen(own_server):
        async with asyncio.timeout(5):
            await db.stop(deadline=0.4)
        released.set()
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(task, 5)


async def test_cycles_of_stop_and_start_under_load_share_no_connection_and_leak_none(pg_url):
    """A pool that was stopped never lends again, not even when its successor is open already."""
    db = Database(pg_url, max_size=4, acquire_timeout=0.5, application_name="cycled")
    holders: dict[int, int] = {}
    shared: list[int] = []
    over = asyncio.Event()

    async def call() -> None:
        while not over.is_set():
            try:
                async with db.session() as s:
                    pid = await backend_pid(s)
                    if holders.get(pid, 0):
                        shared.append(pid)
                    holders[pid] = holders.get(pid, 0) + 1
                    try:
                        await s.execute(text("select pg_sleep(0.002)"))
                    finally:
                        holders[pid] -= 1
            except PulsePoolError:
                await asyncio.sleep(0)

    async with Database(pg_url) as watcher:
        await db.start()
        callers = [asyncio.create_task(call()) for _ in range(40)]
        for cycle in range(12):
            await asyncio.sleep(0.03)
            await db.stop(deadline=0.02 * (cycle % 3))
            await db.start()
            assert await count_backends(watcher, "cycled") <= 4 + 4, "beyond those just being ended"
        over.set()
        await asyncio.wait_for(asyncio.gather(*callers), 5)
        await db.stop()
        assert shared == []
        async with asyncio.timeout(5):
            while await count_backends(watcher, "cycled"):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_start_leaves_nothing_and_the_next_one_works(pg_url, times):
    async with Database(pg_url) as watcher:
        for wait in (0.0, 0.002, 0.005, 0.01, 0.02, 0.03):
            db = Database(pg_url, min_size=3, max_size=3, acquire_timeout=1, application_name="cancelled")
            task = asyncio.create_task(db.start())
            await asyncio.sleep(wait)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(task, return_exceptions=True)
            await db.start()
            await db.stop()
            async with asyncio.timeout(5):
                while await count_backends(watcher, "cancelled"):
                    await asyncio.sleep(0.01)


async def test_a_cancelled_stop_closes_all_the_same(pg_url):
    async with Database(pg_url) as watcher:
        db = Database(pg_url, min_size=4, application_name="cancelled")
        await db.start()
        task = asyncio.create_task(db.stop())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            while await count_backends(watcher, "cancelled"):
                await asyncio.sleep(0.01)


async def test_of_two_who_run_it_the_first_to_leave_does_not_stop_it(pg_url):
    db = Database(pg_url)
    stays = asyncio.Event()

    async def quick() -> None:
        async with db:
            pass

    async def patient() -> str:
        async with db.running(stop_deadline=1):
            await stays.wait()
            return await show(db, "application_name")

    for order in ([patient, quick], [quick, patient]):
        stays.clear()
        tasks = {one: asyncio.create_task(one()) for one in order}
        await tasks[quick]
        stays.set()
        assert await tasks[patient] == "pulsepool"
    with pytest.raises(PoolClosed):
        await show(db, "application_name")


def test_it_can_be_run_in_one_event_loop_after_another(pg_url):
    db = Database(pg_url)

    async def run() -> str:
        await asyncio.gather(db.start(), db.start())
        try:
            return await show(db, "application_name")
        finally:
            await db.stop()

    assert [asyncio.run(run()) for _ in range(2)] == ["pulsepool"] * 2


@pytest.mark.parametrize("answer", [None, 5, b"bytes"])
async def test_a_password_callable_that_gives_no_text_is_refused_by_name(pg_url, answer):
    db = Database(Dsn.parse(pg_url).replace(password=None), password=lambda: answer)
    with pytest.raises(ConfigurationError, match=f"gave {type(answer).__name__}"):
        await db.start()


async def test_a_password_callable_may_give_a_secret(pg_url):
    async with Database(Dsn.parse(pg_url).replace(password=None), password=lambda: SecretStr(PLANTED)) as db:
        assert await show(db, "application_name") == "pulsepool"


async def test_two_who_start_it_at_the_same_time_both_have_it(pg_url):
    db = Database(pg_url, min_size=4, max_size=4, acquire_timeout=1)
    await asyncio.gather(db.start(), db.start())
    assert await show(db, "application_name") == "pulsepool"
    await db.stop()


async def test_the_inner_of_two_blocks_does_not_stop_it_for_the_outer(pg_url):
    async with Database(pg_url) as db:
        async with db:
            pass
        assert await show(db, "application_name") == "pulsepool"
    with pytest.raises(PoolClosed):
        await show(db, "application_name")


async def test_stop_ends_by_its_deadline_when_the_server_is_frozen(own_server, frozen):
    db = Database(own_server.url("postgres"), min_size=2)
    await db.start()
    with frozen(own_server):
        started = time.monotonic()
        await db.stop(deadline=0.5)
        assert time.monotonic() - started < 1.5


async def test_a_frozen_server_costs_a_statement_its_timeout_and_everything_works_when_it_thaws(own_server, frozen):
    async with Database(own_server.url("postgres"), statement_timeout=0.3, connect_timeout=0.3) as db:
        with frozen(own_server):
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable, match="stopped answering"):
                await show(db, "application_name")
            assert time.monotonic() - started < 3
        assert await show(db, "application_name") == "pulsepool"


async def test_an_idle_connection_that_does_not_answer_is_replaced_before_it_is_lent(own_server, frozen, monkeypatch):
    monkeypatch.setattr("pulsepool.pool.keeper.ASKING", 0.2)
    async with Database(own_server.url("postgres"), validate_after=0, connect_timeout=0.3) as db:
        assert await show(db, "application_name") == "pulsepool"
        with frozen(own_server), pytest.raises(DatabaseUnavailable, match="did not answer within"):
            await show(db, "application_name")
        await recovers(db)


async def test_a_killed_server_is_unavailable_at_once_and_back_without_a_restart_of_ours(own_server):
    async with Database(own_server.url("postgres"), min_size=3) as db:
        own_server.kill()
        with pytest.raises(DatabaseUnavailable):
            await show(db, "application_name")
        with pytest.raises(DatabaseUnavailable, match="nothing listens"):
            await show(db, "application_name")
        own_server.start()
        await recovers(db)


async def test_one_dead_connection_does_not_condemn_the_healthy_ones(pg_url):
    async with Database(pg_url, min_size=3) as db, Database(pg_url) as watcher:
        async with db.async_engine.connect() as c:
            victim = await c.scalar(text("select pg_backend_pid()"))
            driver = (await c.get_raw_connection()).driver_connection
        async with watcher.session() as s:
            before = set(await s.scalars(text("select pid from pg_stat_activity where datname = current_database()")))
            await s.scalar(text("select pg_terminate_backend(:pid, 5000)"), {"pid": victim})
        async with asyncio.timeout(5):
            while not driver.is_closed():
                await asyncio.sleep(0.005)
        async with db.async_engine.connect() as a, db.async_engine.connect() as b, db.async_engine.connect() as c:
            after = {await each.scalar(text("select pg_backend_pid()")) for each in (a, b, c)}
        assert len(after) == 3
        assert len(after & before) == 2, "a healthy connection was replaced too"
        assert victim not in after


async def test_both_engines_reach_the_same_database_with_the_same_limits(pg_url):
    async with Database(pg_url, statement_timeout=1.5, idle_in_transaction_timeout=60) as db:

        def sync_show(name: str) -> str:
            with db.sync_session() as s:
                return s.scalar(text("select current_setting(:name)"), {"name": name})

        for name, value in {
            "statement_timeout": "1500ms",
            "idle_in_transaction_session_timeout": "1min",
            "application_name": "pulsepool",
        }.items():
            assert await show(db, name) == value
            assert await asyncio.to_thread(sync_show, name) == value


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_the_sync_driver_is_the_one_that_the_address_names(pg_url, driver):
    async with Database(pg_url.replace("postgresql:", f"postgresql+{driver}:")) as db:
        assert db.sync_engine.driver == driver
        with db.sync_engine.connect() as c:
            assert c.scalar(text("select 1")) == 1


async def test_a_missing_sync_driver_is_named_with_the_remedy(pg_url, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="pulsepool\\[sync\\]"):
        _ = Database(pg_url).sync_engine


async def test_the_address_may_name_the_application_and_a_setting_said_outright_wins(pg_url):
    named = f"{pg_url}?application_name=theirs"
    async with Database(named) as db:
        assert await show(db, "application_name") == "theirs"
    async with Database(named, application_name="ours") as db:
        assert await show(db, "application_name") == "ours"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_callable_password_is_asked_for_each_new_connection_of_either_engine(pg_url, asynchronous):
    asked = 0

    def password() -> str:
        nonlocal asked
        asked += 1
        return PLANTED

    async def async_password() -> str:
        return password()

    dsn = Dsn.parse(pg_url).replace(password=None)
    async with Database(dsn, min_size=2, password=async_password if asynchronous else password) as db:
        assert asked == 2

        def sync_one() -> int:
            with db.sync_session() as s:
                return s.scalar(text("select 1"))

        assert await asyncio.to_thread(sync_one) == 1
        assert asked == 3


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("behaviour", "says"), [("raises", "raised KeyError"), ("hangs", "gave nothing in time")])
async def test_a_password_callable_that_fails_is_blamed_and_not_quoted(pg_url, asynchronous, behaviour, says):
    released = threading.Event()

    def password() -> str:
        if behaviour == "raises":
            raise KeyError("planted")
        released.wait(5)
        return "late"

    async def async_password() -> str:
        if behaviour == "raises":
            raise KeyError("planted")
        await asyncio.sleep(5)
        return "late"

    dsn = Dsn.parse(pg_url).replace(password=None)
    db = Database(dsn, connect_timeout=0.2, password=async_password if asynchronous else password)
    with pytest.raises(DatabaseUnavailable, match=says) as failed:
        await db.start()
    assert "planted" not in str(failed.value)
    db.open()
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match=says):
        await asyncio.to_thread(db.sync_engine.connect)
    assert time.monotonic() - started < 3
    released.set()


def test_a_password_apart_that_contradicts_the_address_is_refused():
    with pytest.raises(ConfigurationError, match="password"):
        Database("postgres://ed:one@db1/edbot", password="another")


def test_a_part_of_the_address_is_no_option():
    with pytest.raises(ConfigurationError, match="belongs into the address"):
        Database("postgres://ed@db1/edbot", host="db2")


async def test_the_connect_timeout_of_the_address_is_honoured_and_a_setting_said_outright_wins():
    done = asyncio.Event()

    async def silence(_reader, writer):
        await done.wait()
        writer.close()

    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        address = f"postgresql://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/d?sslmode=disable&connect_timeout=1"
        with pytest.raises(DatabaseUnavailable, match=r"within 1\.0 s"):
            await Database(address).start()
        with pytest.raises(DatabaseUnavailable, match=r"within 0\.2 s"):
            await Database(address, connect_timeout=0.2).start()
        done.set()
        await asyncio.sleep(0.05)  # for the handlers to close


async def test_start_logs_the_address_without_its_password(pg_url, caplog):
    with caplog.at_level(logging.INFO, "pulsepool"):
        async with Database(pg_url):
            pass
    assert "database 'main' started: postgresql://postgres:***@127.0.0.1" in caplog.text
    assert PLANTED not in caplog.text


async def test_an_address_said_outright_does_not_listen_to_the_environment(pg_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://elsewhere/d")
    monkeypatch.setenv("DB_APPLICATION_NAME", "elsewhere")
    async with Database(pg_url) as db:
        assert await show(db, "application_name") == "pulsepool"


def test_one_that_could_not_be_made_can_still_be_shown():
    assert repr(Database.__new__(Database)) == "<Database ?: no address, not started>"


async def test_a_password_apart_from_the_address_is_used(pg_url):
    async with Database(Dsn.parse(pg_url).replace(password=None), password=PLANTED) as db:
        assert await show(db, "application_name") == "pulsepool"


async def test_a_database_from_the_environment(pg_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", pg_url)
    monkeypatch.setenv("DB_APPLICATION_NAME", "from the environment")
    async with Database.from_env(env_file=None) as db:
        assert await show(db, "application_name") == "from the environment"


async def test_a_database_from_a_file_of_another_name(pg_url, monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL")
    (tmp_path / "other.env").write_text(f"AUDIT_URL={pg_url}\nAUDIT_APPLICATION_NAME=from the file\n")
    async with Database.from_env("AUDIT_", env_file=tmp_path / "other.env") as db:
        assert await show(db, "application_name") == "from the file"


def test_its_repr_shows_the_state_and_no_password():
    db = Database("postgres://ed:planted@db1/edbot", name="audit")
    assert repr(db) == "<Database audit: postgresql://ed:***@db1/edbot, not started>"


@pytest.mark.parametrize("address", ["", "mysql://h/d", "postgres://h/d?sslmod=require", "postgres://h:0/d"])
def test_a_bad_address_is_refused_before_anything_connects(address):
    with pytest.raises(ConfigurationError) as refused:
        Database(address)
    assert isinstance(refused.value, PulsePoolError)
    assert refused.value.hint


def test_a_setting_that_has_no_effect_yet_is_said_loudly(caplog):
    Database("postgres://ed@db1/edbot", max_size=5, pgbouncer="on")
    assert [record.message for record in caplog.records] == ["database 'main': pgbouncer has no effect yet"]
