"""The synchronous engine's pool: SQLAlchemy's queue behind a gate, which speaks our errors and closes."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine
from sqlalchemy.exc import TimeoutError as AlchemyTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from pulsepool.alchemy.errors import PoolTimeout
from pulsepool.errors import PoolClosed
from pulsepool.settings import DatabaseSettings


@dataclass(slots=True)
class Gate:
    """What a pool asks before it lends a connection."""

    name: str
    settings: DatabaseSettings
    closed: bool = False
    waiting: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # the sync engine's callers are threads
    opened: WeakSet[Any] = field(default_factory=WeakSet)  # the driver's connections, to be ended at a deadline


class GatedPool(QueuePool):
    """SQLAlchemy's queue behind a `Gate`.

    The gate may open again, for the pool that takes this one's place; `retired`, this one never lends again.
    """

    gate: Gate
    retired = False

    @classmethod
    def of(cls, engine: Engine) -> "GatedPool":
        """The pool of an engine that was built here. Raises `TypeError` for another one."""
        if not isinstance(engine.pool, cls):
            raise TypeError(f"{engine!r} was not built by pulsepool.alchemy")
        return engine.pool

    def _do_get(self) -> ConnectionPoolEntry:
        gate = self.gate
        if self._is_shut:
            raise self._closed_error()
        full = self.checkedout() >= self.size()
        bound = gate.settings.max_waiting
        with gate.lock:
            if full and bound is not None and gate.waiting >= bound:
                raise self._timeout_error(f"turned away at once, as max_waiting={bound} callers wait already")
            gate.waiting += full
        started = time.monotonic()
        try:
            record = super()._do_get()
        except PoolTimeout:
            raise
        except AlchemyTimeout:
            record = None
        finally:
            with gate.lock:
                gate.waiting -= full
        if record is None:
            raise self._timeout_error(f"no connection within {time.monotonic() - started:.1f} s")
        if self._is_shut:  # since this caller waits or connects: what it got would outlive the pool
            self._discard(record)
            raise self._closed_error()
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._is_shut:
            self._discard(record)
        else:
            super()._do_return_conn(record)

    def _discard(self, record: ConnectionPoolEntry) -> None:
        """Close a connection, and pass the empty place on: it wakes the next who waits, to be told that all is over."""
        try:
            record.close()
        finally:
            if self.gate.waiting:
                super()._do_return_conn(record)
            else:
                self._dec_overflow()

    @property
    def _is_shut(self) -> bool:
        return self.retired or self.gate.closed

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"pool {self.gate.name!r} is closed", hint="start the database again, or stop using it")

    def _timeout_error(self, happened: str) -> PoolTimeout:
        return PoolTimeout(
            f"{happened} from pool {self.gate.name!r} "
            f"({self.checkedout()} of {self.size()} in use, {self.gate.waiting} waiting)",
            hint="something holds connections for long, or max_size is too small for what is held",
        )

    def recreate(self) -> QueuePool:
        """Give the successor the same gate: a disposed pool is replaced, not reopened."""
        fresh = super().recreate()
        if isinstance(fresh, GatedPool):
            fresh.gate = self.gate
        return fresh
