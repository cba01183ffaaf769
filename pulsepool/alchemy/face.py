"""The pool behind SQLAlchemy's `Pool` interface."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, Self

from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection
from sqlalchemy.pool.base import ResetStyle
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from pulsepool.alchemy.cancelled import spare_connections
from pulsepool.alchemy.cores import Cores
from pulsepool.alchemy.errors import PoolTimeout
from pulsepool.alchemy.records import Record, RecordDriver
from pulsepool.errors import PoolClosed, PulsePoolError
from pulsepool.pool import Limits, Slot
from pulsepool.pool import Pool as Core


class CorePool(Pool):
    """A SQLAlchemy pool that lends what the pools of `cores` hold; all of SQLAlchemy's pool events fire.

    Several may share `cores`; without, it has its own. (No argument is keyword-only in here: SQLAlchemy's
    `create_engine` gives a pool those alone that are not.)
    """

    _is_asyncio = True
    mode = ""
    """What a connection's session is to be set to; see `own`."""

    def __init__(
        self, creator: Any, limits: Limits, cores: Cores | None = None, reset_on_return: Any = True, **kw: Any
    ) -> None:
        super().__init__(creator, reset_on_return=reset_on_return, **kw)
        self.limits = limits
        self.resets = self._reset_on_return is ResetStyle.reset_rollback
        self._given = {"reset_on_return": reset_on_return, "echo": self.echo, "logging_name": self._orig_logging_name}
        self._cores = cores or Cores(limits)
        self._cores.make = self._make_core
        self._disposed = False
        spare_connections(self._dialect)  # type: ignore[arg-type]

    def _make_core(self, limits: Limits) -> Core[Record]:
        return Core(RecordDriver(self), limits, timeout_error=PoolTimeout)

    def _should_wrap_creator(self, creator: Any) -> Callable[[ConnectionPoolEntry], Any]:
        create = super()._should_wrap_creator(creator)

        def creating(record: ConnectionPoolEntry) -> Any:
            connection = create(record)
            if isinstance(record, Record):
                if (slot := vars(record).get("slot")) is not None:
                    slot.condemned = True  # SQLAlchemy reconnects in place: what was known of the old one is not so
                record.driver = self._dialect.get_driver_connection(connection)
            return connection

        return creating

    def _create_connection(self) -> Record:
        return Record(self)

    @property
    def own_listeners(self) -> Collection[Any]:
        """Those of the event `connect` that are not the application's."""
        return self._cores.own_listeners

    @property
    def core(self) -> Core[Record]:
        """The pool itself, of the running event loop. Raises `PoolClosed`."""
        return self._cores.here()

    def _do_get(self) -> Record:
        if (core := self._cores.current()) is not None and (idle := core.take(self.mode)) is not None:
            if idle.mode != self.mode:
                return self._get_slowly(idle)
            idle.connection.slot = idle
            return idle.connection
        return self._get_slowly()

    def _get_slowly(self, taken: Slot[Record] | None = None) -> Record:
        if asyncio._get_running_loop() is None:
            raise MissingGreenlet("an asyncio engine was used where no event loop is running")
        while True:
            try:
                # What was taken is fitted by the pool that lent it, and but once: if that fails, it is given back.
                fitting, taken = taken, None
                slot = self._slot(self._cores.here()) if fitting is None else self._fit(fitting)
            except PoolClosed:
                if self._cores.closed:
                    raise
                # Else it was disposed of while this caller waited, and the next pool serves it.
            except PulsePoolError as error:
                failure = self._as_raised(error)
                break
            else:
                record = slot.connection
                record.slot = slot
                return record
        raise failure  # outside of `except`, or it would seem to have come of what it stands for

    def _fit(self, slot: Slot[Record]) -> Slot[Record]:
        """Prepare one that was taken; where all are alike, there is nothing to prepare."""
        return slot

    def _slot(self, core: Core[Record]) -> Slot[Record]:
        """Wait for one."""
        return await_only(core.wait())

    def explain(self, error: Exception) -> Exception:
        """What to tell callers of a connect that failed with `error`."""
        return error

    def _as_raised(self, error: PulsePoolError) -> BaseException:
        """What an engine raises in its place."""
        return error

    def _return_conn(self, record: Any) -> None:
        slot = record.slot
        if record.is_stale:
            slot.condemned = True
        if record.watch is None and asyncio._get_running_loop() is slot.pool.loop:
            slot.pool.release(slot)
        else:
            self._give_back(record, slot.pool.release)

    def _do_return_conn(self, record: Any) -> None:
        """SQLAlchemy itself calls this with an entry whose connection was detached, also from the garbage collector."""
        self._give_back(record, record.slot.pool.give_up)

    def _give_back(self, record: Record, back: Callable[[Slot[Record]], None]) -> None:
        record.forget_watch()
        loop = record.slot.pool.loop
        if asyncio._get_running_loop() is loop:
            back(record.slot)
        else:
            with contextlib.suppress(RuntimeError):  # its loop is closed: what it held is set aside
                loop.call_soon_threadsafe(back, record.slot)

    def _invalidate(
        self, connection: PoolProxiedConnection, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """Condemn this one alone; the others are asked before they are lent again."""
        if (core := self._cores.running()) is not None:
            core.doubt()
        if _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def dispose(self) -> None:
        """Close the idle connections; those in use are closed when they come home. Who waits gets a new one.

        Outside of a greenlet, as in `engine.sync_engine.dispose()`, it does not wait until they are closed.
        """
        self._disposed = True
        if in_greenlet():
            await_only(self._cores.dispose())
        else:
            self._cores.dispose_later()

    def recreate(self) -> Self:
        """Give the pool that takes this one's place, with the same arguments and listeners."""
        return type(self)(
            self._creator,
            **self._given,
            cores=self._cores if self._cores.leave_the_parent() or self._disposed else None,
            dialect=self._dialect,
            _dispatch=self.dispatch,
        )

    def size(self) -> int:
        """How many connections are kept; see `overflow`."""
        core = self._cores.current()
        return (core or self._cores).limits.max_size

    def timeout(self) -> float:
        """Seconds that a caller waits at most."""
        return self.limits.acquire_timeout

    def checkedin(self) -> int:
        """How many connections idle."""
        core = self._cores.current()
        return len(core.idle) if core is not None else 0

    def checkedout(self) -> int:
        """How many connections are in use."""
        core = self._cores.current()
        return core.in_use if core is not None else 0

    def overflow(self) -> int:
        """How many connections there are beyond `size()`; negative when there are fewer."""
        core = self._cores.current()
        return (len(core.slots) if core is not None else 0) - self.size()

    def status(self) -> str:
        """Say the four numbers, as SQLAlchemy's queue does."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()} "
            f"Current Overflow: {self.overflow()} Current Checked out connections: {self.checkedout()}"
        )
