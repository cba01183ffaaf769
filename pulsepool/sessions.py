"""Units of work: a session in one transaction, committed on success and undone on everything else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pulsepool.errors import BlockedLoop, CommitUnknown, DatabaseUnavailable

logger = logging.getLogger("pulsepool.sessions")

CLEANUP = 5.0
"""Seconds that undoing a transaction may take before its connection is given up; as long as a connect may take."""

GIVING_UP = 3.0
"""Seconds for ending a connection that was given up; SQLAlchemy's own good-bye to asyncpg takes two at most."""


@asynccontextmanager
async def unit_of_work(session: AsyncSession) -> AsyncIterator[AsyncSession]:
    """Lend `session` for one transaction: commit at the end, roll back on any error or cancellation, always close.

    Raises what the body or the commit raised; but a connection lost on the way becomes `DatabaseUnavailable`, and one
    lost while COMMIT was under way `CommitUnknown`. Undoing is shielded from cancellation and takes 5 s at most.
    """
    try:
        yield session
        try:
            await session.commit()
        except DBAPIError as error:
            if _lost_in_commit(error):
                raise _commit_unknown(error) from error
            raise
    except BaseException as error:
        await _settle(_undo(session))
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise _lost(error) from error
        raise
    else:
        await session.close()  # nothing is left to say to the server, so nothing here can wait or be cancelled


@contextmanager
def sync_unit_of_work(session: Session) -> Iterator[Session]:
    """The same for a synchronous session. Raises `BlockedLoop` on a thread whose event loop runs."""
    _refuse_running_loop()
    try:
        yield session
        try:
            session.commit()
        except DBAPIError as error:
            if _lost_in_commit(error):
                raise _commit_unknown(error) from error
            raise
    except BaseException as error:
        session.rollback()
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise _lost(error) from error
        raise
    finally:
        session.close()


async def _undo(session: AsyncSession) -> None:
    try:
        await session.rollback()
    finally:
        await session.close()


async def _settle(cleanup: Coroutine[Any, Any, None]) -> None:
    """Finish `cleanup` whatever happens to the caller, within `CLEANUP`; a failure is logged, never raised.

    A cancellation that arrives meanwhile is kept, and delivered when the connection is home: delivered at once, it
    would leave the connection checked out with nobody to return it.
    """
    task = asyncio.create_task(cleanup, name="pulsepool: undo")
    cancelled = await _outwait(task, CLEANUP)
    if not task.done():
        logger.warning("undoing a transaction took longer than %.1f s; its connection is given up", CLEANUP)
        task.cancel()  # SQLAlchemy then ends the connection, politely at first
        cancelled = await _outwait(task, GIVING_UP) or cancelled
    if task.done() and not task.cancelled() and (failure := task.exception()) is not None:
        logger.warning("undoing a transaction failed: %s: %s", type(failure).__name__, failure)
    if cancelled is not None:
        raise cancelled


async def _outwait(task: asyncio.Task[None], limit: float) -> asyncio.CancelledError | None:
    """Wait for `task`, `limit` seconds at most, cancelled or not; give the cancellation that is yet to be delivered."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + limit
    cancelled = None
    while not task.done() and (left := ends - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _lost_in_commit(error: DBAPIError) -> bool:
    """Whether COMMIT itself was sent and not answered.

    A flush that failed names its statement, and COMMIT is none. An `InterfaceError` is the driver refusing to send on
    a connection that it knows to be closed: nothing was sent, so nothing was committed.
    """
    return error.connection_invalidated and error.statement is None and not isinstance(error, InterfaceError)


def _commit_unknown(error: DBAPIError) -> CommitUnknown:
    return CommitUnknown(
        f"the connection was lost while COMMIT was under way ({_first_line(error)}); "
        "the transaction may or may not have happened",
        hint="look whether the work is there before doing it again",
    )


def _lost(error: DBAPIError) -> DatabaseUnavailable:
    unavailable = DatabaseUnavailable(
        f"the connection was lost inside a transaction, which is undone ({_first_line(error)})",
        hint="try the whole transaction again",
    )
    unavailable.sqlstate = getattr(error.orig, "sqlstate", None)
    return unavailable


def _first_line(error: DBAPIError) -> str:
    text = str(error.orig).strip()
    return text.splitlines()[0] if text else type(error.orig).__name__


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BlockedLoop(
        "a synchronous session was asked for on a thread whose event loop is running: every other request would wait",
        hint="use `async with db.session()` here, or call this code from a thread (a plain `def` endpoint runs in one)",
    )
