"""What endpoints ask for: a session of either kind, in one transaction that ends before the response is sent."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pulsepool.fastapi import SessionDep
from pulsepool.sessions import sync_unit_of_work
from src.models.database import SessionLocal


async def get_async_db(session: SessionDep) -> AsyncSession:
    """An asynchronous session; `Depends(get_async_db)` is enough.

    It is no generator on purpose: a generator under FastAPI's default scope would commit after the response, and the
    client would read 200 for a commit that fails. The session that it hands on has ended before that.
    """
    return session


def get_db_session() -> Iterator[Session]:
    """A synchronous session, for plain `def` endpoints, which run in a thread; use it through `SyncDb`."""
    with sync_unit_of_work(SessionLocal()) as session:
        yield session


AsyncDb = Annotated[AsyncSession, Depends(get_async_db)]
SyncDb = Annotated[Session, Depends(get_db_session, scope="function")]
