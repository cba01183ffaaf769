"""How an application with pulsepool starts and stops, and what is said when it cannot start."""

import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from pulsepool import ConfigurationError, Database, PulsePoolError
from pulsepool.fastapi import PlainStartup, install


@pytest.fixture
def db(pg_url):
    return Database(pg_url, max_size=2, acquire_timeout=0.2)


async def start(app) -> tuple[list[dict], Exception | None]:
    """What an application says to its server at a start, and what it raises."""
    said = []

    async def receive() -> dict:
        return {"type": "lifespan.startup"}

    async def send(message) -> None:
        said.append(message)

    try:
        await app({"type": "lifespan", "app": FastAPI(), "state": {}}, receive, send)
    except (PulsePoolError, LookupError) as error:  # those of the tests below
        return said, error
    return said, None


async def test_stopping_takes_no_longer_than_the_deadline_given(db):
    app = FastAPI()
    install(app, db, stop_deadline=0.3)
    async with app.router.lifespan_context(app):
        holder = await db.async_engine.connect()
        started = time.monotonic()
    assert time.monotonic() - started < 2
    await holder.close()


async def test_the_lifespan_that_an_application_has_runs_inside_that_of_the_database(db):
    seen = []

    @asynccontextmanager
    async def lifespan(_):
        async with db.session() as s:
            seen.append(await s.scalar(text("select 1")))
        yield {"mine": "kept"}
        async with db.session() as s:
            seen.append(await s.scalar(text("select 2")))

    app = FastAPI(lifespan=lifespan)
    install(app, db)
    async with app.router.lifespan_context(app) as state:
        assert state == {"mine": "kept"}
    assert seen == [1, 2]


SERVICE = """
import sys, uvicorn
from fastapi import FastAPI
from pulsepool import Database
from pulsepool.fastapi import install
app = FastAPI(debug={debug})
install(app, Database("postgresql://ed:planted@127.0.0.1:1/edbot"))
uvicorn.run(app, port=0)
"""


@pytest.mark.parametrize("debug", [False, True])
def test_a_start_that_fails_is_one_line_and_an_exit_code_and_a_traceback_only_in_debug(debug):
    done = subprocess.run(
        [sys.executable, "-c", SERVICE.format(debug=debug)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert "pulsepool.DatabaseUnavailable: nothing listens at 127.0.0.1:1" in done.stderr
    assert "hint: start PostgreSQL there" in done.stderr
    assert ("Traceback" in done.stderr) is debug
    assert "planted" not in done.stderr


async def test_a_reason_that_is_known_is_reported_in_plain_words_and_not_raised_once_more():
    app = FastAPI()
    install(app, Database("postgresql://ed:planted@127.0.0.1:1/edbot"))
    (said,), raised = await start(app)
    assert raised is None
    assert said["type"] == "lifespan.startup.failed"
    assert said["message"].startswith("pulsepool.DatabaseUnavailable: nothing listens at 127.0.0.1:1\n  hint: ")
    assert "Traceback" not in said["message"]


async def test_a_reason_that_nobody_reported_is_raised():
    async def app(scope, receive, send) -> None:
        raise ConfigurationError("no address")

    said, raised = await start(PlainStartup(app))
    assert (said, type(raised)) == ([], ConfigurationError)


async def test_an_error_of_the_applications_own_keeps_its_traceback_and_leaves_nothing_open(db):
    opened = []

    @asynccontextmanager
    async def lifespan(_):
        opened.extend(slot.connection.driver for slot in db.pool.slots)
        raise LookupError("a bug")
        yield

    app = FastAPI(lifespan=lifespan)
    install(app, db)
    (said,), raised = await start(app)
    assert isinstance(raised, LookupError)
    assert said["message"].startswith("Traceback")
    assert [connection.is_closed() for connection in opened] == [True]
    assert "not started" in repr(db)
