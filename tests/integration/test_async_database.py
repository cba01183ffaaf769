"""The service's asynchronous way to the database, on a real one; PRP-27's own tests are beside it, word for word."""

import asyncio
import logging

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from src.models import async_database
from src.models.async_database import (
    close_async_database,
    get_async_db_session,
    get_database,
    init_async_database,
)
from src.models.database import SessionLocal, database, engine
from tests.planted import PLANTED


class Base(DeclarativeBase):
    pass


class Scratch(Base):
    __tablename__ = "scratch"
    name: Mapped[str] = mapped_column(primary_key=True)


@pytest.fixture
async def table():
    async with get_database() as db:
        await db.execute(text("drop table if exists scratch"))
        await db.execute(text("create table scratch (name text unique deferrable initially deferred)"))
    yield
    async with get_database() as db:
        await db.execute(text("drop table scratch"))


async def kept() -> list[str]:
    async with get_database() as db:
        return list(await db.scalars(text("select name from scratch order by name")))


@pytest.mark.usefixtures("table")
async def test_a_success_is_kept_and_an_error_is_undone():
    async with get_database() as db:
        await db.execute(text("insert into scratch values ('kept')"))
    with pytest.raises(KeyError):
        async with get_database() as db:
            await db.execute(text("insert into scratch values ('undone')"))
            raise KeyError
    assert await kept() == ["kept"]


@pytest.mark.usefixtures("table")
async def test_what_was_kept_stays_readable_after_the_session_and_the_session_is_over():
    async with get_database() as db:
        kept = Scratch(name="async")
        db.add(kept)
    with pytest.raises(InvalidRequestError, match="closed"):
        await db.execute(text("select 1"))
    with SessionLocal() as session:
        kept_too = Scratch(name="sync")
        session.add(kept_too)
        session.commit()
    with pytest.raises(InvalidRequestError, match="closed"):
        session.execute(text("select 1"))
    assert (kept.name, kept_too.name) == ("async", "sync")


@pytest.mark.usefixtures("table")
async def test_a_cancelled_caller_is_undone_and_leaves_no_connection():
    working = asyncio.Event()

    async def work() -> None:
        async with get_database() as db:
            await db.execute(text("insert into scratch values ('undone')"))
            working.set()
            await db.execute(text("select pg_sleep(60)"))

    task = asyncio.create_task(work())
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert async_database.async_engine.pool.checkedout() == 0
    assert await kept() == []


@pytest.mark.usefixtures("table")
async def test_the_generator_for_fastapi_commits_when_it_is_exhausted():
    async for db in get_async_db_session():
        await db.execute(text("insert into scratch values ('kept')"))
    assert await kept() == ["kept"]


async def test_it_makes_itself_ready_at_first_use_and_again_after_a_close():
    assert async_database.AsyncSessionLocal is None
    for _ in range(2):
        async with get_database() as db:
            assert await db.scalar(text("select 1")) == 1
        assert async_database.async_engine is database.async_engine
        await close_async_database()
        assert async_database.async_engine is None
        assert database.async_engine.pool.checkedin() == 0


async def test_making_it_ready_is_logged_once_with_the_address_and_without_the_password(caplog):
    with caplog.at_level(logging.INFO):
        init_async_database()
        init_async_database()
    assert caplog.text.count("Async database initialized: postgresql+asyncpg://postgres:***@127.0.0.1") == 1
    assert PLANTED not in caplog.text


def test_the_synchronous_way_goes_on_working():
    with SessionLocal() as session:
        assert session.scalar(text("select 1")) == 1
    assert engine.driver == "psycopg2"
