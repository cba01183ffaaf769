"""An event loop whose time jumps: where another would sleep until its next timer, this one is there at once."""

import asyncio
import contextlib
import selectors
from collections.abc import Iterator


class Standstill(Exception):
    """Something is awaited that nothing will ever bring about."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when all that could run has run, and then exactly to the next timer."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Jumps(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise Standstill("nothing is ready and no timer is set")
        self._now += seconds

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Run the block as this loop's callbacks are run, so that several things happen in one tick."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    async def settled(self) -> None:
        """Wait until all that can happen at this moment has happened."""
        while self._ready or (self._scheduled and self._scheduled[0]._when <= self._now):
            await asyncio.sleep(0)

    def settle(self) -> None:
        """Do what can be done at this moment."""
        self.run_until_complete(self.settled())

    def step(self, until: float) -> bool:
        """Go to the next timer and settle there; False when `until` is reached first."""
        while self._scheduled and self._scheduled[0]._cancelled:
            handle = self._scheduled[0]
            handle._when = self._now  # so that the loop clears it away
            self.settle()
        if not self._scheduled or self._scheduled[0]._when > until:
            self._now = max(self._now, until)
            return False
        self._now = max(self._now, self._scheduled[0]._when)
        self.settle()
        return True


class _Jumps(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._loop.jump(timeout)
        return []
