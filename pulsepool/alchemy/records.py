"""SQLAlchemy's connections as what a pool lends: how they are opened, judged, asked, mended and ended."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util.concurrency import greenlet_spawn

from pulsepool.diagnosis import sqlstate_of
from pulsepool.errors import DatabaseUnavailable, PulsePoolError
from pulsepool.pool import Slot
from pulsepool.pool import asyncpg as asyncpg_driver
from pulsepool.pool.policy import no_use_retrying

if TYPE_CHECKING:
    from pulsepool.alchemy.face import CorePool

LAST_WORD = 0.2
"""Seconds for SQLite to close a file in aiosqlite's thread."""

PSYCOPG_IDLE = 0
"""libpq's PQTRANS_IDLE: outside a transaction, and nothing under way."""


class Record(_ConnectionRecord):
    """SQLAlchemy's entry for one connection, with the driver's own connection and its place in the pool at hand."""

    slot: Slot["Record"]
    driver: Any = None
    """The driver's connection: asyncpg's `Connection`, psycopg's `AsyncConnection`, …"""
    reading: bool = False
    """Lent to a session that only reads."""
    watch: asyncio.TimerHandle | None = None
    """Runs while a cancelled statement is being drained under its holder."""

    def forget_watch(self) -> None:
        """It is home, or was cancelled anew."""
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    @property
    def is_stale(self) -> bool:
        """Whether it was asked to be replaced, `invalidate(soft=True)`."""
        return self._soft_invalidate_time > self.starttime


class RecordDriver:
    """The pool's `Driver` for `Record`, through SQLAlchemy's dialect and with all its events."""

    def __init__(self, pool: "CorePool") -> None:
        self._pool = pool
        self._dialect: Any = pool._dialect
        self._loop = asyncio.get_running_loop()
        self._is_clean = _CLEAN.get(getattr(self._dialect, "driver", ""), _is_open) if pool.resets else _is_open

    async def connect(self) -> Record:
        """Open a connection; the events `connect` and `first_connect` are through when it is there."""
        try:
            record: Record = await greenlet_spawn(self._pool._create_connection)
        except PulsePoolError:
            raise
        except Exception as error:
            if (told := self._pool.explain(error)) is error:
                raise
            raise told from error
        return record

    def is_closed(self, record: Record) -> bool:
        """Whether it is gone, by SQLAlchemy's or the driver's account."""
        return record.dbapi_connection is None or is_closed(record.driver)

    def is_clean(self, record: Record) -> bool:
        """Whether the next one can have it as it is."""
        return record.dbapi_connection is not None and self._is_clean(record.driver)

    async def ping(self, record: Record) -> None:
        """Ask the server: in one round trip on asyncpg, as its dialect does it on others."""
        if isinstance(record.driver, asyncpg.Connection):
            await asyncpg_driver.ping(record.driver)
        else:
            await greenlet_spawn(self._dialect.do_ping, record.dbapi_connection)

    async def restore(self, record: Record, *, full: bool) -> None:
        """Roll back, which waits for the end of a cancelled statement; `full` for a connection that was lent raw."""
        if getattr(record.dbapi_connection, "_transaction", self) is not None:  # asyncpg's adapter knows of none
            await greenlet_spawn(self._dialect.do_rollback, record.dbapi_connection)
        if isinstance(record.driver, asyncpg.Connection):
            if full or not asyncpg_driver.is_clean(record.driver):
                await asyncpg_driver.restore(record.driver, full=full)
            if full:
                await greenlet_spawn(self._set_up_again, record)
        elif not self._is_clean(record.driver):
            raise ConnectionError("still inside a transaction after a rollback")

    def _set_up_again(self, record: Record) -> None:
        """Have the application's `connect` listeners do once more what the reset has undone: a search_path, a role."""
        for listener in list(self._pool.dispatch.connect):
            if listener not in self._pool.own_listeners:
                listener(record.dbapi_connection, record)

    async def cancel(self, record: Record) -> None:
        """Have the server give up the statement that is under way; what other drivers cannot is left undone."""
        if isinstance(record.driver, asyncpg.Connection):
            await asyncpg_driver.cancel(record.driver)
        elif (cancel := getattr(record.driver, "cancel_safe", None)) is not None:  # psycopg's
            await cancel()

    async def close(self, record: Record) -> None:
        """Say good-bye; a server that does not hear it is hung up on, without SQLAlchemy logging an error."""
        close: Any = record
        await greenlet_spawn(partial(close._ConnectionRecord__close, terminate=self._dialect.has_terminate))

    def terminate(self, record: Record) -> None:
        """Hang up, at once and without waiting, whoever runs: the keeper, or a caller in SQLAlchemy's greenlet."""
        connection, record.dbapi_connection = record.dbapi_connection, None
        if connection is None:
            return
        if isinstance(record.driver, asyncpg.Connection):
            record.driver.terminate()
        elif (libpq := getattr(record.driver, "pgconn", None)) is not None:
            libpq.finish()  # psycopg closes without waiting, but says so only to those who await it
        if self._dialect.has_terminate:
            # Outside of a greenlet, where SQLAlchemy ends a connection without a word; in one it would wait.
            self._loop.call_soon(partial(self._pool._close_connection, connection, terminate=True))
        if self._pool.dispatch.close:
            self._pool.dispatch.close(connection, record)

    def watch(self, record: Record, died: Callable[[], None]) -> bool:
        """Have asyncpg say when the connection is gone; other drivers cannot."""
        if not isinstance(record.driver, asyncpg.Connection):
            return False
        record.driver.add_termination_listener(lambda _: died())
        return True

    def is_final(self, error: BaseException) -> bool:
        """Whether it is the server's last word, or the error of somebody's listener rather than of a connection."""
        if isinstance(error, DatabaseUnavailable):
            return no_use_retrying(error.sqlstate)
        if not isinstance(error, (OSError, self._dialect.loaded_dbapi.Error, DBAPIError)):
            return True
        return no_use_retrying(sqlstate_of(error) or sqlstate_of(error.__cause__))


def is_closed(driver: Any) -> bool:
    """Whether a driver's connection says that it is closed, by a method as asyncpg's or an attribute as psycopg's."""
    closed = getattr(driver, "is_closed", None)
    if closed is not None:
        return bool(closed())
    # aiosqlite has neither, but no connection any more.
    return bool(getattr(driver, "closed", False)) or getattr(driver, "_connection", driver) is None


def _is_open(driver: Any) -> bool:
    return not is_closed(driver)


def _psycopg_is_clean(driver: Any) -> bool:
    return not driver.closed and driver.pgconn.transaction_status == PSYCOPG_IDLE


_CLEAN: dict[str, Callable[[Any], bool]] = {
    "asyncpg": asyncpg_driver.is_clean,
    "psycopg": _psycopg_is_clean,
    "psycopg_async": _psycopg_is_clean,
}
"""Of which drivers one can tell, without asking, whether a transaction was left open."""


def set_aside(record: Record) -> None:
    """End a connection of an event loop that is closed, without that loop and without a word from its finalizers.

    What the other loop left is a socket that nobody serves: shutting it tells the server, so that it does not keep a
    backend for every short loop of a test suite.
    """
    driver, record.dbapi_connection = record.driver, None
    with contextlib.suppress(Exception):
        if isinstance(driver, asyncpg.Connection):
            inside: Any = driver
            inside._aborted = True  # asyncpg's own finalizer would call its loop
            _shut(inside._transport)
        elif (libpq := getattr(driver, "pgconn", None)) is not None:
            libpq.finish()
        elif (stop := getattr(driver, "stop", None)) is not None:  # aiosqlite: its thread is no loop's
            stop()
            driver._thread.join(LAST_WORD)  # collected before its thread has closed it, it complains


def _shut(transport: Any) -> None:
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as shared:
        shared.shutdown(socket.SHUT_RDWR)
    # asyncio has no way to close a transport whose loop is closed: all it would do is to warn of it when collected.
    if (tls := getattr(transport, "_ssl_protocol", None)) is not None:
        transport._closed = True
        transport = tls._transport
    if (own := getattr(transport, "_sock", None)) is not None:
        own.close()
        transport._sock = None
