"""Units of work: a session in one transaction, committed on success and undone on everything else."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util.concurrency import greenlet_spawn

from pulsepool.alchemy import Unanswered, was_in_commit
from pulsepool.alchemy.events import TRY_AGAIN
from pulsepool.diagnosis import first_line, sqlstate_of
from pulsepool.errors import BlockedLoop, CommitUnknown, DatabaseUnavailable

logger = logging.getLogger("pulsepool.sessions")

CLEANUP = 5.0
"""Seconds that undoing a transaction may take before its connection is given up: the default of a connect."""

GIVING_UP = 3.0
"""Seconds for ending a connection that was given up; SQLAlchemy's own good-bye to asyncpg takes two at most."""


class UnitOfWork:
    """`async with unit_of_work(session):`, see there. A class, as a generator costs each request some microseconds."""

    __slots__ = ("_session",)

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def __aenter__(self) -> AsyncSession:
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                await self._end()
            except BaseException as failure:
                await self._undo(failure)
                raise
        else:
            await self._undo(error)

    async def _end(self) -> None:
        if self._session.in_transaction():  # one that the body ended itself, or never began, has nothing to commit
            await self._session.commit()
        await self._session.close()  # nothing is left to say to the server, so nothing here can wait or be cancelled

    async def _undo(self, error: BaseException) -> None:
        await _settle(_undo(self._session))
        if (typed := _if_lost(error)) is not None:
            raise typed from error


def unit_of_work(session: AsyncSession) -> UnitOfWork:
    """Lend `session` for one transaction: commit at the end, roll back on any error or cancellation, always close.

    Raises what the body or the commit raised; but a connection lost on the way becomes `DatabaseUnavailable`, and one
    lost or silent while COMMIT was under way `CommitUnknown`. Undoing is shielded from cancellation, and bounded by
    `CLEANUP` and `GIVING_UP`, 8 s together.
    """
    return UnitOfWork(session)


class Writing(UnitOfWork):
    """The same as `unit_of_work`, for a session on one engine of ours, with a greenlet for COMMIT alone."""

    __slots__ = ()

    async def _end(self) -> None:
        session = self._session.sync_session
        if session.in_transaction():
            await greenlet_spawn(_commit_and_close, session)
        else:
            await _close(self._session)


class Reading(UnitOfWork):
    """The same for a session on a connection in autocommit, where there is nothing to commit or to undo."""

    __slots__ = ()

    async def _end(self) -> None:
        if _in_autocommit(self._session.sync_session):
            await _close(self._session)
        else:
            await self._session.close()


def _commit_and_close(session: Session) -> None:
    session.commit()
    session.close()


async def _close(session: AsyncSession) -> None:
    """Close a session that has nothing left to say to the server; only somebody's listener would need a greenlet."""
    if _listened_to(session.sync_session):
        await session.close()
    else:
        session.sync_session.close()


def _in_autocommit(session: Session) -> bool:
    """Whether no transaction is open: one was asked for by an isolation level of its own."""
    begun = session.get_transaction()
    connections = begun._connections.values() if begun is not None else ()  # noqa: SLF001 - no public way without I/O
    return all(connection.connection.dbapi_connection.autocommit for connection, *_ in connections)  # type: ignore[union-attr]


def _listened_to(session: Session) -> bool:
    dispatch = session.bind.pool.dispatch  # type: ignore[union-attr]
    return bool(dispatch.reset or dispatch.checkin)


@contextmanager
def sync_unit_of_work(session: Session) -> Iterator[Session]:
    """The same for a synchronous session. Raises `BlockedLoop` on a thread whose event loop runs."""
    _refuse_running_loop()
    try:
        yield session
        if session.in_transaction():
            session.commit()
    except BaseException as error:
        try:
            session.rollback()
            session.close()
        except Exception as failure:  # noqa: BLE001 - whatever it is, it must not hide what the body raised
            _log_failed_undo(failure)
        if (typed := _if_lost(error)) is not None:
            raise typed from error
        raise
    else:
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
    cancelled = await outwait(task, CLEANUP)
    if not task.done():
        logger.warning("undoing a transaction took longer than %.1f s; its connection is given up", CLEANUP)
        task.cancel()  # SQLAlchemy then ends the connection, politely at first
        cancelled = await outwait(task, GIVING_UP) or cancelled
    if task.done() and not task.cancelled() and (failure := task.exception()) is not None:
        _log_failed_undo(failure)
    if cancelled is not None:
        raise cancelled


async def outwait(task: asyncio.Task[Any], limit: float) -> asyncio.CancelledError | None:
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


def _log_failed_undo(failure: BaseException) -> None:
    logger.warning("undoing a transaction failed: %s: %s", type(failure).__name__, failure)


def _if_lost(error: BaseException) -> CommitUnknown | DatabaseUnavailable | None:
    """What to raise instead of `error` when it means that the connection is gone; None when it means something else.

    An `InterfaceError` is the driver refusing to send on a connection that it knows to be closed: nothing was sent, so
    nothing was committed.
    """
    if isinstance(error, Unanswered):
        what, sqlstate = error.message, None
    elif isinstance(error, DBAPIError) and error.connection_invalidated:
        what, sqlstate = first_line(str(error.orig)) or type(error.orig).__name__, sqlstate_of(error.orig)
    else:
        return None
    if was_in_commit(error) and not isinstance(error, InterfaceError):
        return CommitUnknown(
            f"the connection was lost while COMMIT was under way ({what}): it may or may not have happened",
            hint="look whether the work is there before doing it again",
        )
    if isinstance(error, Unanswered):
        return None  # it is typed already
    lost = DatabaseUnavailable(f"the connection was lost inside a transaction ({what})", hint=TRY_AGAIN)
    lost.sqlstate = sqlstate
    return lost


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BlockedLoop(
        "a synchronous session was asked for on a thread whose event loop is running: every other request would wait",
        hint="use `async with db.session()` here, or call this code from a thread (a plain `def` endpoint runs in one)",
    )
