"""The whole pool: started and stopped, looked at, steered while it runs."""

from dataclasses import replace
from typing import TypeVar

from pulsepool import errors
from pulsepool.pool.core import Core
from pulsepool.pool.line import Refusal
from pulsepool.pool.refusals import pool_closed, unavailable
from pulsepool.pool.slot import State

C = TypeVar("C")


class Pool(Core[C]):
    """Connections of one server for the tasks of one event loop.

    Acquiring takes the connection that was used last; when there is none, callers queue, oldest first, and get
    whichever comes first, one that is released or a new one. Only the keeper connects, asks, restores and closes.

    `driver`: how. `limits`: how many, how long. `timeout_error`: what is raised for `PoolTimeout`; `dice`: even
    numbers from 0 to 1, for jitter. Made on a running event loop, and used on that one alone.
    """

    def __repr__(self) -> str:
        keeper = self._keeper
        kept = f", {keeper.kept} kept" if keeper.kept else ""
        state = ", closed" if self.closed else ", suspended" if self.suspended else ""
        return (
            f"<Pool {self.limits.name}: {len(self.idle)} idle, {self.in_use} in use{kept}, "
            f"{keeper.connector.connecting} connecting, {self.line.waiting} waiting, max {self.limits.max_size}{state}>"
        )

    async def start(self) -> None:
        """Open `min_size` connections, one at least.

        Raises `DatabaseUnavailable`, or `ConfigurationError`, with the first that fails, and `PoolClosed` when it is
        stopped before or meanwhile.
        """
        if (outage := await self._keeper.connector.fill()) is not None:
            raise unavailable(self, outage)
        if self.closed:
            raise pool_closed(self)

    def interrupt(self) -> None:
        """Have `start()` give up: what follows is `stop()`."""
        self.closed = True
        self.line.refuse_all(Refusal.CLOSED)
        self._keeper.connector.cancel()

    def drain(self) -> None:
        """Replace every connection: idle ones now, those in use when they come home (new password, failover)."""
        self.generation += 1
        for slot in list(self.slots):
            self._keeper.condemn(slot)
        self._keeper.nudge()

    def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change how many there may be. Those beyond are closed, those in use when they come home.

        Raises `ConfigurationError` for sizes that make no sense.
        """
        least = self.limits.min_size if min_size is None else min_size
        most = self.limits.max_size if max_size is None else max_size
        whole = type(least) is int and type(most) is int
        if not whole or not 0 <= least <= most or most < 1:
            raise errors.ConfigurationError(
                f"min_size={least!r} and max_size={most!r} make no pool",
                hint="whole numbers, 0 <= min_size <= max_size, and 1 <= max_size",
            )
        self.limits = replace(self.limits, min_size=least, max_size=most)
        self._keeper.shrink()
        self._keeper.nudge()

    def suspend(self) -> None:
        """Lend nothing until `resume()`; callers queue, each for no longer than its time."""
        self.suspended = True

    def resume(self) -> None:
        """Lend again, to those who queued first."""
        self.suspended = False
        self._keeper.nudge()

    def doubt(self) -> None:
        """Ask every idle connection before lending it, after one was found dead: the server may have restarted."""
        self._keeper.doubt()

    async def dispose(self) -> None:
        """Lend no more, and close what idles now and what is in use when it comes home."""
        self.closed = True
        self.line.refuse_all(Refusal.CLOSED)
        await self._keeper.close_idle()

    async def stop(self, deadline: float = 10.0) -> int:
        """Refuse new work, let those who hold connections finish, close all; return within `deadline` seconds.

        The last quarter of it, a second at most, is for closing; connections still held by then are ended under their
        holders. Gives how many those were.
        """
        self.closed = True
        self.line.refuse_all(Refusal.CLOSED)
        return await self._keeper.finish(deadline)

    def abandon(self) -> None:
        """Forget every connection without touching a socket: they belong to another process or a loop that is gone."""
        self.closed = True
        if not self.loop.is_closed():  # who waited on a loop that is closed is gone, and cannot be called
            self.line.refuse_all(Refusal.CLOSED)
        for slot in self.slots:
            slot.state = State.ENDED if slot.state is State.HELD else State.GONE
        self.slots.clear()
        self.idle.clear()
        self._keeper.abandon()
