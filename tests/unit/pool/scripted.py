"""A driver that does what a test tells it to, and remembers what it was asked."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pulsepool.pool.policy import no_use_retrying

NEVER = float("inf")


class Refused(OSError):
    """What a server that is down says."""


class Connection:
    """`dead`: the other side is gone, as is known without asking. `trouble`: what its driver does in which callback."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = True
        self.died: Callable[[], None] | None = None
        self._dead = False
        self.clean = True
        self.full_resets = 0
        self.trouble: dict[str, float | Exception] = {}

    def __repr__(self) -> str:
        return f"<connection {self.number}>"

    @property
    def dead(self) -> bool:
        return self._dead

    @dead.setter
    def dead(self, dead: bool) -> None:
        self._dead = dead
        if dead and self.died is not None:
            self.died()


@dataclass
class Driver:
    """`connect_takes`: seconds; `script`: for the next connects, seconds or an error; `down`: what all others meet."""

    connect_takes: float = 0.01
    down: Exception | None = None
    script: deque[float | Exception] = field(default_factory=deque)
    connections: list[Connection] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    connecting: int = 0
    most: int = 0
    sqlstates: dict[str, str] = field(default_factory=dict)
    broken_sqlstate: bool = False
    watches: bool = False

    @property
    def open(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.open]

    async def connect(self) -> Connection:
        self.calls["connect"] += 1
        self.connecting += 1
        self.most = max(self.most, self.connecting + len(self.open))
        try:
            step = self.script.popleft() if self.script else (self.down or self.connect_takes)
            await asyncio.sleep(self.connect_takes if isinstance(step, Exception) else min(step, 1e6))
        except asyncio.CancelledError:
            self.calls["connect cancelled"] += 1
            raise
        else:
            if isinstance(step, Exception):
                raise step
            connection = Connection(len(self.connections) + 1)
            self.connections.append(connection)
            return connection
        finally:
            self.connecting -= 1

    def is_closed(self, connection: Connection) -> bool:
        self._misbehave("is_closed", connection)
        return connection.dead or not connection.open

    def is_clean(self, connection: Connection) -> bool:
        self._misbehave("is_clean", connection)
        return connection.clean and connection.open and not connection.dead

    async def ping(self, connection: Connection) -> None:
        self.calls["ping"] += 1
        await self._takes("ping", connection)

    async def restore(self, connection: Connection, *, full: bool) -> None:
        self.calls["restore"] += 1
        await self._takes("restore", connection)
        connection.clean = True
        connection.full_resets += full

    async def cancel(self, connection: Connection) -> None:
        self.calls["cancel"] += 1
        await self._takes("cancel", connection)

    async def close(self, connection: Connection) -> None:
        self.calls["close"] += 1
        await self._takes("close", connection)
        connection.open = False

    def terminate(self, connection: Connection) -> None:
        self.calls["terminate"] += 1
        connection.open = False
        self._misbehave("terminate", connection)

    def watch(self, connection: Connection, died: Callable[[], None]) -> bool:
        if self.watches:
            connection.died = died
        return self.watches

    def is_final(self, error: BaseException) -> bool:
        if self.broken_sqlstate:
            raise ZeroDivisionError
        return no_use_retrying(self.sqlstates.get(str(error)))

    def _misbehave(self, callback: str, connection: Connection) -> None:
        if isinstance(trouble := connection.trouble.get(callback), Exception):
            raise trouble

    async def _takes(self, callback: str, connection: Connection) -> None:
        self._misbehave(callback, connection)
        trouble = connection.trouble.get(callback, 0.001)
        await asyncio.sleep(min(trouble, 1e6) if isinstance(trouble, float) else 0)
        if connection.dead:
            raise Refused("gone")
