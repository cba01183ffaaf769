"""The end of a pool, by a deadline."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from pulsepool.pool.jobs import Jobs
from pulsepool.pool.slot import Slot, State

if TYPE_CHECKING:
    from pulsepool.pool.core import Core

C = TypeVar("C")

CANCELLING = 0.3
"""Seconds for telling the server to give up what it does for those who are cut off."""


class Closing(Generic[C]):
    """Waits for who holds a connection of `pool`, and cuts off who does so for too long. `end`: hangs up on one."""

    def __init__(self, pool: "Core[C]", jobs: Jobs, end: Callable[[Slot[C]], None]) -> None:
        self._pool = pool
        self._jobs = jobs
        self._end = end

    async def finish(self, deadline: float) -> int:
        """Be through with all connections, condemned by now, in `deadline` seconds; give how many were cut off."""
        pool = self._pool
        ends = pool.loop.time() + deadline
        await self._jobs.until(lambda: not pool.in_use, ends - min(1.0, deadline / 4))
        held = self._held()
        await self._cancel(held, ends)
        for slot in self._held():
            pool.counters.retired += 1
            self._end(slot)
            slot.state = State.ENDED
        await self._jobs.until(lambda: not self._jobs, ends)
        await self._jobs.cancel()
        for slot in list(pool.slots):
            self._end(slot)
        return len(held)

    def _held(self) -> list[Slot[C]]:
        return [slot for slot in list(self._pool.slots) if slot.state is State.HELD]

    async def _cancel(self, held: list[Slot[C]], ends: float) -> None:
        """Have the server give up what it does for those; hung up on alone, it would go on, and commit it after all."""
        waiting = len(held)

        def answered(_: object) -> None:
            nonlocal waiting
            waiting -= 1

        pool = self._pool
        limit = min(CANCELLING, max(ends - pool.loop.time(), 0.0) / 2)
        for slot in held:
            self._jobs.run("cancel", partial(pool.driver.cancel, slot.connection), limit, answered, answered)
        await self._jobs.until(lambda: not waiting, ends)
