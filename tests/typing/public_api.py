"""What a type checker sees of the public names; `make typecheck` reads this, nobody runs it."""

from typing import assert_type

from fastapi import FastAPI
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from pulsepool import Database, DatabaseSettings, DatabaseUnavailable, Dsn
from pulsepool.embedded import EmbeddedPostgres
from pulsepool.fastapi import DatabaseDep, SessionDep, install

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


def what_is_refused() -> None:
    Database("postgres://h/d", max_size="many")  # type: ignore[arg-type]
    Database("postgres://h/d", max_sise=5)  # type: ignore[call-arg]
    Database("postgres://h/d", pgbouncer="perhaps")  # type: ignore[arg-type]
    Database()  # type: ignore[call-arg]


@app.post("/")
async def endpoint(session: SessionDep, db: DatabaseDep) -> None:
    assert_type(session, AsyncSession)
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
