"""A cancelled statement does not cost its connection."""

import asyncio

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import Dialect, ExceptionContext

from pulsepool.alchemy.records import Record, is_closed
from pulsepool.pool.asyncpg import CANCEL_AGAIN

DRAINING_DRIVERS = ("asyncpg", "psycopg", "psycopg_async")
"""Drivers that cancel on the server what was cancelled here, and take the connection to its end before the next use."""

DRAINING = 2.0
"""Seconds that a server has to end a cancelled statement under its holder; asyncpg waits for it without a limit.
(psycopg has a limit of its own.)"""


def spare_connections(dialect: Dialect) -> None:
    """Keep SQLAlchemy from closing a connection whose statement was cancelled, on drivers that can go on with it.

    SQLAlchemy takes every cancellation for a lost connection, as it cannot know what its driver does about it.
    """
    if getattr(dialect, "driver", "") in DRAINING_DRIVERS and not event.contains(dialect, "handle_error", _spare):
        event.listen(dialect, "handle_error", _spare)


def _spare(context: ExceptionContext) -> None:
    connection = context.connection
    if not isinstance(context.original_exception, asyncio.CancelledError) or connection is None:
        return
    if connection.invalidated or connection.closed:
        return
    record = connection.connection._connection_record
    if isinstance(record, Record) and not is_closed(record.driver):
        context.is_disconnect = False
        if isinstance(record.driver, asyncpg.Connection):
            record.slot.doubtful = True
            record.forget_watch()
            loop = record.slot.pool.loop
            record.watch = loop.call_later(CANCEL_AGAIN, _look, record, loop.time(), CANCEL_AGAIN)


def _look(record: Record, since: float, patience: float) -> None:
    """While it drains under its holder, cancel again what a cancel has missed; and when that takes too long, end it."""
    record.watch = None
    loop, driver = record.slot.pool.loop, record.driver
    if is_closed(driver) or not driver._protocol._is_cancelling():
        return
    left = since + DRAINING - loop.time()
    if left <= 0:
        driver.terminate()  # the holder, who waits for it, is told that it is gone
        return
    driver._cancel_current_command(loop.create_future())
    record.watch = loop.call_later(min(patience * 2, left), _look, record, since, patience * 2)
