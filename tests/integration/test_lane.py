"""The direct lane on a real server: every method, its errors by type, and nothing of one caller left for the next."""

import asyncio
import contextlib
import gc
import io
import threading
import tracemalloc

import asyncpg
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, delete, func, insert, select, text, update

from benchmarks.proxy import proxied
from pulsepool import (
    CommitUnknown,
    ConfigurationError,
    Database,
    DatabaseUnavailable,
    Dsn,
    NotHeld,
    PoolClosed,
    PoolTimeout,
    WrongLoop,
)
from tests.integration.test_sessions import waiting_in

item = Table("item", MetaData(), Column("id", Integer, primary_key=True), Column("name", Text))
BY_ID = select(item.c.id, item.c.name).where(item.c.id == bindparam("wanted"))
MANY = 200_000


@pytest.fixture
async def db(pg_url):
    """A database with one connection, so that the next caller gets what the last one left."""
    async with Database(pg_url, max_size=1, acquire_timeout=3) as database:
        await database.execute("create table item (id int primary key, name text)")
        await database.execute("insert into item values (1, 'one'), (2, 'two')")
        yield database
        assert database.stats().in_use == 0, "a test left a connection behind"
        assert await database.fetchval("select 1") == 1, "the connection is of no use any more"


async def cancelled(work, db: Database, event: str = "PgSleep") -> None:
    """Cancel `work` once the server is in the midst of it."""
    task = asyncio.ensure_future(work)
    async with Database(db.dsn) as watcher:
        await waiting_in(watcher, event)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def quiet(db: Database) -> None:
    """Return once the keeper has mended what came home."""
    async with asyncio.timeout(5):
        while db.stats().kept:
            await asyncio.sleep(0.005)


async def pid_of(db: Database) -> int:
    return await db.fetchval("select pg_backend_pid()")


async def test_every_way_of_asking_with_text(db):
    rows = await db.fetch("select * from item where id >= $1 order by id", 1)
    assert [dict(row) for row in rows] == [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    assert isinstance(rows[0], asyncpg.Record)
    assert (await db.fetchrow("select * from item where id = $1", 2))["name"] == "two"
    assert await db.fetchrow("select * from item where id = 9") is None
    assert await db.fetchval("select name from item where id = $1", 1) == "one"
    assert await db.fetchval("select name from item where id = 9") is None
    assert await db.execute("insert into item values ($1, $2)", 3, "three") == "INSERT 0 1"
    assert await db.execute("delete from item where id = 3; select 1") == "SELECT 1"
    await db.executemany("insert into item values ($1, $2)", [(4, "four"), (5, "five")])
    assert [row["id"] async for row in db.stream("select id from item where id > $1 order by id", 1, batch=2)] == [
        2,
        4,
        5,
    ]


async def test_every_way_of_asking_with_a_statement(db):
    assert [row.name for row in await db.fetch(BY_ID, {"wanted": 1})] == ["one"]
    row = await db.fetchrow(BY_ID, {"wanted": 2})
    assert (row.id, row[1], row["name"]) == (2, "two", "two")
    assert await db.fetchrow(BY_ID, {"wanted": 9}) is None
    assert await db.fetchval(select(func.count()).select_from(item)) == 2
    assert await db.fetchval(BY_ID, {"wanted": 9}) is None
    assert await db.execute(insert(item), {"id": 3, "name": "three"}) == "INSERT 0 1"
    assert await db.execute(update(item).where(item.c.id == 3).values(name="3")) == "UPDATE 1"
    assert (await db.fetch(delete(item).where(item.c.id == 3).returning(item.c.name)))[0].name == "3"
    await db.executemany(insert(item), [{"id": 4, "name": "four"}, {"id": 5, "name": "five"}])
    ids = [row.id async for row in db.stream(select(item.c.id).order_by(item.c.id), batch=3)]
    assert ids == [1, 2, 4, 5]


async def test_every_way_of_copying(db):
    assert await db.copy_records_to_table("item", records=((n, f"n{n}") for n in range(10, 12))) == "COPY 2"
    assert await db.copy_to_table("item", source=io.BytesIO(b"12\tn12\n")) == "COPY 1"
    written = io.BytesIO()
    assert await db.copy_from_query("select id from item where id > $1 order by 1", 10, output=written) == "COPY 2"
    assert written.getvalue() == b"11\n12\n"
    whole = io.BytesIO()
    assert await db.copy_from_table("item", output=whole, columns=["id"], format="csv") == "COPY 5"
    assert whole.getvalue() == b"1\n2\n10\n11\n12\n"


async def test_a_statement_is_one_round_trip_with_text_and_with_sqlalchemy(pg_url, pg_server):
    async with proxied(pg_server.port) as proxy:
        address = Dsn.parse(pg_url).replace(port=proxy.port)
        async with Database(address, max_size=1, validate_after=60) as db:
            await db.execute("create table item (id int primary key, name text)")
            write = insert(item).values(id=bindparam("n"), name="x")

            async def trips(number: int) -> int:
                before = (await proxy.counts()).trips
                for n in range(number):
                    await db.fetch("select $1::int", n)
                    await db.fetchrow(BY_ID, {"wanted": n})
                    await db.execute("update item set name = $1", "y")
                    await db.execute(write, {"n": number * 100 + n})
                return (await proxy.counts()).trips - before

            await trips(2)
            assert await trips(25) == 100


@pytest.mark.parametrize(
    "call",
    [
        lambda db: db.fetch("select pg_sleep(30)", timeout=0.05),
        lambda db: db.fetchrow("select pg_sleep(30)", timeout=0.05),
        lambda db: db.fetchval(select(func.pg_sleep(30)), timeout=0.05),
        lambda db: db.execute("select pg_sleep(30)", timeout=0.05),
        lambda db: db.executemany("select pg_sleep($1)", [(30,)], timeout=0.05),
        lambda db: db.copy_from_query("select pg_sleep(30)", output=io.BytesIO(), timeout=0.05),
        lambda db: anext(db.stream("select pg_sleep(30)", timeout=0.05)),
    ],
)
async def test_a_statement_that_takes_longer_than_its_timeout_ends_here_and_on_the_server(db, call):
    pid = await pid_of(db)
    with pytest.raises(TimeoutError) as late:
        await call(db)
    assert not isinstance(late.value, PoolTimeout)
    async with asyncio.timeout(3):
        assert await pid_of(db) == pid, "a timeout cost a reconnect"
    assert await db.fetchval("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == 0


async def test_the_wait_for_a_connection_has_its_own_limit(pg_url):
    async with Database(pg_url, max_size=1, acquire_timeout=0.1) as db, db.connection():
        with pytest.raises(PoolTimeout, match="1 of 1 in use"):
            await db.fetch("select 1", timeout=60)


async def test_what_the_server_refuses_is_the_drivers_own_error(db):
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute("insert into item values (1, 'again')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute(insert(item), {"id": 1})
    with pytest.raises(asyncpg.UndefinedTableError):
        await db.fetch("select * from nothing")
    with pytest.raises(asyncpg.UndefinedTableError):
        [row async for row in db.stream("select * from nothing")]
    with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
        await db.fetch("select $1::int")
    with pytest.raises(asyncpg.DataError):
        await db.fetch("select $1::int", "text")


@pytest.mark.parametrize(
    "call",
    [
        lambda db: db.fetch(BY_ID, 5),
        lambda db: db.fetch(BY_ID, {"wanted": 1}, {"wanted": 2}),
        lambda db: db.fetchrow(BY_ID, [1]),
        lambda db: db.fetchval(BY_ID, 5),
        lambda db: db.execute(insert(item), {"id": 8}, {"id": 9}),
        lambda db: db.executemany(insert(item), []),
        lambda db: anext(db.stream(BY_ID, 5)),
        lambda db: anext(db.stream("select 1", batch=0)),
        lambda db: anext(db.stream("select 1", batch=-1)),
        lambda db: db.fetch(5),
        lambda db: db.fetch(None),
    ],
)
async def test_wrong_use_is_refused_before_a_connection_is_asked_for(db, call):
    before = sum(db.stats().counters.use_time.counts)
    with pytest.raises(ConfigurationError) as refused:
        await call(db)
    assert refused.value.hint
    assert sum(db.stats().counters.use_time.counts) == before


async def in_connection(db):
    async with db.connection():
        pass


EVERYTHING = [
    lambda db: db.fetch("select 1"),
    lambda db: db.fetchrow(BY_ID, {"wanted": 1}),
    lambda db: db.fetchval("select 1"),
    lambda db: db.execute("select 1"),
    lambda db: db.executemany("select $1::int", [(1,)]),
    lambda db: db.executemany(insert(item), [{"id": 1}, {"id": 2}]),
    lambda db: db.copy_to_table("item", source=io.BytesIO()),
    lambda db: db.copy_from_table("item", output=io.BytesIO()),
    lambda db: anext(db.stream("select 1")),
    lambda db: anext(db.stream(BY_ID, {"wanted": 1})),
    in_connection,
]


@pytest.mark.parametrize("call", EVERYTHING)
async def test_before_the_start_and_after_the_stop_there_is_no_lane(pg_url, call):
    db = Database(pg_url)
    with pytest.raises(PoolClosed, match="not started"):
        await call(db)
    assert "plans=0" in repr(db._statements), "compiled for a server that nobody knows yet"
    async with db:
        await db.fetchval("select 1")
    with pytest.raises(PoolClosed, match="not started"):
        await call(db)
    async with db:
        assert await db.fetchval("select 2") == 2, "a second start is as good as the first"


@pytest.mark.parametrize("call", EVERYTHING)
async def test_another_loop_is_told_so_and_takes_nothing(db, call):
    async def elsewhere() -> None:
        with pytest.raises(WrongLoop):
            await call(db)

    await db.fetchval("select 1")  # it has an idle connection, and knows its pool
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(elsewhere())
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert failures == []


async def test_executemany_does_all_or_nothing(db):
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.executemany("insert into item values ($1, 'x')", [(7,), (8,), (1,)])
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.executemany(insert(item), [{"id": 7}, {"id": 8}, {"id": 1}])
    assert await db.fetchval("select count(*) from item") == 2


async def test_a_copy_that_fails_on_our_side_is_that_sides_error_and_nothing_is_kept(db):
    pid = await pid_of(db)

    def broken():
        yield (50, "x")
        raise OSError(5, "the disk is gone")

    async def full(_: bytes) -> None:
        raise OSError(28, "no room")

    with pytest.raises(FileNotFoundError):
        await db.copy_to_table("item", source="/nowhere/at/all")
    with pytest.raises(OSError, match="the disk is gone"):
        await db.copy_records_to_table("item", records=broken())
    with pytest.raises(OSError, match="no room"):
        await db.copy_from_query("select generate_series(1, 100000)", output=full)
    assert await db.fetchval("select count(*) from item") == 2
    assert await pid_of(db) == pid


async def test_a_cancelled_statement_is_cancelled_on_the_server_and_its_connection_lives(db):
    pid = await pid_of(db)
    await cancelled(db.fetch("select pg_sleep(30)"), db)
    await cancelled(db.fetchrow(select(func.pg_sleep(30))), db)
    await cancelled(db.execute("insert into item select 100, pg_sleep(30)::text"), db)
    await cancelled(db.executemany("select pg_sleep($1)", [(30,)]), db)
    await cancelled(db.copy_from_query("select pg_sleep(30)", output=io.BytesIO()), db)
    await cancelled(anext(db.stream("select pg_sleep(30)")), db)
    assert await db.fetchval("select count(*) from item") == 2
    assert await pid_of(db) == pid
    assert db.stats().counters.connects == 1


# What becomes of a lost connection


READS = ["select pg_sleep(30)", " SELECT 1, pg_sleep(30) ;", "table slow", "values (pg_sleep(30))"]
MAY_WRITE = [
    "insert into item select 9, pg_sleep(30)::text",
    "with w as (insert into item values (9)) select pg_sleep(30)",
    "select pg_sleep(30)::text as slept into other",
    "select pg_sleep(30); insert into item values (9)",
    "explain analyze insert into item select 9, pg_sleep(30)::text",
    "do $$ begin perform pg_sleep(30); end $$",
]


async def lost_in(db: Database, pg_url: str, work) -> BaseException:
    task = asyncio.ensure_future(work)
    async with Database(pg_url) as killer:
        await waiting_in(killer, "PgSleep")
        await killer.fetch("select pg_terminate_backend(pid, 3000) from pg_stat_activity where wait_event = 'PgSleep'")
    with pytest.raises((CommitUnknown, DatabaseUnavailable)) as lost:
        await task
    return lost.value


@pytest.mark.parametrize("query", READS)
async def test_a_connection_lost_while_reading_is_to_be_tried_again(db, pg_url, query):
    await db.execute("create view slow as select pg_sleep(30)::text as slept")
    error = await lost_in(db, pg_url, db.execute(query))
    assert isinstance(error, DatabaseUnavailable)
    assert error.sqlstate in ("57P01", "08003")  # asyncpg tells of the server's last word, or of the socket's end
    assert "try it again" in error.hint


@pytest.mark.parametrize("query", MAY_WRITE)
async def test_a_connection_lost_while_something_may_be_written_leaves_it_unknown(db, pg_url, query):
    assert isinstance(await lost_in(db, pg_url, db.execute(query)), CommitUnknown)


async def test_a_lost_connection_means_the_same_for_a_sqlalchemy_statement(db, pg_url):
    error = await lost_in(db, pg_url, db.fetch(select(func.pg_sleep(30))))
    assert isinstance(error, DatabaseUnavailable)
    slow = insert(item).from_select(["id", "name"], select(9, func.pg_sleep(30).cast(Text)))
    assert isinstance(await lost_in(db, pg_url, db.execute(slow)), CommitUnknown)
    written = insert(item).values(id=9).returning(item.c.id).cte()
    hidden = select(written.c.id, func.pg_sleep(30).cast(Text))
    assert isinstance(await lost_in(db, pg_url, db.fetch(hidden)), CommitUnknown)


async def test_a_connection_lost_in_a_stream_or_a_copy_is_told_by_type(db, pg_url):
    assert isinstance(await lost_in(db, pg_url, anext(db.stream("select pg_sleep(30)"))), DatabaseUnavailable)
    copy = db.copy_from_query("select pg_sleep(30)", output=io.BytesIO())
    assert isinstance(await lost_in(db, pg_url, copy), DatabaseUnavailable)
    await db.execute("create table slow (a text default pg_sleep(30)::text, b int)")
    copy_in = db.copy_to_table("slow", source=io.BytesIO(b"1\n"), columns=["b"])
    assert isinstance(await lost_in(db, pg_url, copy_in), CommitUnknown)


async def in_block(db: Database, statement: str, *, transaction: bool) -> None:
    async with db.connection() as c:
        if transaction:
            async with c.transaction():
                await c.execute(statement)
        else:
            await c.execute(statement)


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_lent_connection_that_is_lost_leaves_it_unknown_unless_nothing_was_sent(db, pg_url, transaction):
    error = await lost_in(db, pg_url, in_block(db, "select pg_sleep(30)", transaction=transaction))
    assert isinstance(error, CommitUnknown)
    with pytest.raises(DatabaseUnavailable, match="connection is closed"):
        async with db.connection() as c:
            await c.close()
            await c.execute("select 1")
    with pytest.raises(ConnectionResetError, match="of a friend"):
        async with db.connection() as c:
            raise ConnectionResetError("of a friend")
    with pytest.raises(asyncpg.UniqueViolationError):
        await in_block(db, "insert into item values (1)", transaction=transaction)


async def test_a_connection_that_died_while_idle_is_never_lent(db, pg_url):
    pid = await pid_of(db)
    async with Database(pg_url) as killer:
        await killer.fetch("select pg_terminate_backend($1, 3000)", pid)
    async with asyncio.timeout(3):
        assert await pid_of(db) != pid


# Large results


async def test_a_stream_holds_one_batch_in_memory(db):
    wide = f"select n, repeat('x', 200) as wide from generate_series(1, {MANY}) n"
    numbers = func.generate_series(1, MANY).column_valued("n")
    statement = select(numbers, func.repeat("x", 200).label("wide"))

    async def peak(rows) -> int:
        tracemalloc.start()
        try:
            count = 0
            async for _ in rows:
                count += 1
            assert count == MANY
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole = MANY * 200  # bytes of `wide` alone
    assert await peak(db.stream(wide)) < whole / 20
    assert await peak(db.stream(statement, batch=200)) < whole / 20


async def test_a_stream_is_one_snapshot_and_only_reads(pg_url):
    async with Database(pg_url, max_size=2) as db:
        await db.execute("create table item as select n as id from generate_series(1, 10) n")
        seen = []
        async for row in db.stream("select id from item order by id", batch=2):
            if not seen:
                await db.execute("insert into item values (99)")
            seen.append(row["id"])
        assert seen == list(range(1, 11))
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            [row async for row in db.stream("insert into item values (1) returning id")]


async def test_a_stream_that_is_closed_early_gives_its_connection_back_and_waits_for_nothing(db):
    pid = await pid_of(db)
    async with contextlib.aclosing(db.stream(f"select generate_series(1, {MANY}) n", batch=10)) as rows:
        async for row in rows:
            if row["n"] == 15:
                break
        assert db.stats().in_use == 1
    assert db.stats().in_use == 0
    assert await pid_of(db) == pid
    assert await db.fetchval("select count(*) from pg_cursors where name <> ''") == 0
    assert db.stats().counters.restored == 1


async def test_a_stream_cancelled_between_rows_gives_its_connection_back(db):
    pid, got = await pid_of(db), asyncio.Event()

    async def slowly() -> None:
        async for _ in db.stream("select generate_series(1, 100)", batch=1):
            got.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(slowly())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert await pid_of(db) == pid


async def test_a_stream_that_is_dropped_gives_its_connection_back(db):
    pid = await pid_of(db)
    rows = db.stream("select generate_series(1, 100)", batch=1)
    await anext(rows)
    assert db.stats().in_use == 1
    del rows
    gc.collect()
    assert await pid_of(db) == pid


# Lent raw


async def test_a_lent_connection_is_the_drivers_own(db):
    async with db.connection() as c:
        assert isinstance(c, asyncpg.Connection)
        assert "LentConnection" in repr(c)
        async with c.transaction():
            await c.execute("insert into item values (3, 'three')")
            assert [row["id"] async for row in c.cursor("select id from item order by id", prefetch=1)] == [1, 2, 3]
        prepared = await c.prepare("select name from item where id = $1")
        assert await prepared.fetchval(3) == "three"
        with pytest.raises(ZeroDivisionError):
            async with c.transaction():
                await c.execute("delete from item")
                raise ZeroDivisionError
        assert not c.is_in_transaction()
        assert c.get_server_version().major >= 14
    assert await db.fetchval("select count(*) from item") == 3


async def test_a_lent_connection_and_what_was_made_of_it_end_with_the_loan(db):
    async with db.session() as s:  # SQLAlchemy has a prepared statement of its own on this connection
        await s.execute(text("select 40 + 2"))
    async with db.connection() as c:
        method, prepared, transaction = c.fetchval, await c.prepare("select 1"), c.transaction()
        await transaction.start()
    assert repr(c) == "<LentConnection returned>"
    for use in (lambda: c.fetchval, lambda: method("select 1"), lambda: c.is_closed):
        with pytest.raises(NotHeld, match="after it went back"):
            use()
    for late in (prepared.fetchval, transaction.commit):
        with pytest.raises(asyncpg.InterfaceError, match="released back"):
            await late()
    async with db.session() as s:
        assert await s.scalar(text("select 40 + 2")) == 42


LEFT = {
    "a setting": ("set search_path to nowhere", "show search_path", '"$user", public'),
    "a setting by function": (
        "select set_config('search_path', 'nowhere', false)",
        "show search_path",
        '"$user", public',
    ),
    "a listener": ("listen jobs", "select count(*) from pg_listening_channels()", 0),
    "a lock": ("select pg_advisory_lock(1)", "select count(*) from pg_locks where locktype ~ '^adv'", 0),
    "a temporary table": ("create temp table mine (a int)", "select to_regclass('pg_temp.mine')", None),
    "a temporary result": ("select 1 as a into temp mine", "select to_regclass('pg_temp.mine')", None),
    "a transaction": ("begin", "select pg_current_xact_id_if_assigned()::text", None),
    "a cursor": (
        "declare mine cursor with hold for select 1",
        "select count(*) from pg_cursors where name = 'mine'",
        0,
    ),
    "a statement": ("prepare mine as select 1", "select count(*) from pg_prepared_statements where from_sql", 0),
    "a role": ("set role modest", "select current_user::text", "postgres"),
    "another user": ("set session authorization modest", "select session_user::text", "postgres"),
}


@pytest.fixture
async def modest(pg_url):
    async with Database(pg_url) as owner:
        await owner.execute("create role modest")
        yield
        await owner.execute("drop role modest")


WAYS = [(what, way) for what in LEFT for way in ("connection", "execute", "fetch")]
STREAMED = [("a setting by function", "stream"), ("a lock", "stream")]


@pytest.mark.usefixtures("modest")
@pytest.mark.parametrize(("what", "way"), WAYS + STREAMED)
async def test_what_one_caller_leaves_behind_is_not_there_for_the_next(db, what, way):
    change, ask, clean = LEFT[what]
    pid = await pid_of(db)
    if way == "connection":
        async with db.connection() as c:
            await c.execute(change)
            if what == "a transaction":
                await c.execute("insert into item values (9)")
    elif way in ("execute", "fetch"):
        await getattr(db, way)(change)
    else:
        assert len([row async for row in db.stream(change)]) == 1
    assert db.stats().kept == 1, "it was lent on as it was, or somebody waited for its reset"
    assert await db.fetchval(ask) == clean
    assert (await pid_of(db) == pid) is (what != "a statement"), "no reset undoes that one: its connection is replaced"
    assert await db.fetchval("select count(*) from item") == 2


async def test_what_a_sqlalchemy_statement_leaves_behind_is_not_there_for_the_next(db):
    await db.fetchval(select(func.set_config("search_path", "nowhere", text("false"))))
    assert await db.fetchval("show search_path") == '"$user", public'
    await db.fetch(select(func.pg_advisory_lock(1)))
    assert await db.fetchval("select count(*) from pg_locks where locktype ~ '^adv'") == 0


async def test_an_ordinary_statement_is_not_followed_by_a_reset(db):
    await db.fetch("select * from item")
    await db.execute("update item set name = 'x' where id = 1")
    await db.fetch(BY_ID, {"wanted": 1})
    await db.execute(update(item).where(item.c.id == 1).values(name="y"))
    await db.executemany("insert into item values ($1, $2)", [(3, "set")])
    [row async for row in db.stream("select * from item")]
    assert db.stats().counters.restored == 0
    assert db.stats().kept == 0


async def test_listeners_are_called_within_the_loan_and_forgotten_with_it(db, pg_url):
    heard: asyncio.Queue[str] = asyncio.Queue()
    logged: asyncio.Queue[str] = asyncio.Queue()
    async with Database(pg_url) as other:
        async with db.connection() as c:
            pid = c.get_server_pid()
            await c.add_listener("jobs", lambda *event: heard.put_nowait(event[-1]))
            c.add_query_logger(lambda record: logged.put_nowait(record.query))
            c.add_termination_listener(lambda _: logged.put_nowait("terminated"))
            await other.execute("select pg_notify('jobs', 'first')")
            async with asyncio.timeout(3):
                assert await heard.get() == "first"
            await c.execute("select 1")
            async with asyncio.timeout(3):
                assert await logged.get() == "select 1"
        await other.execute("select pg_notify('jobs', 'second')")
        assert await pid_of(db) == pid
        assert await db.fetch("select pg_listening_channels()") == []
        await other.fetch("select pg_terminate_backend($1, 3000)", pid)
    assert await db.fetchval("select 1") == 1
    assert heard.empty()
    assert logged.empty()


async def test_a_connection_that_was_given_a_codec_is_not_lent_again(db):
    pid = await pid_of(db)
    async with db.connection() as c:
        await c.set_type_codec("int4", encoder=str, decoder=lambda raw: f"<{raw}>", schema="pg_catalog")
        assert await c.fetchval("select 1::int4") == "<1>"
    assert await db.fetchval("select 1::int4") == 1
    assert await pid_of(db) != pid
    assert db.stats().counters.retired == 1


async def test_a_lent_connection_that_its_holder_closes_is_replaced(db):
    async with db.connection() as c:
        await c.close()
    assert await db.fetchval("select 1") == 1
    assert db.stats().counters.connects == 2


async def test_a_loan_that_is_cancelled_in_the_midst_of_a_statement_costs_no_reconnect(db):
    pid = await pid_of(db)

    async def hold() -> None:
        async with db.connection() as c:
            await c.execute("begin; set local lock_timeout to 7; select pg_sleep(30)")

    await cancelled(hold(), db)
    assert await pid_of(db) == pid
    assert await db.fetchval("show lock_timeout") == "0"


async def test_json_comes_as_what_it_stands_for_and_ddl_between_statements_is_noticed(db):
    for kind in ("json", "jsonb"):
        assert await db.fetchval(f"""select '{{"a": 1}}'::{kind}""") == {"a": 1}
        assert await db.fetchval(f"select ($1::{kind}) ->> 'a'", '{"a": 1}') == "1"
    assert len(await db.fetchrow("select * from item")) == 2
    await db.execute("alter table item add extra int")
    assert len(await db.fetchrow("select * from item")) == 3
    async with db.session() as s:
        assert len((await s.execute(text("select * from item"))).first()) == 3
