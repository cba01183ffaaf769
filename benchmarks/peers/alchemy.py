"""SQLAlchemy's asynchronous engine on asyncpg, as it comes and as PRP-27 sets it."""

# ruff: noqa: D102 - told once, at `Peer`

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from benchmarks import data
from benchmarks.peers.base import AUTOCOMMIT, PRP27, SQLALCHEMY, WAIT, Peer
from pulsepool.dsn import Dsn


class SqlAlchemy(Peer):
    """SQLAlchemy as it comes, but for its size: as many connections as everybody's, and no overflow."""

    name = SQLALCHEMY

    def _engine(self) -> AsyncEngine:
        return self._made(pool_size=self.least, max_overflow=self.most - self.least, pool_timeout=WAIT)

    def _made(self, **arguments: Any) -> AsyncEngine:
        dsn = Dsn.parse(self.url)
        return create_async_engine(dsn.sqlalchemy_url("asyncpg"), connect_args=dsn.connect_args("asyncpg"), **arguments)

    async def open(self) -> None:
        self._pool = self._engine()
        self._sessions = async_sessionmaker(self._pool, expire_on_commit=False)
        async with AsyncExitStack() as held:
            for _ in range(self.least):
                await held.enter_async_context(self._pool.connect())

    async def close(self) -> None:
        await self._pool.dispose()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction."""
        async with self._sessions.begin() as session:
            yield session

    async def churn(self, times: int) -> None:
        pool = self._pool
        for _ in range(times):
            async with pool.connect():
                pass

    def hold(self) -> AbstractAsyncContextManager[object]:
        return self._pool.connect()

    async def one(self) -> object:
        async with self._pool.connect() as connection:
            return (await connection.execute(data.ONE_TEXT, {"id": data.ID})).one()

    async def nap(self, seconds: float) -> None:
        async with self.session() as session:
            await session.execute(text("select pg_sleep(:seconds)"), {"seconds": seconds})

    async def read(self) -> object:
        """One row."""
        async with self.session() as session:
            return (await session.execute(data.ONE_TEXT, {"id": data.ID})).one()

    async def load(self) -> object:
        """One object of the ORM's by a query."""
        async with self.session() as session:
            return (await session.scalars(data.whole())).one()

    async def write(self) -> None:
        """One update in a transaction."""
        async with self.session() as session:
            await session.execute(data.increment())

    async def some(self, rows: int) -> object:
        """The first `rows` rows, by a Core statement on a session."""
        async with self.session() as session:
            return (await session.execute(data.some(rows))).all()


class SqlAlchemyAutocommit(SqlAlchemy):
    """The same without transactions, which a single statement can do without: no BEGIN, and no ROLLBACK at the end."""

    name = AUTOCOMMIT

    def _made(self, **arguments: Any) -> AsyncEngine:
        return super()._made(isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **arguments)


class Prp27(SqlAlchemy):
    """PRP-27's engine and `get_database`, setting for setting: 10 connections, 20 of overflow, pre-ping, recycling."""

    name = PRP27

    def _engine(self) -> AsyncEngine:
        return self._made(pool_size=10, max_overflow=20, pool_pre_ping=True, pool_recycle=300)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        async with self._sessions() as session:
            try:
                yield session
                await session.commit()
            except Exception:
                await session.rollback()
                raise
            finally:
                await session.close()

    async def one(self) -> object:
        async with self.session() as session:
            return (await session.execute(data.ONE_TEXT, {"id": data.ID})).one()
