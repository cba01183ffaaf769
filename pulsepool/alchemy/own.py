"""The two pools of a `Database`: one for sessions that write, one for those that only read, on the same connections."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

from sqlalchemy.util import await_only

from pulsepool.alchemy.face import CorePool
from pulsepool.alchemy.records import Record
from pulsepool.diagnosis import first_line
from pulsepool.errors import DatabaseUnavailable
from pulsepool.pool import Limits, Slot
from pulsepool.pool import Pool as Core

WRITING, READING = "", "read"
"""What a connection's session is set to: as it came, or so that the server refuses every write."""

SWITCH = {WRITING: "RESET default_transaction_read_only", READING: "SET default_transaction_read_only = on"}

SWITCHING = 5.0
"""Seconds that a server has for one of those."""


async def acquire(core: Core[Record], mode: str = WRITING, limit: float | None = None) -> Slot[Record]:
    """Acquire a connection whose session is in `mode`: one that is already, or the next one, after one round trip.

    Raises what `Pool.acquire` does.
    """
    while True:
        slot = core.take(mode) or await core.wait(limit)
        if slot.mode == mode:
            return slot
        try:
            async with asyncio.timeout(SWITCHING):
                await slot.connection.driver.execute(SWITCH[mode])
        except BaseException as error:
            slot.changed = True  # to what is not known: the keeper resets it, or finds it dead
            core.release(slot)
            if not isinstance(error, Exception):
                raise
            if core.is_closed(slot):
                continue  # it was dead when it was lent: the next one
            raise DatabaseUnavailable(
                f"a connection could not be prepared ({first_line(str(error)) or type(error).__name__})",
                hint="is the server overloaded or shutting down?",
            ) from error
        slot.mode = mode
        return slot


class DatabasePool(CorePool):
    """The pool of a `Database`'s engine."""

    mode = WRITING

    def __init__(self, creator: Any, limits: Limits, explain: Callable[[Exception], Exception], **kw: Any) -> None:
        super().__init__(creator, limits, **kw)
        self._explain = explain
        self._given |= {"limits": self.limits, "explain": explain}

    def explain(self, error: Exception) -> Exception:
        """What to tell callers of a connect that failed with `error`."""
        return self._explain(error)

    def _slot(self, core: Core[Record]) -> Slot[Record]:
        return await_only(acquire(core, self.mode))

    def _return_conn(self, record: Any) -> None:
        # An entry comes home to the pool that made it, whichever lent it: so this is for those of `ReadingPool`, too.
        if record.slot.mode == READING and record.dbapi_connection is not None:
            record.dbapi_connection.autocommit = False
            # The server tells of every change to this one unasked (since PostgreSQL 14), and so of a reader's own SET.
            if getattr(record.driver.get_settings(), "default_transaction_read_only", "on") != "on":
                record.slot.changed = True
        super()._return_conn(record)

    def recreate(self) -> Self:
        """Give the pool that takes this one's place, on the same cores: the direct lane uses them as well."""
        if not self._disposed:
            self._cores.abandon()
        self._disposed = True
        return super().recreate()


class ReadingPool(DatabasePool):
    """The same connections, in autocommit, with a session in which the server refuses to write."""

    mode = READING

    def _do_get(self) -> Record:
        record = super()._do_get()
        record.dbapi_connection.autocommit = True  # type: ignore[union-attr]  # SQLAlchemy's asyncpg adapter
        return record
