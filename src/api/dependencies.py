"""What endpoints ask for: a session of either kind, in one transaction that ends before the response is sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pulsepool import PoolTimeout
from pulsepool.fastapi import SessionDep
from pulsepool.sessions import sync_unit_of_work
from src.config import settings
from src.models.database import SessionLocal


async def get_async_db(session: SessionDep) -> AsyncSession:
    """An asynchronous session; `Depends(get_async_db)` is enough.

    It is no generator on purpose: a generator under FastAPI's default scope would commit after the response, and the
    client would read 200 for a commit that fails. The session that it hands on has ended before that.
    """
    return session


def sync_admission() -> asyncio.Semaphore:
    """As many places as there are synchronous connections; the application's lifespan makes one."""
    return asyncio.Semaphore(settings.database.max_size)


async def _admitted(request: Request) -> AsyncIterator[None]:
    """Let a synchronous request in only when a connection is free for it.

    A plain `def` endpoint holds its session while FastAPI renders the response in a worker thread. Were all threads
    waiting for a connection, those who hold one would wait for a thread, and nobody would get on.
    """
    places: asyncio.Semaphore = request.app.state.sync_admission
    limit = settings.database.acquire_timeout
    try:
        await asyncio.wait_for(places.acquire(), limit)
    except TimeoutError:
        raise PoolTimeout(
            f"no synchronous connection within {limit:.1f} s ({settings.database.max_size} in use)",
            hint="move the endpoint to the asynchronous session, or raise DB_MAX_SIZE",
        ) from None
    try:
        yield
    finally:
        places.release()


Admitted = Annotated[None, Depends(_admitted, scope="function")]


def _sync_session(_: Admitted) -> Iterator[Session]:
    with sync_unit_of_work(SessionLocal()) as session:
        yield session


def get_db_session(session: Annotated[Session, Depends(_sync_session, scope="function")]) -> Session:
    """A synchronous session, for plain `def` endpoints, which run in a thread; `Depends(get_db_session)` is enough."""
    return session


AsyncDb = Annotated[AsyncSession, Depends(get_async_db)]
SyncDb = Annotated[Session, Depends(get_db_session)]
