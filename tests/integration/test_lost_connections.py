"""Connections that are lost: noticed before they are lent, ended at once, and never taken for what they are not."""

import asyncio
import contextlib
import time

import psycopg
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from pulsepool import Database, DatabaseUnavailable, Dsn
from tests.integration.test_sessions import Note

PID = text("select pg_backend_pid()")
SYNC = pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])

FATES = {"08006": True, "57P01": True, "57P02": True, "57P03": True, "57014": False, "57P05": False, "22012": False}
"""SQLSTATEs, and whether a connection is of no use after them, though its socket says nothing."""


def raising(sqlstate: str):
    return text(f"do $$ begin raise exception 'so it is' using errcode = '{sqlstate}'; end $$")


def end(url: str, pid: int) -> None:
    """End a backend from outside; in this very thread, so that no event loop can notice it."""
    with psycopg.connect(url, autocommit=True) as c:
        assert c.execute("select pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)


def sync_engine(url: str, driver: str, **options) -> Engine:
    return Database(Dsn.parse(url).replace(driver=driver), **options).sync_engine


async def test_a_code_that_means_a_lost_connection_condemns_it_and_no_other_code_does(pg_url):
    async with Database(pg_url) as db:
        for sqlstate, lost in FATES.items():
            async with db.async_engine.connect() as c:
                with pytest.raises(DBAPIError) as failed:
                    await c.execute(raising(sqlstate))
                assert (sqlstate, failed.value.connection_invalidated) == (sqlstate, lost)


@SYNC
def test_a_code_that_means_a_lost_connection_condemns_a_synchronous_one_too(pg_url, driver):
    engine = sync_engine(pg_url, driver)
    for sqlstate, lost in FATES.items():
        with engine.connect() as c:
            with pytest.raises(DBAPIError) as failed:
                c.execute(raising(sqlstate))
            assert (sqlstate, failed.value.connection_invalidated) == (sqlstate, lost)
    engine.dispose()


@pytest.mark.parametrize("asks", [True, False])
async def test_an_idle_connection_is_asked_before_it_is_lent_unless_it_has_just_come_home(pg_url, asks):
    async with Database(pg_url, validate_after=0 if asks else 60) as db:
        async with db.async_engine.connect() as c:
            pid = await c.scalar(PID)
        end(pg_url, pid)
        async with db.async_engine.connect() as c:
            if asks:
                assert await c.scalar(PID) != pid
            else:
                with pytest.raises((DBAPIError, DatabaseUnavailable)):
                    await c.scalar(PID)


@SYNC
@pytest.mark.parametrize("asks", [True, False])
def test_an_idle_synchronous_connection_is_asked_the_same_way(pg_url, driver, asks):
    engine = sync_engine(pg_url, driver, validate_after=0 if asks else 60)
    with engine.connect() as c:
        pid = c.scalar(PID)
    end(pg_url, pid)
    with engine.connect() as c:
        if asks:
            assert c.scalar(PID) != pid
        else:
            with pytest.raises(DBAPIError):
                c.scalar(PID)
    engine.dispose()


@SYNC
def test_a_synchronous_connection_that_the_driver_knows_to_be_closed_is_not_lent(pg_url, driver):
    engine = sync_engine(pg_url, driver, validate_after=60)
    with engine.connect() as c:
        pid = c.scalar(PID)
        driver_connection = c.connection.driver_connection
    driver_connection.close()
    with engine.connect() as c:
        assert c.scalar(PID) != pid
    engine.dispose()


async def test_a_backend_that_does_not_answer_is_replaced_without_waiting_for_its_good_bye(
    pg_url, frozen_backend, monkeypatch
):
    """SQLAlchemy's own way to end it waits for two seconds."""
    monkeypatch.setattr("pulsepool.pool.keeper.ASKING", 0.1)
    async with Database(pg_url, validate_after=0) as db:
        async with db.async_engine.connect() as c:
            pid = await c.scalar(PID)
        with frozen_backend(pid):
            started = time.monotonic()
            async with db.async_engine.connect() as c:
                assert await c.scalar(PID) != pid
            assert time.monotonic() - started < 1.9


async def test_a_connection_on_which_the_server_fell_silent_is_ended_at_once_and_never_lent_again(
    pg_url, frozen_backend
):
    async with Database(pg_url, statement_timeout=0.1, connect_timeout=0.1, validate_after=60) as db:
        retired = []

        @event.listens_for(db.async_engine.sync_engine, "invalidate")
        def retire(_, record, reason) -> None:
            retired.append((type(reason), record.driver_connection.is_closed()))

        async with db.async_engine.connect() as c:
            pid = await c.scalar(PID)
            with frozen_backend(pid), pytest.raises(DatabaseUnavailable, match="stopped answering"):
                await c.execute(text("select 1"))
            assert c.invalidated
        assert retired == [(TimeoutError, True)], "it was not closed before SQLAlchemy began to say good-bye"
        async with db.async_engine.connect() as c:
            assert await c.scalar(PID) != pid


async def test_a_rollback_that_is_lost_is_no_unknown_commit_though_the_connection_committed_before(
    pg_url, frozen_backend
):
    async with Database(pg_url, statement_timeout=0.1, connect_timeout=0.1, validate_after=60) as db:
        with contextlib.ExitStack() as ice:
            pids = []
            with pytest.raises(DatabaseUnavailable, match="stopped answering"):
                for _ in range(2):
                    async with db.session() as s:
                        pids.append(await s.scalar(PID))
                        if len(pids) == 2:
                            ice.enter_context(frozen_backend(pids[-1]))
                            await s.rollback()
        assert pids[0] == pids[1]


async def test_an_error_of_the_socket_condemns_its_connection(pg_url, monkeypatch):
    async def reset(*_: object, **__: object) -> None:
        raise ConnectionResetError

    async with Database(pg_url, validate_after=60) as db, db.async_engine.connect() as c:
        pid = await c.scalar(PID)
        with monkeypatch.context() as patch, pytest.raises(DatabaseUnavailable, match="stopped answering"):
            patch.setattr("asyncpg.Connection.prepare", reset)
            await c.execute(text("select 1"))
        assert c.invalidated
        await c.rollback()
        assert await c.scalar(PID) != pid


async def test_a_slow_statement_is_ended_by_the_server_and_its_connection_lives(pg_url):
    async with Database(pg_url, statement_timeout=0.1) as db, db.async_engine.connect() as c:
        pid = await c.scalar(PID)
        with pytest.raises(DBAPIError, match="statement timeout"):
            await c.execute(text("select pg_sleep(10)"))
        await c.rollback()
        assert await c.scalar(PID) == pid


async def test_a_stop_that_a_silent_server_keeps_waiting_ends_every_connection_itself(own_server, frozen):
    db = Database(own_server.url("postgres"), min_size=2, max_size=2)
    await db.start()
    opened = [slot.connection.driver for slot in db.pool.slots]
    with frozen(own_server):
        async with asyncio.timeout(3):
            await db.stop(deadline=0.4)
        assert [connection.is_closed() for connection in opened] == [True, True]


@pytest.fixture
async def deadly(pg_url):
    """A database in which no connection outlives an insert into the table `note`."""
    async with Database(pg_url) as db:
        async with db.session() as s:
            await s.execute(text("create table note (id int generated always as identity primary key, body text)"))
            await s.execute(
                text(
                    "create function die() returns trigger language plpgsql as "
                    "$$ begin raise exception 'terminating' using errcode = '57P01'; end $$"
                )
            )
            await s.execute(text("create trigger die before insert on note for each row execute function die()"))
        yield db


async def test_a_flush_that_is_lost_in_commit_is_unavailable_with_the_servers_code_and_not_unknown(deadly):
    with pytest.raises(DatabaseUnavailable, match="lost inside a transaction") as lost:
        async with deadly.session() as s:
            s.add(Note(body="undone"))  # commit flushes it first
    assert lost.value.sqlstate == "57P01"


@SYNC
@pytest.mark.usefixtures("deadly")
async def test_a_synchronous_flush_that_is_lost_in_commit_is_the_same(pg_url, driver):
    db = Database(Dsn.parse(pg_url).replace(driver=driver))

    def work() -> None:
        with db.sync_session() as s:
            s.add(Note(body="undone"))

    with pytest.raises(DatabaseUnavailable, match="lost inside a transaction") as lost:
        await asyncio.to_thread(work)
    assert lost.value.sqlstate == "57P01"
    db.sync_engine.dispose()
