"""Those who wait for a connection, oldest first."""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar

from pulsepool.pool.policy import Outage
from pulsepool.pool.slot import Slot

C = TypeVar("C")

TIMER_PRECISION = 0.001
"""Seconds; event loops round their timers, uvloop's to a millisecond, and so may come that much too early."""


class Refusal(Enum):
    """Why a waiter goes away with empty hands."""

    TIMED_OUT = "timed out"
    CLOSED = "the pool was closed"


class Waiter(Generic[C]):
    """One caller in the queue; `future` gives a slot, or why there is none: an outage when the server is down."""

    __slots__ = ("deadline", "future", "since")

    def __init__(self, future: "asyncio.Future[Slot[C] | Refusal | Outage]", since: float, deadline: float) -> None:
        self.future = future
        self.since = since
        self.deadline = deadline


class WaitingLine(Generic[C]):
    """First come, first served.

    Who gives up stays in the deque with a future that is done, and is stepped over. All who wait for the pool's own
    limit run out of time in the order in which they came, so that one timer serves them all, ten or ten thousand; only
    those with a limit of their own have a timer of their own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: deque[Waiter[C]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.waiting = 0

    def join(self, since: float, limit: float) -> Waiter[C]:
        """Stand in the line from `since`, for `limit` seconds at most: the pool's own."""
        waiter: Waiter[C] = Waiter(self._loop.create_future(), since, since + limit)
        self._line.append(waiter)
        self.waiting += 1
        if self._timer is None:
            self._timer = self._loop.call_at(waiter.deadline, self._sweep)
        return waiter

    def join_for(self, since: float, limit: float) -> tuple[Waiter[C], Callable[[], None]]:
        """Stand in the line with a `limit` of one's own; call what comes with it when the wait is over."""
        waiter: Waiter[C] = Waiter(self._loop.create_future(), since, float("inf"))
        self._line.append(waiter)
        self.waiting += 1
        return waiter, self._loop.call_at(since + limit, self._give_up_on, waiter).cancel

    def waited(self, now: float) -> float:
        """Seconds that the oldest who waits has waited; 0 when nobody does."""
        return next((now - waiter.since for waiter in self._line if not waiter.future.done()), 0.0)

    def serve(self, slot: Slot[C]) -> bool:
        """Give `slot` to the oldest who still waits; False when nobody does.

        One who was cancelled in this very tick still stands there, with a future that is done.
        """
        line = self._line
        while line:
            future = line.popleft().future
            if not future.done():
                future.set_result(slot)
                self.waiting -= 1
                return True
        return False

    def gave_up(self) -> None:
        """Count one less, whose future was cancelled."""
        self.waiting -= 1
        self._clear_away()

    def _clear_away(self) -> None:
        """Now and then take out those who are done."""
        if len(self._line) > 2 * self.waiting + 64:
            self._line = deque(waiter for waiter in self._line if not waiter.future.done())

    def refuse_all(self, refusal: Refusal | Outage) -> None:
        """Send everybody away."""
        for waiter in self._line:
            self._refuse(waiter, refusal)
        self._line.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up_on(self, waiter: Waiter[C]) -> None:
        self._refuse(waiter, Refusal.TIMED_OUT)
        self._clear_away()

    def _refuse(self, waiter: Waiter[C], refusal: Refusal | Outage) -> None:
        if not waiter.future.done():
            waiter.future.set_result(refusal)
            self.waiting -= 1

    def _sweep(self) -> None:
        """Refuse those whose time is over, and come again for the next."""
        self._timer = None
        now = self._loop.time()
        for waiter in self._line:
            if waiter.future.done() or waiter.deadline == float("inf"):
                continue
            if waiter.deadline > now + TIMER_PRECISION:
                self._timer = self._loop.call_at(waiter.deadline, self._sweep)
                break
            self._refuse(waiter, Refusal.TIMED_OUT)
        while self._line and self._line[0].future.done():
            self._line.popleft()
