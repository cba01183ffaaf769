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
"""Seconds after which a server is asked under the holder whether it lives: asyncpg waits for it without a limit.
(psycopg has a limit of its own for it.)"""


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
        if record.watch is None and isinstance(record.driver, asyncpg.Connection):
            _watch(record, CANCEL_AGAIN)


def _watch(record: Record, patience: float) -> None:
    """While it is being drained under its holder, cancel again what a cancel has missed; in the end, ask the server."""
    record.watch = record.slot.pool.loop.call_later(patience, _look, record, patience)


def _look(record: Record, waited: float) -> None:
    if waited >= DRAINING / 2:
        record.slot.pool.probe(record.slot)
        return
    protocol = getattr(record.driver, "_protocol", None)
    if protocol is not None and protocol._is_cancelling():
        record.driver._cancel_current_command(record.slot.pool.loop.create_future())
    _watch(record, waited * 2)
