"""The two pools of a `Database`: one for sessions that write, one for those that only read, on the same connections."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

from sqlalchemy.util import await_only

from pulsepool.alchemy.face import CorePool
from pulsepool.alchemy.records import Record, is_closed
from pulsepool.diagnosis import first_line
from pulsepool.errors import DatabaseUnavailable
from pulsepool.pool import Limits, Slot
from pulsepool.pool.core import Core

WRITING, READING = "", "read"
"""What a connection's session is set to: as it came, or so that the server refuses every write."""

SWITCH = {WRITING: "RESET default_transaction_read_only", READING: "SET default_transaction_read_only = on"}


async def acquire(core: Core[Record], mode: str = WRITING, slot: Slot[Record] | None = None) -> Slot[Record]:
    """Acquire a connection whose session is in `mode`: one that is already, or the next one, after one round trip.

    `slot`: one that was taken, in whatever mode. Raises what `Pool.acquire` does, all within `acquire_timeout`.
    """
    ends = core.loop.time() + core.limits.acquire_timeout
    slot = slot or core.take(mode)
    while True:
        if slot is None:
            slot = await core.wait(max(ends - core.loop.time(), 0.0))
        if slot.mode == mode or (mode == READING and not tells(slot)):
            return slot
        if await _switched(core, slot, mode, ends):
            return slot
        slot = core.take(mode)


async def _switched(core: Core[Record], slot: Slot[Record], mode: str, ends: float) -> bool:
    """Set the session of `slot` to `mode`; False when it was dead already, and is given back."""
    try:
        async with asyncio.timeout_at(ends):
            await slot.connection.driver.execute(SWITCH[mode])
    except BaseException as error:
        slot.changed = True  # to what is not known: the keeper resets it, or finds it dead
        core.release(slot)
        if not isinstance(error, Exception):
            raise
        if core.is_closed(slot):
            return False
        late = isinstance(error, TimeoutError)
        what = f"did not answer within {core.limits.acquire_timeout:.1f} s" if late else first_line(str(error))
        raise DatabaseUnavailable(
            f"the server could not prepare a connection: it {what}", hint="is it overloaded or shutting down?"
        ) from error
    slot.mode = mode
    return True


def tells(slot: Slot[Record]) -> bool:
    """Whether the server itself is at the other end of the connection, and PostgreSQL 14 or later.

    It then tells unasked what `default_transaction_read_only` is. Through a pooler such as PgBouncer, which keeps that
    to itself, a session's settings are not ours to keep: they would be another client's a transaction later.
    """
    return hasattr(slot.connection.driver.get_settings(), "default_transaction_read_only")


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

    def _fit(self, slot: Slot[Record]) -> Slot[Record]:
        return await_only(acquire(slot.pool, self.mode, slot))

    def _slot(self, core: Core[Record]) -> Slot[Record]:
        return await_only(acquire(core, self.mode))

    def _return_conn(self, record: Any) -> None:
        # An entry comes home to the pool that made it, whichever lent it: so this is for those of `ReadingPool`, too.
        if record.reading and record.dbapi_connection is not None:
            record.reading = record.dbapi_connection.autocommit = record.dbapi_connection.readonly = False
            # Told of unasked: a reader's own SET leaves the session writable for the next one.
            if record.slot.mode == READING and not is_closed(record.driver) and _is_writable(record.driver):
                record.slot.changed = True
        super()._return_conn(record)

    def recreate(self) -> Self:
        """Give the pool that takes this one's place, on the same cores: the direct lane uses them as well."""
        if not self._disposed:
            self._cores.abandon()
        self._disposed = True
        return super().recreate()


class ReadingPool(DatabasePool):
    """The same connections for sessions that only read, in autocommit, and with a session that refuses to write.

    Through a pooler, where sessions are nobody's own, in a transaction that refuses to write instead.
    """

    mode = READING

    def _do_get(self) -> Record:
        record = super()._do_get()
        adapter: Any = record.dbapi_connection
        record.reading = True
        if record.slot.mode == READING:
            adapter.autocommit = True
        else:
            adapter.readonly = True
        return record


def _is_writable(driver: Any) -> bool:
    return bool(driver.get_settings().default_transaction_read_only != "on")
