"""What the engines tell their drivers, and when they ask for a password, on a real server."""

import asyncio
import threading

import pytest
from sqlalchemy import text

from pulsepool import Database, Dsn
from tests.planted import PLANTED


async def show(db: Database, name: str) -> str:
    async with db.session() as s:
        return await s.scalar(text("select current_setting(:name)"), {"name": name})


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_sync_driver_is_told_the_connect_timeout_in_whole_seconds_and_no_less(pg_url, driver):
    engine = Database(pg_url.replace("postgresql:", f"postgresql+{driver}:"), connect_timeout=3.2).sync_engine
    with engine.connect() as c:
        info = c.connection.driver_connection.info
        told = info.get_parameters() if driver == "psycopg" else info.dsn_parameters
    assert told["connect_timeout"] == "4"
    engine.dispose()


@pytest.mark.parametrize(("options", "limit"), [({"statement_timeout": 1.5}, 3.5), ({}, None)])
async def test_asyncpg_gives_a_statement_time_for_the_servers_own_limit_to_come_first(pg_url, options, limit):
    async with Database(pg_url, connect_timeout=2, **options) as db, db.async_engine.connect() as c:
        driver_connection = (await c.get_raw_connection()).driver_connection
        assert driver_connection._config.command_timeout == limit


async def test_the_options_of_the_address_are_kept_beside_the_timeouts(pg_url):
    async with Database(f"{pg_url}?options=-c%20work_mem%3D5MB", statement_timeout=2) as db:
        assert [await show(db, name) for name in ("work_mem", "statement_timeout")] == ["5MB", "2s"]

        def sync_show(name: str) -> str:
            with db.sync_session() as s:
                return s.scalar(text("select current_setting(:name)"), {"name": name})

        assert await asyncio.to_thread(sync_show, "work_mem") == "5MB"
        assert await asyncio.to_thread(sync_show, "statement_timeout") == "2s"


async def test_a_plain_password_callable_that_takes_its_time_leaves_the_loop_free(pg_url):
    asked, released = threading.Event(), threading.Event()

    def password() -> str:
        asked.set()
        assert released.wait(4), "the loop did not get on"
        return PLANTED

    db = Database(Dsn.parse(pg_url).replace(password=None), password=password)
    starting = asyncio.create_task(db.start())
    async with asyncio.timeout(5):
        while not asked.is_set():
            await asyncio.sleep(0.005)
    released.set()
    await starting
    await db.stop()
