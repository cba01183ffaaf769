"""The pool's connects: how many, when again after a failure, and what callers are told meanwhile."""

import asyncio
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pulsepool.diagnosis import first_line
from pulsepool.pool import policy
from pulsepool.pool.jobs import Jobs, while_alive
from pulsepool.pool.line import TIMER_PRECISION
from pulsepool.pool.policy import Load, Outage
from pulsepool.pool.slot import Slot

if TYPE_CHECKING:
    from pulsepool.pool.core import Core

C = TypeVar("C")
logger = logging.getLogger("pulsepool.pool")

GRACE = 1.0
"""Seconds beyond `connect_timeout` that a driver has to give up by itself."""


class Connector(Generic[C]):
    """Opens connections for `pool`; `opened` takes each new one, `failed` is told of each that did not come to be."""

    def __init__(
        self,
        pool: "Core[C]",
        jobs: Jobs,
        dice: Callable[[], float],
        opened: Callable[[Slot[C]], None],
        failed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._jobs = jobs
        self._dice = dice
        self._opened = opened
        self._failed = failed
        self._under_way: set[asyncio.Task[Any]] = set()
        self._again: asyncio.TimerHandle | None = None
        self.connecting = 0
        self.outage: Outage | None = None

    def nudge(self, load: Load, now: float) -> None:
        """Begin as many connects as the policy wants."""
        if self._pool.suspended:  # they wait for resume(), not for a connection
            load = replace(load, waiting=0)
        pool = self._pool
        for _ in range(policy.connects_wanted(load, pool.limits, self.outage, now)):
            self.connect()
        more = bool(pool.idle) or load.size + self.connecting < pool.limits.max_size
        if load.waiting > self.connecting and more and self.outage is None and self._again is None:
            # Demand that lasts has more opened at once, and other idle ones asked than one that is silent.
            at = now + policy.LASTING + TIMER_PRECISION
            self._again = pool.loop.call_at(at, while_alive, weakref.ref(self), Connector.nudge_again)

    def nudge_again(self) -> None:
        """See whether the demand of a moment ago lasts."""
        self._again = None
        self._pool.nudge()

    def connect(self) -> None:
        """Begin one."""
        pool = self._pool
        started, generation = pool.loop.time(), pool.generation

        def opened(connection: C) -> None:
            self.connecting -= 1
            self.outage = None
            pool.counters.connects += 1
            now = pool.loop.time()
            lifetime = policy.lifetime(pool.limits, self._dice())
            slot = Slot(pool, connection, now, lifetime, used=now, heard=now)
            slot.condemned = generation != pool.generation or len(pool.slots) + self.connecting >= pool.limits.max_size
            self._opened(slot)

        def failed(error: BaseException) -> None:
            self.connecting -= 1
            self._failed()
            if not pool.closed:
                self._judge(error, started)

        self.connecting += 1
        # The driver keeps the limit itself, and says what happened; this one is for a driver that does not.
        task = self._jobs.run("connect", pool.driver.connect, pool.limits.connect_timeout + GRACE, opened, failed)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _judge(self, error: BaseException, started: float) -> None:
        pool = self._pool
        pool.counters.connect_failures += 1
        now, final = pool.loop.time(), self._is_final(error)
        error.__traceback__ = None  # it would keep alive what the frames of a failed connect hold
        outage = policy.outage_after(error, self.outage, final=final, started=started, now=now, dice=self._dice())
        self.outage = outage
        if outage.attempts == 1 or final:
            said = getattr(error, "message", None) or f"{type(error).__name__}: {first_line(str(error))}".rstrip(": ")
            logger.warning("pool %s: connect failed: %s", pool.limits.name, said)
        if outage.known_down and not pool.any_alive():
            pool.line.refuse_all(outage)
        pool.loop.call_at(outage.retry_at + TIMER_PRECISION, while_alive, weakref.ref(pool), type(pool).nudge)

    def _is_final(self, error: BaseException) -> bool:
        try:
            return self._pool.driver.is_final(error)
        except Exception:
            logger.exception("pool %s: telling why a connect failed, failed", self._pool.limits.name)
            return False

    async def fill(self) -> Outage | None:
        """Open connections until there are `min_size`, one at least; give the outage when one fails."""
        pool = self._pool
        while not pool.closed and (lacking := max(pool.limits.min_size, 1) - len(pool.slots) + pool.leaving) > 0:
            room = pool.limits.max_size - len(pool.slots)
            for _ in range(min(lacking, room, policy.CONNECTS_AT_ONCE) - self.connecting):
                self.connect()
            self._jobs.changed.clear()
            await self._jobs.changed.wait()
            if self.outage is not None:
                return self.outage
        return None

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        if self._again is not None:
            self._again.cancel()
