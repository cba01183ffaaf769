"""What a type checker sees of the public names; `make typecheck` reads this, nobody runs it."""

from collections.abc import Sequence
from typing import Any, assert_type

import asyncpg
from fastapi import FastAPI
from sqlalchemy import Engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from pulsepool import Database, DatabaseSettings, DatabaseUnavailable, Dsn, PoolStats
from pulsepool.embedded import EmbeddedPostgres
from pulsepool.fastapi import DatabaseDep, ReadDep, SessionDep, install
from pulsepool.lane.rows import Row

app = FastAPI()


async def rotating() -> str:
    return "secret"


async def a_database() -> None:
    db = Database("postgres://h/d", name="main", max_size=5, max_lifetime=None, pgbouncer="off", password=rotating)
    assert_type(db.async_engine, AsyncEngine)
    assert_type(db.sync_engine, Engine)
    assert_type(db.settings, DatabaseSettings)
    assert_type(db.dsn, Dsn)
    async with Database.from_env("AUDIT_", env_file=None) as audit, audit.session() as session:
        assert_type(audit, Database)
        assert_type(session, AsyncSession)
    with db.sync_session() as sync_session:
        assert_type(sync_session, Session)
    await db.stop(deadline=1.5)
    install(app, db)


async def the_lane(db: Database) -> None:
    assert_type(await db.fetch("select $1::int", 5, timeout=1.5), list[asyncpg.Record])
    assert_type(await db.fetchrow("select 1"), asyncpg.Record | None)
    assert_type(await db.execute("select 1"), str)
    assert_type(await db.fetch(select(text("1")), {"wanted": 5}), Sequence[Row])
    assert_type(await db.fetchrow(select(text("1"))), Row | None)
    assert_type(await db.execute(select(text("1"))), str)
    await db.executemany("select $1::int", [(1,), (2,)])
    await db.executemany(select(text("1")), [{"wanted": 1}])
    async with db.connection() as connection, db.read() as session:
        assert_type(connection, asyncpg.Connection[Any])
        assert_type(session, AsyncSession)
    async for _ in db.stream("select 1", batch=100):
        pass
    assert_type(db.stats(), PoolStats)
    assert_type(db.stats().counters.connects, int)


async def what_the_lane_refuses(db: Database) -> None:
    await db.fetch(5)  # type: ignore[call-overload]
    await db.fetch(select(text("1")), 5)  # type: ignore[call-overload]
    await db.fetch("select 1", timeout="soon")  # type: ignore[call-overload]
    await db.executemany("select 1")  # type: ignore[call-arg]
    db.connection().fetch("select 1")  # type: ignore[attr-defined]


def what_is_refused() -> None:
    Database("postgres://h/d", max_size="many")  # type: ignore[arg-type]
    Database("postgres://h/d", max_sise=5)  # type: ignore[call-arg]
    Database("postgres://h/d", pgbouncer="perhaps")  # type: ignore[arg-type]
    Database()  # type: ignore[call-arg]


@app.post("/")
async def endpoint(session: SessionDep, reading: ReadDep, db: DatabaseDep) -> None:
    assert_type(session, AsyncSession)
    assert_type(reading, AsyncSession)
    assert_type(db, Database)
    await session.execute(text("select 1"))


def an_address(error: DatabaseUnavailable) -> None:
    dsn = Dsn.parse("postgres://h/d").replace(password="secret", database=None)
    assert_type(dsn, Dsn)
    assert_type(dsn.render(), str)
    assert_type(error.sqlstate, str | None)
    assert_type(error.hint, str)


def a_server(server: EmbeddedPostgres) -> None:
    assert_type(server.url("d"), str)
    assert_type(server.port, int)
