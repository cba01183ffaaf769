"""Work in the background: each piece a task with a name, a limit and an end."""

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

TICKS_TO_DIE = 3
"""Turns of the loop for a cancelled task: the cancellation, what it wakes, and the task's own end."""


class Jobs:
    """The tasks of the pool called `name`. `changed` is set whenever one has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def run(
        self,
        what: str,
        work: Callable[[], Awaitable[Any]],
        limit: float,
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> asyncio.Task[Any]:
        """Do `work` in a task of its own, for `limit` seconds at most, and then `done` or `failed`."""

        async def bounded() -> Any:
            async with asyncio.timeout(limit):
                return await work()

        def finished(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                failed(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                failed(error)
            else:
                done(task.result())
            self.changed.set()

        task = self._loop.create_task(bounded(), name=f"pulsepool: {what} {self._name}")
        self._tasks.add(task)
        task.add_done_callback(finished)
        return task

    async def until(self, met: Callable[[], bool], ends: float) -> None:
        """Wait until `met`, which is asked after each change, or the loop's clock says `ends`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends):
                while not met():
                    self.changed.clear()
                    await self.changed.wait()

    async def cancel(self) -> None:
        """Cancel what is left, and let it die."""
        for task in list(self._tasks):
            task.cancel()
        for _ in range(TICKS_TO_DIE):
            await asyncio.sleep(0)

    def forget(self) -> None:
        """Leave them to their loop, which is gone."""
        self._tasks.clear()


def while_alive(whose: "weakref.ref[T]", what: Callable[[T], None]) -> None:
    """What a timer does, without keeping alive whose timer it is: a pool that everybody has forgotten has to go."""
    if (alive := whose()) is not None:
        what(alive)
