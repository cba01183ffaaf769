"""The pool's background: it asks, mends, replaces and closes connections, has new ones opened, and spots leaks.

Each piece of work is a task with a name and a limit; what remains between them is one timer. So nothing of the pool
runs while nothing is to be done, and an event loop that ends with a pool in it has nothing of ours to kill.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from pulsepool.pool import policy
from pulsepool.pool.closing import Closing
from pulsepool.pool.connector import GRACE, Connector
from pulsepool.pool.jobs import Jobs, while_alive
from pulsepool.pool.policy import Fate, Load
from pulsepool.pool.refusals import report_leaks
from pulsepool.pool.renewal import Renewal
from pulsepool.pool.slot import Slot, State

if TYPE_CHECKING:
    from pulsepool.pool.core import Core

C = TypeVar("C")
logger = logging.getLogger("pulsepool.pool")

ASKING = 1.0
"""Seconds that a connection has to answer when asked whether it lives."""

MENDING = 2.0
"""Seconds for the end of a cancelled statement, a rollback and a reset, before the connection is given up."""

CLOSING = 1.0
"""Seconds for a good-bye."""


class Keeper(Generic[C]):
    """Does for `pool` whatever takes time."""

    def __init__(self, pool: "Core[C]", dice: Callable[[], float]) -> None:
        self._pool = pool
        self._jobs = Jobs(pool.loop, pool.limits.name)
        self.connector: Connector[C] = Connector(pool, self._jobs, dice, self._opened, self._not_opened)
        self._renewal: Renewal[C] = Renewal(pool, self.connector, self.condemn)
        self._closing: Closing[C] = Closing(pool, self._jobs, self._end)
        self._kept: dict[Slot[C], float] = {}  # and since when
        self.leaving = 0
        self._set_timer()

    @property
    def load(self) -> Load:
        """How many there are, for the policy."""
        pool = self._pool
        now = pool.loop.time()
        coming = sum(now - since < policy.LASTING for since in self._kept.values())
        waited = pool.line.waited(now)
        return Load(len(pool.slots), self.connector.connecting, coming, self.leaving, pool.line.waiting, waited)

    @property
    def coming(self) -> int:
        """Connections that are asked or mended."""
        return len(self._kept)

    @property
    def kept(self) -> int:
        """Connections that nobody can have at this moment."""
        return self.coming + self.leaving

    def nudge(self) -> None:
        """Do what is to be done now for those who wait, and for `min_size`."""
        pool = self._pool
        if pool.closed:
            return
        now = pool.loop.time()
        if pool.line.waiting and pool.idle and not pool.suspended:
            self._lend_idle(now)
        self.connector.nudge(self.load, now)

    def _lend_idle(self, now: float) -> None:
        """Give what idles to those who wait: first what can be had unasked, then ask as many as are lacking."""
        pool = self._pool
        for slot in pool.idle[::-1]:
            if slot.state is State.IDLE and pool.line.waiting and not pool.needs_asking(slot, now):
                pool.idle.remove(slot)
                pool.welcome(slot)  # back to where it was, if all who wait were cancelled in this very tick
        coming = self.load.coming
        while pool.idle and pool.line.waiting > coming:
            slot = pool.idle[-1]
            if not pool.needs_asking(slot, now):
                return
            pool.idle.pop()
            if pool.is_closed(slot):
                self._lose(slot)
            else:
                self._ask(slot)
                coming += 1

    def _opened(self, slot: Slot[C]) -> None:
        self._pool.slots.add(slot)
        slot.watched = self._watch(slot)
        self._kept[slot] = self._pool.loop.time()
        self._return(slot)
        self._renewal.arrived()

    def _not_opened(self) -> None:
        self._renewal.failed()

    def _watch(self, slot: Slot[C]) -> bool:
        """Have the driver say at once when an idle connection dies, so that none has to be looked at to be lent."""
        try:
            return self._pool.driver.watch(slot.connection, partial(self._died, weakref.ref(slot)))
        except Exception:
            logger.exception("pool %s: watching a connection failed", self._pool.limits.name)
            return False

    def _died(self, gone: "weakref.ref[Slot[C]]") -> None:
        slot = gone()
        if slot is None:
            return
        slot.dead = True
        if slot.state is State.IDLE and slot in self._pool.idle:
            self._pool.idle.remove(slot)
            self._keep(slot)
            self._lose(slot)

    def _ask(self, slot: Slot[C]) -> None:
        self._keep(slot)
        self._ask_kept(slot)

    def _ask_kept(self, slot: Slot[C]) -> None:
        def lives(_: None) -> None:
            slot.heard = self._pool.loop.time()
            self._return(slot)

        ping = partial(self._pool.driver.ping, slot.connection)
        self._jobs.run("ask", ping, ASKING, lives, partial(self._lose, slot))

    def mend(self, slot: Slot[C]) -> None:
        """Take in what a caller gave back: mend it, or close it when it is condemned or beyond mending."""
        pool = self._pool
        self._keep(slot)
        if pool.closed or slot.condemned:
            self._retire(slot)
            return
        if pool.is_closed(slot):
            self._lose(slot)
            return

        def mended(_: None) -> None:
            pool.counters.restored += 1
            slot.doubtful = False
            if slot.changed:
                slot.changed, slot.mode = False, ""
            slot.used = slot.heard = pool.loop.time()
            self._return(slot)

        restore = partial(pool.driver.restore, slot.connection, full=slot.changed)
        self._jobs.run("mend", restore, MENDING, mended, partial(self._lose, slot))

    def _return(self, slot: Slot[C]) -> None:
        """Pass on what is fit to be lent."""
        pool = self._pool
        if pool.closed or slot.condemned:
            self._retire(slot)
        elif pool.is_closed(slot):  # since it answered
            self._lose(slot)
        else:
            self._kept.pop(slot, None)
            pool.welcome(slot)
        self.nudge()

    def condemn(self, slot: Slot[C]) -> None:
        """Lend it no more: close it now when it idles, or when it comes home."""
        slot.condemned = True
        if slot.state is State.IDLE:
            self._pool.idle.remove(slot)
            self._keep(slot)
            self._retire(slot)
        elif slot.state is State.KEPT:
            self._leave(slot)

    def shrink(self) -> None:
        """Condemn those beyond `max_size`, the idle and the longest unused ones first."""
        pool = self._pool
        alive = [slot for slot in list(pool.slots) if not slot.condemned and slot.state is not State.LEAVING]
        beyond = len(alive) - pool.limits.max_size
        if beyond > 0:
            alive.sort(key=lambda slot: (slot.state is not State.IDLE, slot.used))
            for slot in alive[:beyond]:
                self.condemn(slot)

    def doubt(self) -> None:
        """Ask all idle ones at once, and lend none of them before it has answered."""
        pool = self._pool
        idle, pool.idle = pool.idle, []
        for slot in idle:
            self._keep(slot)  # all of them first: ending one may tell of the next
        for slot in idle:
            if pool.is_closed(slot):
                self._lose(slot)
            else:
                self._ask_kept(slot)

    def _keep(self, slot: Slot[C]) -> None:
        slot.state = State.KEPT
        self._kept[slot] = self._pool.loop.time()

    def _leave(self, slot: Slot[C]) -> None:
        if slot.state is State.KEPT:
            slot.state = State.LEAVING
            self._kept.pop(slot, None)
            self.leaving += 1

    def _retire(self, slot: Slot[C]) -> None:
        """Close one that is kept, politely; its place is taken until then."""
        pool = self._pool
        self._leave(slot)
        pool.counters.retired += 1

        def closed(_: None) -> None:
            self._forget(slot)
            self.nudge()

        def clung(error: BaseException) -> None:
            self._end(slot)
            self._nudge_after(error)

        self._jobs.run("close", partial(pool.driver.close, slot.connection), CLOSING, closed, clung)

    def _lose(self, slot: Slot[C], error: BaseException | None = None) -> None:
        """End one that is dead. It may not be the only one: those unheard of since are asked."""
        pool = self._pool
        pool.counters.lost += 1
        self._end(slot)
        if pool.idle and not pool.closed and not isinstance(error, asyncio.CancelledError):
            self.doubt()
        self._nudge_after(error)

    def _nudge_after(self, error: BaseException | None) -> None:
        # Whoever cancels the keeper's work ends the loop: in that, nothing may be begun any more.
        if isinstance(error, asyncio.CancelledError):
            self._pool.loop.call_later(policy.FIRST_RETRY, while_alive, weakref.ref(self), Keeper.nudge)
        else:
            self.nudge()

    def _forget(self, slot: Slot[C]) -> None:
        if slot.state is State.KEPT:
            self._kept.pop(slot, None)
        elif slot.state is State.LEAVING:
            self.leaving -= 1
        slot.state = State.GONE
        self._pool.slots.discard(slot)
        self._jobs.changed.set()

    def _end(self, slot: Slot[C]) -> None:
        """Hang up on it, and forget it."""
        try:
            self._pool.driver.terminate(slot.connection)
        except Exception:
            logger.exception("pool %s: ending a connection failed", self._pool.limits.name)
        self._forget(slot)

    def _set_timer(self) -> None:
        # A weak reference: a pool that everybody has forgotten must not live on in its own timer.
        self._timer = self._pool.loop.call_later(
            policy.tick(self._pool.limits), while_alive, weakref.ref(self), Keeper.tick
        )

    def tick(self) -> None:
        """Look around: leaks, the dead, the idle, the old, and those who wait."""
        self._set_timer()
        pool = self._pool
        now = pool.loop.time()
        if pool.limits.leak_after is not None:
            report_leaks(pool, now, pool.limits.leak_after)
        spare = len(pool.slots) - self.leaving - pool.limits.min_size
        for slot in list(pool.idle):
            if slot.state is not State.IDLE:  # one that was lost took it along, to be asked
                continue
            if pool.is_closed(slot):
                pool.idle.remove(slot)
                self._lose(slot)
                spare -= 1
                continue
            match policy.fate(slot.wear, pool.limits, now=now, spare=spare > 0):
                case Fate.RETIRE:
                    self.condemn(slot)
                    spare -= 1
                case Fate.ASK:
                    pool.idle.remove(slot)
                    self._ask(slot)
                case _:
                    pass
        self._renewal.look(now)
        self.nudge()

    async def close_idle(self) -> None:
        """Condemn all, and return when those that idled are closed, or had their time for it."""
        pool = self._pool
        self._timer.cancel()
        for slot in list(pool.slots):
            self.condemn(slot)
        await self._jobs.until(lambda: not self.leaving, pool.loop.time() + CLOSING + GRACE)

    async def finish(self, deadline: float) -> int:
        """Close everything within `deadline` seconds; give how many were ended under their holders."""
        self._timer.cancel()
        self.connector.cancel()
        for slot in list(self._pool.slots):
            self.condemn(slot)
        return await self._closing.finish(deadline)

    def abandon(self) -> None:
        """Leave everything as it is, and do nothing more."""
        self._timer.cancel()
        self._jobs.forget()
        self._kept.clear()
        self.connector.connecting = self.leaving = 0
