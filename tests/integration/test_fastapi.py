"""pulsepool in a FastAPI application: when the commit comes, what a client reads when something fails."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError
from starlette.websockets import WebSocketDisconnect

from pulsepool import CommitUnknown, Database, Dsn
from pulsepool import fastapi as room
from pulsepool.fastapi import DatabaseDep, SessionDep, install

INSERT = text("insert into item (name) values (:name)")


def build_app(db: Database) -> FastAPI:
    app = FastAPI()
    install(app, db)
    inner = APIRouter(prefix="/inner")

    @app.post("/add/{name}", status_code=201)
    async def add(name: str, s: SessionDep) -> dict[str, str]:
        await s.execute(INSERT, {"name": name})
        return {"name": name}

    @app.post("/raise/{status}")
    async def raise_(status: int, s: SessionDep) -> None:
        await s.execute(INSERT, {"name": "raised"})
        raise HTTPException(status, "no")

    @app.post("/return/{status}")
    @inner.post("/return/{status}")
    async def return_(status: int, s: SessionDep) -> Response:
        await s.execute(INSERT, {"name": f"returned {status}"})
        return JSONResponse({}, status)

    @inner.post("/set/{status}")
    def set_(status: int, s: SessionDep, response: Response) -> dict[str, str]:
        asyncio.run_coroutine_threadsafe(s.execute(INSERT, {"name": f"set {status}"}), app.state.loop).result(5)
        response.status_code = status
        return {}

    @app.post("/crash")
    async def crash(s: SessionDep) -> None:
        await s.execute(INSERT, {"name": "crashed"})
        raise RuntimeError("a bug")

    @app.get("/names")
    async def names(db: DatabaseDep) -> list[str]:
        async with db.session() as s:
            return list(await s.scalars(text("select name from item order by name")))

    @app.get("/hold")
    async def hold(s: SessionDep) -> None:
        await s.execute(text("select pg_sleep(60)"))

    @app.get("/unknown")
    async def unknown() -> None:
        raise CommitUnknown("a secret detail", hint="look")

    @app.get("/stream")
    async def stream(s: SessionDep) -> StreamingResponse:
        await s.execute(INSERT, {"name": "streamed"})

        async def body():
            async with db.session() as own:
                yield str(await own.scalar(text("select count(*) from item where name = 'streamed'")))

        return StreamingResponse(body())

    @app.websocket("/ws")
    async def ws(socket: WebSocket, s: SessionDep) -> None:
        await socket.accept()
        await s.execute(INSERT, {"name": "by websocket"})
        await socket.send_text("done")
        await socket.close()

    app.include_router(inner, prefix="/outer")
    return app


@pytest.fixture
async def db(pg_url):
    async with Database(pg_url) as setup, setup.session() as s:
        await s.execute(text("create table item (id int generated always as identity primary key, name text)"))
        await s.execute(text("alter table item add unique (name) deferrable initially deferred"))
    return Database(pg_url, max_size=2, acquire_timeout=0.2)


@asynccontextmanager
async def serving(app: FastAPI, *, raise_app_exceptions: bool = False):
    app.state.loop = asyncio.get_running_loop()
    transport = httpx2.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
        yield client


@pytest.fixture
async def client(db):
    async with serving(build_app(db)) as client:
        yield client
        assert db.async_engine.pool.checkedout() == 0, "a request left a connection behind"


async def names(client: httpx2.AsyncClient) -> list[str]:
    return (await client.get("/names")).json()


async def test_a_success_is_committed_before_the_client_reads_it(client):
    assert (await client.post("/add/first")).status_code == 201
    assert await names(client) == ["first"]


async def test_a_commit_that_fails_is_an_error_and_never_a_success(client):
    assert (await client.post("/add/twice")).status_code == 201
    failed = await client.post("/add/twice")
    assert failed.status_code == 500
    assert await names(client) == ["twice"]


async def test_an_applications_own_handler_may_answer_for_a_failing_commit(db):
    from sqlalchemy.exc import IntegrityError

    app = build_app(db)

    @app.exception_handler(IntegrityError)
    async def conflict(*_):
        return JSONResponse({}, 409)

    async with serving(app) as client:
        await client.post("/add/twice")
        assert (await client.post("/add/twice")).status_code == 409


@pytest.mark.parametrize("status", [404, 409, 500])
async def test_a_raised_http_exception_rolls_back(client, status):
    assert (await client.post(f"/raise/{status}")).status_code == status
    assert await names(client) == []


@pytest.mark.parametrize("path", ["/return", "/outer/inner/return", "/outer/inner/set"])
async def test_a_returned_error_rolls_back_and_a_returned_success_commits(client, path):
    for status in (400, 409, 503, 200, 202, 303, 399):
        assert (await client.post(f"{path}/{status}")).status_code == status
    kept = await names(client)
    assert [name.split()[1] for name in kept] == ["200", "202", "303", "399"]


async def test_a_bug_rolls_back(client):
    assert (await client.post("/crash")).status_code == 500
    assert await names(client) == []


async def test_a_streamed_body_runs_after_the_commit_and_needs_a_session_of_its_own(client):
    assert (await client.get("/stream")).text == "1"


@pytest.fixture
def hidden(monkeypatch):
    """A FastAPI in which nothing is where it was."""
    caches = room._warn_once_that_returned_errors_commit, room._may_hold_the_response
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr("fastapi.routing.__file__", "elsewhere")
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("hidden")
async def test_a_fastapi_that_hides_the_response_is_said_once_and_commits(client, caplog):
    await client.post("/return/409")
    await client.post("/return/410")
    assert caplog.text.count("one of 400 or more commits") == 1
    assert await names(client) == ["returned 409", "returned 410"]


async def test_a_response_that_somebody_elses_code_holds_is_not_taken_for_the_answer(db, monkeypatch):
    class Retrying(APIRoute):
        def get_route_handler(self):
            handle = super().get_route_handler()

            async def again(request: Request) -> Response:
                response = JSONResponse({}, 409)  # as after a first attempt
                if response.status_code == 409:
                    response = await handle(request)
                return response

            return again

    app = build_app(db)
    router = APIRouter(route_class=Retrying)

    @router.post("/again/{name}")
    async def add(name: str, s: SessionDep) -> None:
        await s.execute(INSERT, {"name": name})

    app.include_router(router)
    async with serving(app) as client:
        await client.post("/again/shown")
        monkeypatch.setattr("fastapi.routing.__file__", "elsewhere")
        await client.post("/again/hidden")
        assert await names(client) == ["hidden", "shown"]


async def test_a_full_pool_is_503_with_retry_after_and_a_body_that_reveals_nothing(client, db, caplog):
    async with db.async_engine.connect(), db.async_engine.connect():
        refused = await client.post("/add/late")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "2"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["cache-control"] == "no-store"
    assert refused.json() == {
        "type": "about:blank",
        "title": "Busy",
        "status": 503,
        "detail": "The service is busy. Try again in a moment.",
    }
    assert "POST /add/late: PoolTimeout: no connection within 0.2 s" in caplog.text


async def test_a_dead_database_is_503_and_the_service_recovers_by_itself(own_server):
    own = Database(own_server.url("postgres"))
    async with own, own.session() as s:
        await s.execute(text("create table item (name text)"))
    async with serving(build_app(own)) as client:
        assert await names(client) == []
        own_server.kill()
        for _ in range(3):
            refused = await client.get("/names")
            assert refused.status_code == 503
            assert refused.json()["title"] == "Unavailable"
            assert "127.0.0.1" not in refused.text
        own_server.start()
        async with asyncio.timeout(1):  # the server was known to be down, and is asked again before that
            while (again := await client.get("/names")).status_code != 200:
                await asyncio.sleep(0.01)
        assert again.json() == []


async def test_an_unknown_commit_is_500_without_an_invitation_to_retry(client):
    refused = await client.get("/unknown")
    assert refused.status_code == 500
    assert "retry-after" not in refused.headers
    assert "not known" in refused.json()["detail"]
    assert "secret" not in refused.text


async def test_a_cancelled_request_leaves_nothing(db):
    async with serving(build_app(db)) as client:
        task = asyncio.create_task(client.get("/hold"))
        async with asyncio.timeout(5):
            while not db.async_engine.pool.checkedout():
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert db.async_engine.pool.checkedout() == 0


async def test_a_request_after_the_stop_is_503(client, db):
    await db.stop()
    refused = await client.get("/names")
    assert (refused.status_code, refused.json()["title"], refused.headers["retry-after"]) == (503, "Unavailable", "2")


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("set local statement_timeout = 50; select pg_sleep(10)", "57014"),
        ("set transaction read only; insert into item (name) values ('x')", "25006"),
        ("do $$ begin raise exception 'full' using errcode = '53100'; end $$", "53100"),
        ("do $$ begin raise exception 'conflict' using errcode = '40001'; end $$", "40001"),
    ],
)
async def test_a_server_that_will_not_do_it_now_is_503_and_its_other_errors_stay_500(db, statement, state, caplog):
    app = build_app(db)

    @app.post("/do")
    async def do(s: SessionDep, what: str) -> None:
        for one in what.split(";") if "begin" not in what else [what]:
            await s.execute(text(one))

    async with serving(app) as client:
        refused = await client.post("/do", params={"what": statement})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2"), state
        assert "/do" in caplog.text
        assert (await client.post("/do", params={"what": "select * from nothing"})).status_code == 500
        assert await names(client) == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2"])
async def test_the_codes_of_a_server_that_will_not_do_it_now_are_503_with_every_driver(pg_url, driver, caplog):
    own = Database(Dsn.parse(pg_url).replace(driver=driver))
    app = build_app(own)

    def statement(state: str):
        return text(f"do $$ begin raise exception 'no' using errcode = '{state}'; end $$")

    @app.post("/async/{state}")
    async def by_async(state: str, s: SessionDep) -> None:
        await s.execute(statement(state))

    @app.post("/sync/{state}")
    def by_sync(state: str) -> None:
        with own.sync_session() as s:
            s.execute(statement(state))

    way = "async" if driver == "asyncpg" else "sync"
    codes = ("25006", "40001", "40P01", "53200", "55P03", "57014", "57P05", "58030", "25001", "57000", "58000", "22012")
    async with serving(app) as client:
        statuses = {code: (await client.post(f"/{way}/{code}")).status_code for code in codes}
    assert statuses == dict.fromkeys(codes[:8], 503) | dict.fromkeys(codes[8:], 500)
    assert "POST" in caplog.text
    assert "do $$" not in caplog.text, "what people ask the database is in the log"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", [SQLAlchemyError, DBAPIError])
async def test_an_applications_own_handlers_stay_in_force(db, when, kind):
    app = FastAPI()

    def teapot(*_) -> JSONResponse:
        return JSONResponse({}, 418)

    if when == "before":
        app.add_exception_handler(kind, teapot)
    install(app, db)
    if when == "after":
        app.add_exception_handler(kind, teapot)

    @app.get("/nothing")
    async def nothing(s: SessionDep) -> None:
        await s.execute(text("select * from nothing"))

    async with serving(app) as client:
        assert (await client.get("/nothing")).status_code == 418


async def test_a_block_around_the_database_does_not_stop_it_for_the_application(db):
    app = build_app(db)

    @app.get("/job")
    async def job() -> None:
        async with db:
            pass

    async with serving(app) as client:
        assert (await client.get("/job")).status_code == 200
        assert await names(client) == []


def test_a_websocket_that_finds_no_database_is_closed_with_try_again_later(own_server):
    own = Database(own_server.url("postgres"))
    with TestClient(build_app(own)) as client:
        own_server.kill()
        with client.websocket_connect("/ws") as socket, pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1013


def test_a_websocket_commits_when_its_endpoint_ends_and_has_no_response_to_miss(db, caplog):
    room._warn_once_that_returned_errors_commit.cache_clear()
    with TestClient(build_app(db)) as client:
        with client.websocket_connect("/ws") as socket:
            assert socket.receive_text() == "done"
        assert client.get("/names").json() == ["by websocket"]
    assert "more commits" not in caplog.text


async def test_an_application_without_install_says_what_to_call():
    app = FastAPI()

    @app.get("/")
    async def index(s: SessionDep) -> None: ...

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
        with pytest.raises(Exception, match=r"install\(app, db\)"):
            await client.get("/")


async def test_a_session_waits_for_no_worker_thread(db):
    """40 threads are all that plain `def` endpoints have; an endpoint with a session must not need one."""
    app = build_app(db)
    released = threading.Event()

    @app.get("/blocks")
    def blocks() -> None:
        released.wait(10)

    async with serving(app) as client:
        blocked = [asyncio.create_task(client.get("/blocks")) for _ in range(60)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            assert (await client.post("/add/meanwhile")).status_code == 201
        released.set()
        await asyncio.gather(*blocked)


@pytest.mark.parametrize("use", ["stream", "background"])
async def test_a_session_used_after_its_end_is_refused_and_leaks_nothing(db, use):
    app = build_app(db)
    failures = []

    @app.get("/late")
    async def late(s: SessionDep, tasks: BackgroundTasks) -> Response:
        async def use_it() -> AsyncIterator[str]:
            try:
                yield str(await s.scalar(text("select 1")))
            except InvalidRequestError as error:
                failures.append(error)

        async def use_it_up() -> None:
            async for _ in use_it():
                pass

        if use == "stream":
            return StreamingResponse(use_it())
        tasks.add_task(use_it_up)
        return JSONResponse({}, background=tasks)

    async with serving(app) as client:
        await client.get("/late")
        assert len(failures) == 1
        assert db.async_engine.pool.checkedout() == 0
