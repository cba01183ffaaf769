"""The asynchronous way to the database: a session in one transaction, for the health monitor and for endpoints."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from pulsepool.sessions import unit_of_work
from src.models.database import database

logger = logging.getLogger(__name__)

async_engine: AsyncEngine | None = None
AsyncSessionLocal: async_sessionmaker[AsyncSession] | None = None


def init_async_database() -> async_sessionmaker[AsyncSession]:
    """Make the engine and the session factory, which connect with their first use; give the factory.

    Doing it twice is no error.
    """
    global async_engine, AsyncSessionLocal  # noqa: PLW0603 - PRP-27 names these two as module globals
    if AsyncSessionLocal is None:
        async_engine = database.async_engine
        AsyncSessionLocal = async_sessionmaker(async_engine, expire_on_commit=False, close_resets_only=False)
        logger.info("Async database initialized: %s", database.dsn.replace(driver="asyncpg"))
    return AsyncSessionLocal


async def close_async_database(deadline: float = 10.0) -> None:
    """Let the work under way finish, for `deadline` seconds at most, and close every connection.

    The next use of either way opens new ones: a script of the synchronous side goes on working.
    """
    global async_engine, AsyncSessionLocal  # noqa: PLW0603 - as above
    await database.stop(deadline)
    database.open()
    async_engine = AsyncSessionLocal = None


@asynccontextmanager
async def get_database() -> AsyncIterator[AsyncSession]:
    """A session in one transaction: committed on success, rolled back on any error and on cancellation.

    Usage:
        async with get_database() as db:
            result = await db.execute(text("SELECT 1"))

    Raises `PoolTimeout` and `DatabaseUnavailable` of pulsepool.
    """
    async with init_async_database()() as session, unit_of_work(session):
        yield session


async def get_async_db_session() -> AsyncIterator[AsyncSession]:
    """The same as a generator, for `Depends(get_async_db_session, scope="function")`.

    With FastAPI's default scope the commit would come after the response; `src.api.dependencies.get_async_db` cannot
    be used that way.
    """
    async with get_database() as session:
        yield session
