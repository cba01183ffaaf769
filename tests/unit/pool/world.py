"""A pool on virtual time, callers who do anything at any moment, and what must be true whatever they do."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from pulsepool.errors import DatabaseUnavailable, NotHeld, PoolClosed, PoolTimeout
from pulsepool.pool import Limits, Pool, Slot
from pulsepool.pool.policy import LONGEST_TICK
from pulsepool.pool.slot import State
from tests.unit.pool.clock import VirtualLoop
from tests.unit.pool.scripted import NEVER, Connection, Driver, Refused

PATIENCE = 0.002
"""Seconds by which a wait may end late: timers are a millisecond apart."""


class InOrder(dict[Any, None]):
    """A set that keeps the order in which it was filled, so that a run is the same again."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


@dataclass
class Caller:
    """One who asked for a connection."""

    task: "asyncio.Task[Slot[Connection]]"
    until: float
    cancelled: bool = False
    seen: bool = False


class World:
    """The pool, its driver, and those who use it. Every method is one thing that can happen."""

    def __init__(self, seed: int, *, max_waiting: int | None = None) -> None:
        self.loop = VirtualLoop()
        self.noise: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.noise.append(context))
        self.driver = Driver(watches=bool(seed % 2))
        limits = Limits(
            min_size=1,
            max_size=4,
            acquire_timeout=3.0,
            max_waiting=max_waiting,
            connect_timeout=2.0,
            max_lifetime=40.0,
            max_idle=15.0,
            keepalive=8.0,
            leak_after=6.0,
        )
        dice = random.Random(seed).random  # noqa: S311 - so that it can be played again
        with self.loop.here():
            self.pool: Pool[Connection] = Pool(self.driver, limits, dice=dice)
        self.pool.slots = InOrder()
        self.keeper = self.pool._keeper
        self.keeper._jobs._tasks = InOrder()
        self.keeper.connector._under_way = InOrder()
        self.callers: list[Caller] = []
        self.held: list[Slot[Connection]] = []
        self.returned: list[Slot[Connection]] = []
        self.served = self.released = self.timeouts = self.cancels = self.late = self.kept = 0
        self.most = limits.max_size
        self.refilled = self.loop.time()
        self._spy()

    def _spy(self) -> None:
        pool, line = self.pool, self.pool.line
        take, serve = pool.take, line.serve

        def fair_take(mode: str = "") -> Slot[Connection] | None:
            waiting = self.waiting()
            slot = take(mode)
            assert slot is None or not waiting, "one that came now overtook those who wait"
            if slot is not None:
                check_lent(slot)
            return slot

        def fair_serve(slot: Slot[Connection]) -> bool:
            waiting = self.waiting()
            served = serve(slot)
            assert served == bool(waiting), "a waiter was passed over"
            assert not waiting or waiting[0].future.done(), "another than the oldest was served"
            if served:
                check_lent(slot)
            return served

        def check_lent(slot: Slot[Connection]) -> None:
            connection = slot.connection
            assert not slot.condemned, "condemned, and lent"
            assert connection.open, "closed, and lent"
            assert not connection.dead or "is_closed" in connection.trouble, "dead, and lent"
            assert connection.clean, "unclean, and lent"
            assert not pool.suspended, "suspended, and lent"

        pool.take, line.serve = fair_take, fair_serve  # type: ignore[method-assign]

    def waiting(self) -> list[Any]:
        return [waiter for waiter in self.pool.line._line if not waiter.future.done()]

    # What callers do.

    def ask(self, limit: float | None = None, mode: str = "") -> None:
        with self.loop.here():
            task = self.loop.create_task(self.pool.acquire(limit, mode))
        patience = self.pool.limits.acquire_timeout if limit is None else limit
        self.callers.append(Caller(task, self.loop.time() + patience))

    def take(self) -> None:
        with self.loop.here():
            slot = self.pool.take()
        if slot is not None:
            self.served += 1
            self.held.append(slot)

    def give_up(self, which: int) -> None:
        """Cancel a caller, who may have been served in this very tick."""
        asking = [caller for caller in self.callers if not caller.task.done()]
        if asking:
            caller = asking[which % len(asking)]
            caller.cancelled = True
            with self.loop.here():
                caller.task.cancel()

    def give_back(self, which: int, *, clean: bool = True, changed: bool = False, mode: str = "") -> None:
        self._see()
        if self.held:
            slot = self.held.pop(which % len(self.held))
            slot.connection.clean, slot.changed, slot.mode = clean, changed, mode
            self.returned.append(slot)
            self.late += slot.state is State.ENDED
            self.released += slot.state is State.HELD
            well = slot.connection.clean and slot.connection.open and not slot.connection.dead
            with self.loop.here():
                (self.pool.put_back if well and which % 2 else self.pool.release)(slot)

    def give_back_twice(self, which: int) -> None:
        """Release what is not held: refused, and nothing changes."""
        idle = [slot for slot in self.returned[-8:] if slot.state is not State.HELD and slot.state is not State.ENDED]
        if idle:
            slot, before = idle[which % len(idle)], self.pool.stats()
            with self.loop.here():
                try:
                    self.pool.release(slot)
                except NotHeld:
                    assert self.pool.stats() == before
                else:
                    raise AssertionError("released twice, and nobody said so")

    def keep(self, which: int) -> None:
        """Keep one for oneself: the pool forgets it, and goes on without."""
        self._see()
        if self.held:
            slot = self.held.pop(which % len(self.held))
            slot.connection.open = False
            self.kept += 1
            with self.loop.here():
                self.pool.give_up(slot)

    # What happens to connections and the server.

    def _connection(self, which: int) -> Connection | None:
        there = self.driver.open
        return there[which % len(there)] if there else None

    def die(self, which: int) -> None:
        if connection := self._connection(which):
            with self.loop.here():
                connection.dead = True

    def restart(self) -> None:
        """All connections die at once."""
        with self.loop.here():
            for connection in self.driver.open:
                connection.dead = True

    def trouble(self, which: int, callback: str, *, hangs: bool) -> None:
        if connection := self._connection(which):
            connection.trouble[callback] = NEVER if hangs else ZeroDivisionError(callback)

    def next_connect(self, step: float | Exception) -> None:
        if len(self.driver.script) < 6:
            self.driver.script.append(step)

    def server(self, *, up: bool, final: bool = False) -> None:
        self.driver.sqlstates = {"wrong password": "28P01"}
        self.driver.down = None if up else Refused("wrong password" if final else "down")

    def server_codes(self, *, broken: bool) -> None:
        self.driver.broken_sqlstate = broken

    # What an operator does.

    def resize(self, least: int, most: int) -> None:
        with self.loop.here():
            self.pool.resize(min_size=min(least, most), max_size=most)

    def operate(self, what: str) -> None:
        with self.loop.here():
            getattr(self.pool, what)()

    def advance(self, seconds: float) -> None:
        """Let time pass, and look at every moment at which something happens."""
        until = self.loop.time() + seconds
        self.settle()
        while self.loop.step(until):
            self.check()
            self.check_settled()

    def settle(self) -> None:
        self.loop.settle()
        self.check()
        self.check_settled()

    def stop(self, deadline: float, returns: list[float]) -> None:
        """Stop; some who hold a connection return it meanwhile, after so many seconds."""
        began = self.loop.time()
        with self.loop.here():
            task = self.loop.create_task(self.pool.stop(deadline))
            for delay in returns:
                self.loop.call_later(delay, self.give_back, 0)
        self.loop.settle()
        while not task.done() and self.loop.step(began + deadline + 1):
            self.check()
        assert task.done(), "stop() did not come back"
        self.loop.run_until_complete(asyncio.wait([task]))
        assert self.loop.time() <= began + deadline + PATIENCE, "stop() came back late"
        self.check_stopped(task.result())

    # What must be true.

    def _see(self) -> None:
        """Take note of those who were answered."""
        for caller in self.callers:
            if caller.task.done():
                self._note(caller)
        self.callers = [caller for caller in self.callers if not caller.seen]

    def _note(self, caller: Caller) -> None:
        caller.seen = True
        if caller.task.cancelled():
            assert caller.cancelled
            self.cancels += 1
        elif (error := caller.task.exception()) is None:
            self.served += 1
            self.held.append(caller.task.result())
        elif isinstance(error, PoolTimeout):
            self.timeouts += "turned away" not in str(error)
        else:
            assert isinstance(error, DatabaseUnavailable | PoolClosed), repr(error)

    def check(self) -> None:
        """What is true at any moment, in the middle of a tick, too."""
        pool, keeper, states = self.pool, self.keeper, [slot.state for slot in self.pool.slots]
        assert not self.noise, self.noise
        assert states.count(State.IDLE) == len(pool.idle) == len(set(pool.idle))
        assert all(slot.state is State.IDLE and not slot.condemned and slot in pool.slots for slot in pool.idle)
        assert states.count(State.HELD) == pool.in_use
        assert states.count(State.KEPT) == keeper.coming
        assert states.count(State.LEAVING) == keeper.leaving
        assert len(states) == len(pool.idle) + pool.in_use + keeper.kept
        assert [slot.used for slot in pool.idle] == sorted(slot.used for slot in pool.idle)
        total = len(states) + keeper.connector.connecting
        assert total <= max(self.most, pool.limits.max_size), "more than there may be"
        self.most = max(pool.limits.max_size, min(self.most, total))
        counters = pool.counters
        gone = counters.connects - counters.retired - counters.lost
        assert len(states) - keeper.leaving <= gone <= len(states), "counters and connections differ"

    def check_settled(self) -> None:
        """What is true when all that could happen at this moment has happened."""
        pool, keeper, driver, now = self.pool, self.keeper, self.driver, self.loop.time()
        self._see()
        waiting = len(self.waiting())
        assert waiting == pool.line.waiting == sum(not caller.task.done() for caller in self.callers)
        assert all(now <= caller.until + PATIENCE for caller in self.callers), "one waits beyond the limit"
        assert keeper.connector.connecting == driver.connecting == len(keeper.connector._under_way)
        assert {id(slot.connection) for slot in pool.slots} >= {id(connection) for connection in driver.open}, "leaked"
        assert {id(slot) for slot in pool.slots if slot.state is State.HELD} == {id(slot) for slot in self.held}
        assert pool.counters.timeouts == self.timeouts
        assert pool.counters.connects == len(driver.connections)
        assert pool.counters.use_time.count == self.released
        if not pool.closed:
            self._check_refill()
            if waiting and not pool.suspended:
                self._check_nobody_sleeps(waiting)

    def _check_refill(self) -> None:
        pool, keeper = self.pool, self.keeper
        connecting = keeper.connector.connecting
        alive, room = len(pool.slots) - keeper.leaving, pool.limits.max_size - len(pool.slots)
        outage, now, wanted = pool.outage, self.loop.time(), pool.limits.min_size
        if outage is not None:
            wanted = 0 if outage.final or now <= outage.retry_at + PATIENCE else max(wanted, 1)
        if connecting or room <= 0 or alive >= wanted:
            self.refilled = now
        assert now - self.refilled <= LONGEST_TICK + PATIENCE, "fewer than min_size, and nobody opens any"

    def _lendable(self, slot: Slot[Connection]) -> bool:
        pool, connection = self.pool, slot.connection
        fresh = self.loop.time() - slot.heard < pool.limits.validate_after
        return fresh and connection.open and not connection.dead and "is_closed" not in connection.trouble

    def _check_nobody_sleeps(self, waiting: int) -> None:
        pool, keeper, now = self.pool, self.keeper, self.loop.time()
        connecting = keeper.connector.connecting
        assert not any(self._lendable(slot) for slot in pool.idle), "a waiter sleeps beside an idle connection"
        if pool.idle:
            assert keeper.coming >= waiting, "a waiter sleeps beside one that nobody asks"
        if waiting > keeper.coming + connecting and len(pool.slots) + connecting < pool.limits.max_size:
            retrying = pool.outage is not None and (connecting or now <= pool.outage.retry_at + PATIENCE)
            assert retrying or connecting, "a waiter sleeps while there is room"

    def check_stopped(self, ended: int) -> None:
        """Nothing is left: no connection, no task, nobody waiting; who still holds one may release it, once."""
        self.loop.settle()
        self._see()
        assert not self.pool.slots
        assert not self.pool.idle
        assert not self.driver.open
        assert not self.driver.connecting
        assert not self.keeper._jobs
        assert not self.callers
        assert not asyncio.all_tasks(self.loop)
        stats = self.pool.stats()
        assert (stats.size, stats.in_use, stats.connecting, stats.waiting, stats.kept) == (0, 0, 0, 0, 0)
        counters = stats.counters
        assert counters.connects == counters.retired + counters.lost == len(self.driver.connections)
        assert ended == len(self.held) + self.late
        with self.loop.here():
            for slot in self.held:
                self.pool.release(slot)
        assert not self.noise, self.noise

    def close(self) -> None:
        self.loop.close()
