"""One driver: asyncpg. How its connections are judged, asked, mended and ended."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import asyncpg

from pulsepool.diagnosis import sqlstate_of
from pulsepool.errors import ConfigurationError
from pulsepool.pool.policy import no_use_retrying

Connection: TypeAlias = "asyncpg.Connection[Any]"

RESET_THE_REST = "RESET SESSION AUTHORIZATION; RESET ROLE; DISCARD TEMP; DISCARD SEQUENCES"
"""What RESET ALL leaves: who the session acts as, temporary tables, and sequences' last values."""

CANCEL_AGAIN = 0.1
"""Seconds, doubling, after which a cancel is sent again: one that overtook its statement found nothing to cancel."""


class AsyncpgDriver:
    """Connections straight from asyncpg. `opener`: opens one; give `asyncpg.connect` its arguments with a partial."""

    def __init__(self, opener: Callable[[], Awaitable[Connection]]) -> None:
        self._opener = opener

    async def connect(self) -> Connection:
        """Open a connection."""
        return await self._opener()

    def is_closed(self, connection: Connection) -> bool:
        """Whether the socket is known to be shut."""
        return connection.is_closed()

    def is_clean(self, connection: Connection) -> bool:
        """Whether it is open, outside a transaction, and has no statement under way."""
        return is_clean(connection)

    async def ping(self, connection: Connection) -> None:
        """Ask in one round trip."""
        await ping(connection)

    async def restore(self, connection: Connection, *, full: bool) -> None:
        """Bring it back to where a new one begins."""
        await restore(connection, full=full)

    async def cancel(self, connection: Connection) -> None:
        """Have the server give up the statement that is under way."""
        await cancel(connection)

    async def close(self, connection: Connection) -> None:
        """Say good-bye."""
        await connection.close()

    def terminate(self, connection: Connection) -> None:
        """Hang up."""
        connection.terminate()

    def watch(self, connection: Connection, died: Callable[[], None]) -> bool:
        """Have asyncpg say when the connection is gone."""
        connection.add_termination_listener(lambda _: died())
        return True

    def is_final(self, error: BaseException) -> bool:
        """Whether the server will say the same next time."""
        return isinstance(error, ConfigurationError) or no_use_retrying(sqlstate_of(error))


def is_clean(connection: Connection) -> bool:
    """Whether it is open, outside a transaction, and has no statement under way.

    While a cancelled statement has not ended, asyncpg cannot tell whether it opened a transaction, and makes the next
    statement wait.
    """
    inside = _inside(connection)  # there is no other way to tell; asyncpg's own pool does so
    return not (
        inside.is_closed()
        or inside.is_in_transaction()
        or inside._protocol._is_cancelling()
        or inside._cancellations  # one that was sent again and has not arrived
        or inside._top_xact is not None  # of a BEGIN that the server refused
    )


async def ping(connection: Connection) -> None:
    """Ask in one round trip; waits for the end of a statement that was cancelled, too.

    An empty statement would do, but asyncpg stumbles over its answer.
    """
    await connection.execute("SELECT 1")


async def fetch(
    connection: Any,
    query: str,
    args: Sequence[Any],
    timeout: float | None,
    record_class: type[Any] = asyncpg.Record,
    limit: int = 0,
) -> list[Any]:
    """The rows of `query`, `limit` of them at most when it is not 0, as `connection.fetch` and `fetchrow` get them.

    For a statement that asyncpg has in its cache, those go through five coroutines to `bind_execute`, which is a
    quarter of the time of a small query on a socket; here it is called at once.
    """
    protocol = connection._protocol
    if protocol is not None and not connection._query_loggers:
        statement = connection._stmt_cache.get((query, record_class, False))
        if statement is not None:
            limit_of_time = protocol._get_timeout(timeout)
            try:
                rows: list[Any] = await protocol.bind_execute(statement, args, "", limit, False, limit_of_time)
            except asyncpg.InvalidCachedStatementError:
                pass  # refused before it ran, after somebody's DDL: the long way prepares it anew
            except asyncpg.OutdatedSchemaCacheError:
                await connection.reload_schema_state()
                raise
            else:
                return rows
    rows = await connection._execute(query, args, limit, timeout, record_class=record_class)
    return rows  # noqa: RET504 - so that the type is known


async def restore(connection: Connection, *, full: bool) -> None:
    """Wait for a cancelled statement's end, roll back, and when `full` undo what was changed in the session.

    In one round trip: asyncpg's own reset, and what that leaves, `RESET_THE_REST`. What asyncpg itself prepared stays.
    """
    inside = _inside(connection)
    # Until a cancelled statement has ended, is_in_transaction() is not to be believed.
    cancelled = inside._protocol._is_cancelling() or bool(inside._cancellations)
    if cancelled:
        await _end_of_cancelled(inside)
    inside._top_xact = None  # of a transaction() cut short: the next one would be a savepoint in it
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
    elif not full and not cancelled:
        await _take_late_cancel(inside)
    if full:
        inside._listeners.clear()
        inside._log_listeners.clear()
        await connection.execute(f"{inside.get_reset_query()}; {RESET_THE_REST}")


async def cancel(connection: Connection) -> None:
    """Have the server give up the statement that is under way; back when it has been told so."""
    told = asyncio.get_running_loop().create_future()
    _inside(connection)._cancel_current_command(told)
    await told


async def _end_of_cancelled(inside: Any) -> None:
    protocol, patience = inside._protocol, CANCEL_AGAIN
    while protocol._is_cancelling():
        try:
            async with asyncio.timeout(patience):
                await protocol._wait_for_cancellation()
        except TimeoutError:
            inside._cancel_current_command(asyncio.get_running_loop().create_future())
            patience *= 2
    await _take_late_cancel(inside)


async def _take_late_cancel(inside: Any) -> None:
    """A cancel that comes late hits what is asked next: better this than the next caller's statement."""
    if under_way := set(inside._cancellations):
        await asyncio.wait(under_way)
    with contextlib.suppress(asyncpg.QueryCanceledError, asyncpg.InFailedSQLTransactionError):
        await inside.execute("SELECT 1")


def _inside(connection: Any) -> Any:
    """What asyncpg's type stubs leave out."""
    return connection
