"""The direct lane and its neighbours at their edges: what a session leaves behind, odd arguments, limits of time."""

import asyncio
import contextlib
import io

import asyncpg
import pytest
from sqlalchemy import literal, select, text

from pulsepool import (
    CommitUnknown,
    ConfigurationError,
    Database,
    DatabaseUnavailable,
    PulsePoolError,
    StatementTimeout,
)
from tests.integration.test_pool_edges import end

FOREVER = "select pg_sleep(30)"
NO_TIMES = [float("nan"), float("inf"), "x"]


@pytest.fixture
async def db(pg_url):
    """A database with one connection, which all have to share."""
    async with Database(pg_url, max_size=1, acquire_timeout=3) as database:
        yield database
        assert await database.fetchval("select 1") == 1, "a test left the connection unusable"
        assert database.stats().in_use == 0, "a test left a connection behind"


async def session_state(db: Database) -> tuple:
    return tuple(
        await db.fetchrow(
            "select current_user = session_user as role, current_setting('work_mem') as memory,"
            " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks,"
            " to_regclass('pg_temp.own') is null as tables, (select count(*) from pg_listening_channels()) as channels"
        )
    )


async def in_session(db: Database, statement: str) -> None:
    async with db.session() as s:
        await s.execute(text(statement))


async def on_lane(db: Database, statement: str) -> None:
    await db.execute(statement)


async def in_loan(db: Database, statement: str) -> None:
    async with db.connection() as c:
        await c.execute(statement)


@pytest.mark.parametrize("how", [in_session, on_lane, in_loan])
@pytest.mark.parametrize(
    "statement",
    [
        "set work_mem = '3MB'",
        "set session work_mem = '3MB'",
        "select set_config('work_mem', '3MB', false)",
        "set role pg_monitor",
        "select pg_advisory_lock(99)",
        "create temp table own (i int)",
        "listen news",
    ],
)
async def test_what_a_statement_leaves_in_its_session_is_undone_before_the_next_caller(db, how, statement):
    before = await session_state(db)
    await how(db, statement)
    assert await session_state(db) == before
    assert db.stats().counters.restored == 1
    assert db.stats().counters.connects == 1


@pytest.mark.parametrize(
    "statement",
    ["set local work_mem = '3MB'", "set transaction isolation level serializable", "select pg_advisory_xact_lock(9)"],
)
async def test_what_ends_with_its_transaction_costs_no_reset(db, statement):
    await in_session(db, statement)
    assert await db.fetchval("select 1") == 1
    assert db.stats().counters.restored == 0


@pytest.mark.parametrize(
    ("how", "statement"),
    [
        (on_lane, "DISCARD ALL"),
        (on_lane, "deallocate all"),
        (in_loan, "DISCARD ALL"),
        (in_loan, "deallocate all"),
        (in_session, "deallocate all"),
    ],
)
async def test_statements_work_after_somebody_had_the_server_forget_what_was_prepared(db, how, statement):
    async def use() -> None:
        assert await db.fetchval("select 42") == 42
        assert await db.fetchval(select(literal(43))) == 43
        async with db.session() as s:
            assert await s.scalar(text("select 44")) == 44
        async with db.read() as s:
            assert await s.scalar(text("select 45")) == 45

    await use()
    await how(db, statement)
    await use()


@pytest.mark.parametrize("query", [select(literal(1)), None, 5])
async def test_a_copy_of_what_is_no_text_is_refused(db, query):
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="copy_from_query takes text"):
            await db.copy_from_query(query, output=io.BytesIO())


@pytest.mark.parametrize("seconds", NO_TIMES)
async def test_a_timeout_that_is_no_time_is_refused(db, seconds):
    async def stream() -> None:
        async with contextlib.aclosing(db.stream("select 1", timeout=seconds)) as rows:
            async for _ in rows:
                pytest.fail("it has no time")

    for asked in (
        db.fetch("select 1", timeout=seconds),
        db.fetchrow("select 1", timeout=seconds),
        db.fetchval(select(literal(1)), timeout=seconds),
        db.execute("select 1", timeout=seconds),
        db.executemany("select $1::int", [(1,)], timeout=seconds),
        db.copy_from_query("select 1", output=io.BytesIO(), timeout=seconds),
        stream(),
    ):
        with pytest.raises(ConfigurationError, match="is no time"):
            await asked


async def test_the_end_of_a_timeout_says_how_long_it_was_and_what_to_do(db):
    await db.execute("create table t (i int)")
    for call in (db.fetch, db.execute):
        with pytest.raises(StatementTimeout) as raised:
            await call(FOREVER, timeout=0.05)
        assert raised.value.message == "no answer within 0.05 s, and the statement was cancelled"
        assert raised.value.hint == "give it a longer timeout"
        assert isinstance(raised.value, TimeoutError)
        assert isinstance(raised.value, PulsePoolError)
    for write in ("insert into t select 1 from pg_sleep(30)", "with w as (select pg_sleep(30)) insert into t table w"):
        with pytest.raises(StatementTimeout) as raised:
            await db.execute(write.replace("table w", "select 1 from w"), timeout=0.05)
        assert raised.value.hint == "give it a longer timeout; look whether it happened before doing it again"
    with pytest.raises(StatementTimeout, match=r"within 0\.05 s"):
        async for _ in db.stream(FOREVER, timeout=0.05):
            pytest.fail("it has no rows in that time")
    assert await db.fetchval("select count(*) from t") == 0


@pytest.mark.parametrize("batch", ["x", None, 2**40, 0, 1.5, True])
async def test_a_batch_that_is_no_number_of_rows_is_refused(db, batch):
    with pytest.raises(ConfigurationError, match="rows make no stream"):
        async for _ in db.stream("select 1", batch=batch):
            pytest.fail("it makes no stream")


async def test_a_backend_that_ends_between_two_batches_of_a_stream_is_unavailable(db, pg_url):
    rows = db.stream("select pg_backend_pid() from generate_series(1, 1000)", batch=10)
    with pytest.raises(DatabaseUnavailable) as lost:
        async with contextlib.aclosing(rows):
            end(pg_url, [(await anext(rows))[0]])
            async for _ in rows:
                pass
    assert "try it again" in lost.value.hint


async def test_streams_whose_backends_end_at_any_moment_raise_nothing_but_that_they_are_unavailable(pg_url):
    killer = await asyncpg.connect(pg_url)
    outcomes: set[type] = set()
    async with Database(pg_url, max_size=5, acquire_timeout=3) as db:

        async def read() -> None:
            for _ in range(60):
                try:
                    async with contextlib.aclosing(db.stream("select generate_series(1, 200)", batch=10)) as rows:
                        outcomes.update([type(row) for row in [row async for row in rows][:1]])
                except Exception as error:  # noqa: BLE001 - what is raised is what is looked at
                    outcomes.add(type(error))

        readers = [asyncio.create_task(read()) for _ in range(10)]
        while not all(task.done() for task in readers):
            await killer.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() order by random() limit 2"
            )
            await asyncio.sleep(0.005)
        await asyncio.gather(*readers)
    await killer.close()
    assert {kind for kind in outcomes if issubclass(kind, Exception)} == {DatabaseUnavailable}


async def test_what_is_still_under_way_when_the_database_stops_is_given_up_by_the_server_too(pg_url):
    db = Database(pg_url)
    async with Database(pg_url) as watcher:
        await watcher.execute("create table late (a int)")
        await db.start()
        slow = asyncio.create_task(db.execute("insert into late select 1 from pg_sleep(2)"))
        async with asyncio.timeout(5):
            while not await watcher.fetchval("select count(*) from pg_stat_activity where query ~ '^insert into late'"):
                await asyncio.sleep(0.01)
        await db.stop(deadline=0.4)
        with pytest.raises((asyncpg.QueryCanceledError, CommitUnknown)):
            await slow
        busy = "select count(*) from pg_stat_activity where query ~ '^insert into late' and state = 'active'"
        async with asyncio.timeout(1):
            while await watcher.fetchval(busy):
                await asyncio.sleep(0.01)
        assert await watcher.fetchval("select count(*) from late") == 0
