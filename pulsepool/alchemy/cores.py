"""One pool for each event loop that uses an engine, and none shared with another process."""

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any

from pulsepool.alchemy.records import Record, set_aside
from pulsepool.errors import PoolClosed
from pulsepool.pool import Limits, Pool

AT_THE_END = 1.0
"""Seconds for the good-byes when an event loop ends."""


class Cores:
    """The pools behind one engine, by event loop; usually there is one loop, and one pool.

    A connection belongs to the loop that opened it. Test suites use one engine over many short loops: a loop that ends
    as `asyncio.run` ends it closes its connections, those of a loop that was just closed are set aside, and the next
    loop gets a pool of its own. So does a forked process, which must not write into its parent's sockets.

    `limits`: of each pool. `closed`: lend nothing, until it is False again. `make`: makes a pool for the running loop;
    set by the SQLAlchemy pool that fronts them.
    """

    make: Callable[[Limits], Pool[Record]]

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.own_listeners: Collection[Any] = ()
        self.closed = False
        self._pools: dict[asyncio.AbstractEventLoop, Pool[Record]] = {}
        self._current: Pool[Record] | None = None
        self._ends: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
        self._process = os.getpid()
        self._parents: list[object] = []

    def here(self) -> Pool[Record]:
        """Give the pool of the running loop. Raises `PoolClosed`, and `RuntimeError` when no loop is running."""
        current, loop = self._current, asyncio.get_running_loop()
        if current is not None and current.loop is loop and not current.closed and self._process == os.getpid():
            return current
        if self.closed:
            raise PoolClosed(f"pool {self.limits.name!r} is closed", hint="start the database again, or stop using it")
        return self._find(loop)

    def current(self) -> Pool[Record] | None:
        """Give the pool that was used last, for a look at its numbers; None before the first use."""
        return self._current

    def of(self, loop: asyncio.AbstractEventLoop | None) -> Pool[Record] | None:
        """Give the pool of `loop`, for a look at its numbers; without one, the pool that was used last."""
        return self._current if loop is None else self._pools.get(loop)

    def running(self) -> Pool[Record] | None:
        """Give the pool of the running loop, if there is one."""
        return self._pools.get(asyncio.get_running_loop())

    def _find(self, loop: asyncio.AbstractEventLoop) -> Pool[Record]:
        self._forget_the_gone()
        pool = self._pools.get(loop)
        if pool is None or pool.closed:
            pool = self._pools[loop] = self.make(self.limits)
            self._await_the_end_of(loop)
        self._current = pool
        return pool

    def _await_the_end_of(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before `asyncio.run` closes a loop, it ends the asynchronous generators that began on it: this is one."""
        if loop not in self._ends:
            self._ends[loop] = end = _until_the_end(weakref.ref(self))
            with contextlib.suppress(StopIteration):
                end.__anext__().send(None)

    def _forget_the_gone(self) -> None:
        self.leave_the_parent()
        for loop in [loop for loop in list(self._ends) if loop.is_closed()]:
            self._ends.pop(loop, None)  # another thread may be at it, too
            pool = self._pools.pop(loop, None)
            if pool is not None:
                for slot in list(pool.slots):
                    set_aside(slot.connection)
                pool.abandon()

    def leave_the_parent(self) -> bool:
        """Let go of what a parent process has: in a forked child, from now on. Gives whether this is one.

        All of it stays referred to, as what is collected closes itself: taking a socket off its event loop takes it
        off the parent's, too, since they share what the operating system knows of that loop.
        """
        if self._process == os.getpid():
            return bool(self._parents)
        self._process = os.getpid()
        self._parents += [slot.connection.driver for pool in self._pools.values() for slot in pool.slots]
        self._parents += [*self._pools.values(), *self._ends.values(), *self._pools]
        self._ends.clear()
        self.abandon()
        return True

    async def end_here(self) -> None:
        """Close the connections of the running loop, which is about to end."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            if self._current is pool:
                self._current = None
            await pool.stop(0.0 if pool.in_use else AT_THE_END)

    async def dispose(self) -> None:
        """Close what idles, and what is in use when it comes home; who comes next gets a new pool."""
        self._forget_the_gone()
        own = self._pools.pop(asyncio.get_running_loop(), None)
        self.dispose_later()
        if own is not None:
            self.limits = own.limits  # as they were resized
            await own.dispose()

    def dispose_later(self) -> None:
        """The same without waiting, from wherever: each event loop closes what is its own when it runs."""
        self._forget_the_gone()
        pools, self._pools, self._current = self._pools, {}, None
        for loop, pool in pools.items():
            self.limits = pool.limits
            closing = pool.dispose()
            try:
                asyncio.run_coroutine_threadsafe(closing, loop)
            except RuntimeError:  # closed in this very moment
                closing.close()

    def interrupt(self) -> None:
        """Have a start that is under way give up: it is stopped before it has begun."""
        self.closed = True
        if (pool := self.running()) is not None:  # another loop's is not for this thread to touch
            pool.interrupt()

    def abandon(self) -> None:
        """Forget every connection without touching a socket."""
        for pool in self._pools.values():
            pool.abandon()
        self._pools.clear()
        self._current = None

    async def stop(self, deadline: float) -> int:
        """Stop the pools: the running loop's by `deadline`, other loops' without waiting; give how many were ended."""
        loop = asyncio.get_running_loop()
        self._forget_the_gone()
        pools, self._pools, self._current = self._pools, {}, None
        own = pools.pop(loop, None)
        for other, pool in pools.items():
            with contextlib.suppress(RuntimeError):  # closed in this very moment
                asyncio.run_coroutine_threadsafe(pool.stop(deadline), other)
        return await own.stop(deadline) if own is not None else 0


async def _until_the_end(cores: "weakref.ref[Cores]") -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if (alive := cores()) is not None:
            await alive.end_here()
