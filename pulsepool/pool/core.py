"""The heart of the pool: acquire and release."""

import asyncio
import os
import random
import weakref
from bisect import insort
from collections.abc import Callable
from functools import cache
from threading import get_ident
from typing import Any, Generic, TypeVar

from pulsepool import errors
from pulsepool.pool import policy
from pulsepool.pool.driver import Driver
from pulsepool.pool.holders import place
from pulsepool.pool.keeper import Keeper
from pulsepool.pool.line import Refusal, WaitingLine
from pulsepool.pool.policy import Limits, Outage
from pulsepool.pool.refusals import not_held, pool_closed, report_return, shed, timed_out, unavailable, wrong_loop
from pulsepool.pool.slot import Slot, State
from pulsepool.pool.stats import Counters, PoolStats

C = TypeVar("C")

NO_THREAD = -1

IDLE, HELD = State.IDLE, State.HELD  # a global is looked up faster than an enumeration's member


class Core(Generic[C]):
    """What a `Pool` lends, and to whom. See there for how one is made."""

    def __init__(
        self,
        driver: Driver[C],
        limits: Limits | None = None,
        *,
        timeout_error: type[errors.PoolTimeout] = errors.PoolTimeout,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.driver = driver
        self.limits = limits or Limits()
        self.counters = Counters()
        self.slots: set[Slot[C]] = set()  # looked through as a list: the garbage collector may `give_up` in between
        self.idle: list[Slot[C]] = []  # by their last use, the latest at the end
        self.line: WaitingLine[C] = WaitingLine(self.loop)
        self.closed = False
        self.suspended = False
        self.generation = 0
        self._timeout_error = timeout_error
        self._time = self.loop.time
        self._thread = get_ident()
        self._validate_after = self.limits.validate_after
        self._leak_after = self.limits.leak_after
        self._use_time = self.counters.use_time
        self._keeper = Keeper(self, dice)
        _belongs_to_this_process(self)

    @property
    def in_use(self) -> int:
        """How many connections callers hold."""
        return len(self.slots) - len(self.idle) - self._keeper.kept

    @property
    def leaving(self) -> int:
        """How many connections are being closed."""
        return self._keeper.leaving

    @property
    def outage(self) -> Outage | None:
        """The connects that failed since the last one that did not; None when all is well."""
        return self._keeper.connector.outage

    def take(self, mode: str = "") -> Slot[C] | None:
        """Give an idle connection that needs no asking, without a wait; None when `acquire` has to be awaited.

        `mode`: preferred is one that others left in this mode.
        """
        idle = self.idle
        if not idle or self.suspended:
            return None
        # While another loop runs, no task of this one does, unless in another thread or in the parent of a fork.
        holder = asyncio.current_task(self.loop)
        if holder is None or get_ident() != self._thread:
            return None
        slot = idle[-1]
        if slot.mode != mode:
            slot = next((other for other in reversed(idle) if other.mode == mode), slot)
        now = self._time()
        if now - slot.heard >= self._validate_after or (not slot.watched and self.is_closed(slot)):
            return None
        if slot is idle[-1]:
            idle.pop()
        else:
            idle.remove(slot)
        slot.state = HELD
        slot.acquired = now
        slot.holder = holder
        if self._leak_after is not None:
            slot.place = place()
        return slot

    async def acquire(self, timeout: float | None = None, mode: str = "") -> Slot[C]:  # noqa: ASYNC109 - each waits in line
        """Give a connection; `release` it. `timeout`: seconds to wait, `acquire_timeout` when None.

        Raises `PoolTimeout` when none became free in time, or at once when `max_waiting` callers wait already;
        `DatabaseUnavailable` while the server is known to be down; `ConfigurationError` when no connection can be
        opened for a reason of that kind; `PoolClosed` after `stop()`; `WrongLoop`.
        """
        slot = self.take(mode)
        return slot if slot is not None else await self.wait(timeout)

    async def wait(self, limit: float | None = None) -> Slot[C]:
        """`acquire`, for a caller who has found nothing to `take`."""
        if limit is not None and not policy.is_time(limit):
            raise errors.ConfigurationError(f"timeout={limit!r} is no time", hint="give seconds, or None")
        self._check_open()
        limits, now = self.limits, self._time()
        if limits.max_waiting is not None and policy.sheds(self._keeper.load, self.in_use, limits):
            self.counters.shed += 1
            raise shed(self, self._timeout_error)
        if limit is None:
            waiter, forget = self.line.join(now, limits.acquire_timeout), None
        else:
            waiter, forget = self.line.join_for(now, limit)
        if self.idle or len(self.slots) + self._keeper.connector.connecting < limits.max_size:
            self._keeper.nudge()  # else there is nothing that it could do
        try:
            slot = await waiter.future
        except BaseException:  # a cancellation, or a coroutine that is closed while it waits
            future = waiter.future
            if self.loop.is_closed():
                raise
            if future.cancel() or future.cancelled():
                self.line.gave_up()
            elif isinstance(slot := future.result(), Slot) and slot.state is HELD:  # served in the same tick
                self._come_home(slot, self._time())
            raise
        finally:
            if forget is not None:
                forget()
        now = self._time()
        self.counters.waited += 1
        self.counters.wait_time.add(now - waiter.since)
        if not isinstance(slot, Slot):
            raise self._refused(slot, now - waiter.since)
        if slot.state is not HELD:  # ended by stop() before this caller could run
            slot.state = State.GONE
            raise pool_closed(self)
        slot.holder = asyncio.current_task(self.loop)
        if limits.leak_after is not None:
            slot.place = place()
        return slot

    def release(self, slot: Slot[C]) -> None:
        """Take a connection back: the oldest waiter gets it at once, or the keeper mends it first, or it idles.

        Never waits. Raises `NotHeld` for one that is not held, or not of this pool.
        """
        if slot.state is not HELD or slot not in self.slots:
            if slot.state is State.ENDED:  # by stop(), while it was held
                slot.state = State.GONE
                return
            raise not_held(self, slot)
        now = self._time()
        held = now - slot.acquired
        self._use_time.add(held)
        if slot.reported:
            slot.reported = False
            report_return(slot, held)
        self._come_home(slot, now)

    def put_back(self, slot: Slot[C]) -> None:
        """`release`, for one whose last statement ended well and left nothing behind: its driver is not asked."""
        special = slot.condemned or slot.changed or slot.doubtful or slot.reported or self.suspended
        if special or slot.state is not HELD or slot.pool is not self:
            self.release(slot)
            return
        slot.used = slot.heard = now = self._time()
        slot.holder = None
        self._use_time.add(now - slot.acquired)
        if self.line.waiting and self.line.serve(slot):
            slot.acquired = now
            return
        slot.state = IDLE
        self.idle.append(slot)

    def give_up(self, slot: Slot[C]) -> None:
        """Forget a connection that its holder keeps for himself, or has closed."""
        if slot.state is HELD:
            self.counters.retired += 1
        slot.state = State.GONE
        self.slots.discard(slot)
        # Later: the garbage collector may call this in the midst of anything.
        self.loop.call_soon_threadsafe(self._keeper.nudge)

    def _come_home(self, slot: Slot[C], now: float) -> None:
        slot.holder, slot.place = None, ""
        if slot.condemned or slot.changed or slot.doubtful or not self._is_clean(slot):
            self._keeper.mend(slot)
            return
        slot.used = slot.heard = now
        if not self.suspended and self.line.serve(slot):
            slot.acquired = now
            return
        slot.state = IDLE
        self.idle.append(slot)

    def welcome(self, slot: Slot[C]) -> None:
        """Take a connection from the keeper, new or mended, and lend it to the oldest waiter, or let it idle."""
        if not self.suspended and self.line.serve(slot):
            slot.state = HELD
            slot.acquired = self._time()
            return
        slot.state = IDLE
        insort(self.idle, slot, key=_last_used)  # one that was merely asked does not count as used

    def stats(self) -> PoolStats:
        """Give the pool as it is at this moment."""
        in_use = self.in_use
        return PoolStats(
            size=len(self.slots),
            idle=len(self.idle),
            in_use=in_use,
            connecting=self._keeper.connector.connecting,
            waiting=self.line.waiting,
            kept=self._keeper.kept,
            counters=self.counters.copy(),
        )

    def nudge(self) -> None:
        """Have the keeper do what is to be done now."""
        self._keeper.nudge()

    def any_alive(self) -> bool:
        """Whether there is a connection that is not known to be dead; who holds one of those has yet to notice."""
        return any(not slot.dead for slot in list(self.slots))

    def needs_asking(self, slot: Slot[C], now: float) -> bool:
        """Whether an idle one may not be lent unasked: unheard of for too long, or known to be dead."""
        return now - slot.heard >= self._validate_after or self.is_closed(slot)

    def is_closed(self, slot: Slot[C]) -> bool:
        """Whether its connection is known to be dead, without asking the server."""
        try:
            return self.driver.is_closed(slot.connection)
        except Exception:  # noqa: BLE001 - a driver that cannot tell has lost it
            return True

    def _is_clean(self, slot: Slot[C]) -> bool:
        try:
            return self.driver.is_clean(slot.connection)
        except Exception:  # noqa: BLE001 - the keeper finds out
            return False

    def _check_open(self) -> None:
        if asyncio.get_running_loop() is not self.loop:
            raise wrong_loop(self)
        if self.closed:
            raise pool_closed(self)
        outage = self.outage
        if outage is not None and policy.fails_fast(outage, self._time()) and not self.any_alive():
            self.counters.shed += 1
            raise unavailable(self, outage)

    def _refused(self, refusal: Refusal | Outage, waited: float) -> errors.PulsePoolError:
        if refusal is Refusal.CLOSED:
            return pool_closed(self)
        if isinstance(refusal, Outage):
            return unavailable(self, refusal)
        if self.outage is not None and not self.any_alive():
            return unavailable(self, self.outage)
        self.counters.timeouts += 1
        return timed_out(self, waited, self._timeout_error)


_of_this_process: "weakref.WeakSet[Core[Any]]" = weakref.WeakSet()


def _belongs_to_this_process(pool: Core[Any]) -> None:
    """A forked child must not write into its parent's sockets: there, what idles is lent to nobody."""
    if not _of_this_process:
        _once_for_all_forks()
    _of_this_process.add(pool)


@cache
def _once_for_all_forks() -> None:
    os.register_at_fork(after_in_child=_disown)


def _disown() -> None:
    for pool in _of_this_process:
        pool._thread = NO_THREAD  # noqa: SLF001 - our own
    _of_this_process.clear()


def _last_used(slot: Slot[C]) -> float:
    return slot.used
