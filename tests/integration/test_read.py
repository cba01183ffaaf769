"""`db.read()`: one round trip for each statement, the server refuses to write, and one connection serves both kinds."""

import asyncio

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from benchmarks.proxy import proxied
from pulsepool import CommitUnknown, Database, DatabaseUnavailable, Dsn, PoolClosed, WrongLoop
from pulsepool.fastapi import DatabaseDep, ReadDep, SessionDep, install
from tests.integration.test_sessions import Base, Note, waiting_in

ONE = text("select 1")
PID = text("select pg_backend_pid()")
WRITE = text("insert into note (id, body) values (7, 'x')")


@pytest.fixture
async def db(pg_url):
    """A database with one connection, which readers and writers have to share, and one note."""
    async with Database(pg_url, max_size=1, acquire_timeout=3) as database:
        async with database.async_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with database.session() as s:
            s.add(Note(id=1, body="first"))
        yield database
        assert database.stats().in_use == 0, "a test left a connection behind"
        # A writer does not get what a reader left.
        assert (await database.execute("update note set body = body")).startswith("UPDATE")


async def refused(db: Database, statement) -> None:
    with pytest.raises(DBAPIError) as error:
        async with db.read() as s:
            await s.execute(statement)
    assert error.value.orig.sqlstate == "25006"


async def test_a_statement_is_one_round_trip_and_opening_and_closing_are_none(pg_url, pg_server):
    async with proxied(pg_server.port) as proxy:
        address = Dsn.parse(pg_url).replace(port=proxy.port)
        async with Database(address, max_size=1, validate_after=60) as db:
            async with db.async_engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            each = select(Note).where(Note.id == 1)

            async def trips(statements: int, how=db.read) -> int:
                before = (await proxy.counts()).trips
                for _ in range(10):
                    async with how() as s:
                        for _ in range(statements):
                            await s.scalars(each)
                return (await proxy.counts()).trips - before

            await trips(1)
            assert await trips(0) == 0
            assert await trips(1) == 10
            assert await trips(3) == 30
            await trips(1, db.session)
            assert await trips(1, db.session) == 30, "BEGIN, the statement, COMMIT"

            before = (await proxy.counts()).trips
            async with db.read() as s:
                await s.scalars(each)
            assert (await proxy.counts()).trips - before == 2, "the switch from writing to reading, the statement"
            await db.fetchval("select 1")
            await trips(1)
            before = (await proxy.counts()).trips
            await db.fetchval("select 1")
            assert (await proxy.counts()).trips - before == 2, "the switch back, the statement"


@pytest.mark.parametrize(
    "statement",
    [
        "insert into note (id, body) values (7, 'x')",
        "update note set body = 'x'",
        "delete from note",
        "with w as (insert into note (id, body) values (7, 'x') returning id) select * from w",
        "select * from note for update",
        "select * from note for share",
        "select add_note()",
        "do $$ begin insert into note (id, body) values (7, 'x'); end $$",
        "select nextval('numbers')",
        "create table other (a int)",
        "create temp table other (a int)",
        "truncate note",
        "copy note from program 'true'",
    ],
)
async def test_the_server_refuses_every_write(db, statement):
    await db.execute(
        "create function add_note() returns int language sql as "
        "$$ insert into note (id, body) values (7, 'x') returning id $$; create sequence numbers"
    )
    await refused(db, text(statement))
    assert await db.fetchval("select string_agg(body, ' ') from note") == "first"


async def test_the_server_refuses_what_the_orm_flushes(db):
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with db.read() as s:
            s.add(Note(id=7, body="new"))
            await s.flush()
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with db.read() as s:
            note = await s.get(Note, 1)
            note.body = "changed"
            await s.scalars(select(Note))  # autoflush
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with db.read() as s:
            await s.delete(await s.get(Note, 1))
            await s.commit()
    assert await db.fetchval("select string_agg(body, ' ') from note") == "first"


async def test_what_is_changed_and_not_flushed_is_forgotten(db):
    async with db.read() as s:
        (await s.get(Note, 1)).body = "changed"
        s.add(Note(id=7, body="new"))
    assert await db.fetchval("select string_agg(body, ' ') from note") == "first"


async def test_objects_stay_readable_and_each_statement_sees_what_is_committed(pg_url, db):
    async with db.read() as s, Database(pg_url) as writer:
        note = await s.get(Note, 1)
        await writer.execute("insert into note (id, body) values (2, 'second')")
        assert await s.scalar(select(func.count()).select_from(Note)) == 2
    assert note.body == "first"


async def test_readers_writers_and_the_lane_share_one_connection(db):
    pid = await db.fetchval("select pg_backend_pid()")
    for number in range(2, 6):
        async with db.read() as s:
            assert await s.scalar(PID) == pid
            assert await s.scalar(text("show transaction_read_only")) == "on"
        assert await db.fetchval("show transaction_read_only") == "off"
        async with db.read() as s:
            await s.scalar(ONE)
        async with db.session() as s:
            assert await s.scalar(PID) == pid
            s.add(Note(id=number, body="x"))
        await refused(db, WRITE)
        async with db.connection() as c:
            await c.execute("update note set body = 'y'")
        await refused(db, WRITE)
        async with db.async_engine.begin() as connection:
            await connection.execute(text("delete from note where id = :n"), {"n": number})
        async for row in db.stream("select pg_backend_pid() as pid"):
            assert row["pid"] == pid


@pytest.mark.parametrize("reading", [[ONE], [], [text("set default_transaction_read_only = off")]])
async def test_a_session_after_a_reader_is_in_a_transaction_again(db, reading):
    async with db.read() as s:
        for statement in reading:
            await s.execute(statement)
    with pytest.raises(ZeroDivisionError):
        async with db.session() as s:
            await s.execute(WRITE)
            raise ZeroDivisionError
    async with db.async_engine.connect() as c:
        await c.execute(WRITE)
    assert await db.fetchval("select count(*) from note") == 1


async def test_many_readers_and_writers_at_once_never_get_each_others_connection(pg_url):
    async with Database(pg_url, max_size=4) as db:
        await db.execute("create table note (id int generated always as identity, body text)")

        async def read() -> None:
            async with db.read() as s:
                assert await s.scalar(text("show transaction_read_only")) == "on"

        async def write() -> None:
            async with db.session() as s:
                await s.execute(text("insert into note (body) values ('x')"))

        async def direct() -> None:
            await db.execute("insert into note (body) values ('x')")

        await asyncio.gather(*(work() for _ in range(100) for work in (read, write, direct)))
        assert await db.fetchval("select count(*) from note") == 200
        assert db.stats().counters.connects <= 4


@pytest.mark.parametrize(
    "escape",
    [
        "set default_transaction_read_only = off",
        "set session characteristics as transaction read write",
        "reset all",
        "reset default_transaction_read_only",
        "select set_config('default_transaction_read_only', 'off', false)",
    ],
)
async def test_a_reader_that_switches_its_session_leaves_no_writable_one_for_the_next(db, escape):
    async with db.read() as s:
        await s.execute(text(escape))
    await refused(db, WRITE)
    async with db.read() as s:
        with pytest.raises(DBAPIError):
            await s.execute(text(f"{escape}; select nothing from nowhere"))
        await s.execute(text(escape))
    await refused(db, WRITE)


async def test_a_transaction_that_a_reader_opens_by_hand_is_undone(db):
    async with db.read() as s:
        await s.execute(text("begin read write"))
        await s.execute(WRITE)
    assert await db.fetchval("select count(*) from note") == 1
    await refused(db, WRITE)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_an_isolation_level_gives_a_reader_one_snapshot(pg_url, db, level):
    async with Database(pg_url) as writer:
        for _ in range(2):
            async with db.read() as s:
                await s.connection(execution_options={"isolation_level": level})
                before = await s.scalar(select(func.count()).select_from(Note))
                await writer.execute("insert into note (id, body) select max(id) + 1, 'x' from note")
                assert await s.scalar(select(func.count()).select_from(Note)) == before
                assert await s.scalar(text("show transaction_isolation")) == level.lower()
                with pytest.raises(DBAPIError, match="read-only transaction"):
                    await s.execute(WRITE)
            async with db.read() as s:
                assert await s.scalar(text("show transaction_isolation")) == "read committed"
        await writer.execute("delete from note where id > 1")
    assert db.stats().counters.connects == 1


async def test_commit_and_rollback_in_a_read_session_are_no_round_trips_and_a_savepoint_is_refused(db):
    async with db.read() as s:
        await s.scalar(ONE)
        await s.commit()
        assert (await s.get(Note, 1)).body == "first"
        await s.rollback()
        assert await s.scalar(ONE) == 1
    with pytest.raises(DBAPIError, match="SAVEPOINT can only be used in transaction blocks"):
        async with db.read() as s, s.begin_nested():
            await s.scalar(ONE)


async def test_an_error_in_a_read_session_is_its_own_and_leaves_nothing(db):
    with pytest.raises(ZeroDivisionError):
        async with db.read() as s:
            await s.scalar(ONE)
            raise ZeroDivisionError
    with pytest.raises(DBAPIError, match="nothing"):
        async with db.read() as s:
            await s.execute(text("select * from nothing"))
    async with db.read() as s:
        with pytest.raises(DBAPIError):
            await s.execute(text("select 1/0"))
        assert await s.scalar(ONE) == 1, "there is no transaction that an error could spoil"


async def test_a_reader_that_is_cancelled_keeps_its_connection_and_its_mode(db, pg_url):
    async def sleep() -> None:
        async with db.read() as s:
            await s.execute(text("select pg_sleep(30)"))

    async with db.read() as s:
        pid = await s.scalar(PID)
    task = asyncio.create_task(sleep())
    async with Database(pg_url) as watcher:
        await waiting_in(watcher, "PgSleep")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with db.read() as s:
        assert await s.scalar(PID) == pid
    await refused(db, WRITE)
    assert db.stats().counters.connects == 1


async def test_a_server_that_ends_a_reader_is_unavailable_and_never_an_unknown_commit(db, pg_url):
    async def sleep() -> None:
        async with db.read() as s:
            await s.execute(text("select pg_sleep(30)"))

    task = asyncio.create_task(sleep())
    async with Database(pg_url) as killer:
        await waiting_in(killer, "PgSleep")
        await killer.fetch("select pg_terminate_backend(pid, 3000) from pg_stat_activity where wait_event = 'PgSleep'")
    with pytest.raises(DatabaseUnavailable) as lost:
        await task
    assert not isinstance(lost.value, CommitUnknown)
    async with db.read() as s:
        assert await s.scalar(ONE) == 1
    await refused(db, WRITE)


async def test_before_the_start_after_the_stop_and_on_another_loop_there_is_no_reading(pg_url):
    db = Database(pg_url)
    with pytest.raises(PoolClosed, match="not started"):
        db.read()
    async with db:
        await db.fetchval("select 1")

        async def elsewhere() -> None:
            with pytest.raises(WrongLoop):
                db.read()

        await asyncio.to_thread(asyncio.run, elsewhere())
    with pytest.raises(PoolClosed, match="not started"):
        db.read()


# In FastAPI


def build_app(db: Database) -> FastAPI:
    app = FastAPI()
    install(app, db)

    @app.get("/notes")
    async def notes(s: ReadDep) -> list[str]:
        return list(await s.scalars(text("select body from note order by id")))

    @app.post("/write-while-reading")
    async def write(s: ReadDep) -> None:
        await s.execute(WRITE)

    @app.post("/both/{body}")
    async def both(body: str, write: SessionDep, read: ReadDep) -> dict[str, int]:
        before = await read.scalar(text("select count(*) from note"))
        await write.execute(text("insert into note (id, body) select max(id) + 1, :body from note"), {"body": body})
        return {"before": before, "unseen": await read.scalar(text("select count(*) from note"))}

    @app.get("/after")
    async def after(request: Request, s: ReadDep) -> int:
        await s.scalar(ONE)
        return db.stats().in_use

    @app.post("/lane/{state}")
    async def lane(state: str, db: DatabaseDep) -> None:
        await db.execute(f"do $$ begin raise exception 'a secret' using errcode = '{state}'; end $$")

    @app.post("/slow")
    async def slow(db: DatabaseDep) -> None:
        await db.execute("select pg_sleep(30)", timeout=0.05)

    return app


class Watched:
    """ASGI middleware that notes how many connections are in use when a response starts."""

    def __init__(self, app, db: Database) -> None:
        self.app, self.db, self.in_use = app, db, []

    async def __call__(self, scope, receive, send) -> None:
        async def watching(message) -> None:
            if message["type"] == "http.response.start":
                self.in_use.append(self.db.stats().in_use)
            await send(message)

        await self.app(scope, receive, watching)


@pytest.fixture
async def client(pg_url):
    async with Database(pg_url) as setup, setup.async_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("insert into note (id, body) values (1, 'first')"))
    db = Database(pg_url, max_size=2, acquire_timeout=0.5)
    app = build_app(db)
    watched = Watched(app, db)
    transport = httpx2.ASGITransport(watched, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
        client.app, client.watched = app, watched
        yield client
        assert db.stats().in_use == 0, "a request left a connection behind"


async def test_a_read_session_ends_before_its_response_is_sent(client):
    assert (await client.get("/notes")).json() == ["first"]
    assert (await client.get("/after")).json() == 1
    assert client.watched.in_use == [0, 0]


async def test_a_write_in_a_read_session_is_refused_and_said_in_the_log(client, caplog):
    refusal = await client.post("/write-while-reading")
    assert refusal.status_code == 500
    assert "retry-after" not in refusal.headers
    assert "note" not in refusal.text
    assert "a write was tried through ReadDep" in caplog.text
    assert "use SessionDep" in caplog.text
    assert (await client.get("/notes")).json() == ["first"]


async def test_both_kinds_of_session_in_one_request_are_two_and_neither_disturbs_the_other(client):
    assert (await client.post("/both/second")).json() == {"before": 1, "unseen": 1}
    assert (await client.get("/notes")).json() == ["first", "second"]
    assert client.watched.in_use == [0, 0]


async def test_the_lanes_errors_that_are_for_now_are_503_and_all_others_the_applications(client, caplog):
    codes = ("25006", "40001", "40P01", "53200", "55P03", "57014", "57P05", "58030", "22012", "25001", "57000", "23505")
    statuses = {code: (await client.post(f"/lane/{code}")).status_code for code in codes}
    assert statuses == dict.fromkeys(codes[:8], 503) | dict.fromkeys(codes[8:], 500)
    assert "do $$" not in caplog.text, "what people ask the database is in the log"
    assert (await client.post("/slow")).status_code == 503


@pytest.mark.parametrize("kind", [asyncpg.PostgresError, asyncpg.SerializationError])
async def test_an_applications_own_handler_of_the_drivers_errors_stays_in_force(pg_url, kind):
    app = FastAPI()

    async def teapot(*_) -> JSONResponse:
        return JSONResponse({}, 418)

    app.add_exception_handler(kind, teapot)
    install(app, db := Database(pg_url))

    @app.get("/")
    async def conflict() -> None:
        await db.execute("do $$ begin raise exception 'no' using errcode = '40001'; end $$")

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
        assert (await client.get("/")).status_code == 418


async def test_a_lost_connection_on_the_lane_is_told_as_that_of_a_session_is(client, pg_url):
    @client.app.get("/reads")
    async def reads(db: DatabaseDep) -> None:
        await db.fetch("select pg_sleep(30)")

    @client.app.post("/writes")
    async def writes(db: DatabaseDep) -> None:
        await db.execute("insert into note (id, body) select 9, pg_sleep(30)::text")

    async with Database(pg_url) as killer:
        for method, path, answer in (
            ("GET", "/reads", (503, "Unavailable")),
            ("POST", "/writes", (500, "Outcome unknown")),
        ):
            task = asyncio.create_task(client.request(method, path))
            await waiting_in(killer, "PgSleep")
            await killer.fetch(
                "select pg_terminate_backend(pid, 3000) from pg_stat_activity where wait_event = 'PgSleep'"
            )
            answered = await task
            assert (answered.status_code, answered.json()["title"]) == answer


async def test_sqlalchemys_errors_of_a_read_session_are_its_own(db):
    with pytest.raises(SQLAlchemyError):
        async with db.read() as s:
            await s.execute(text("select * from nothing"))
