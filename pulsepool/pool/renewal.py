"""Connections past their lifetime: the new one comes first, then the old one goes, one after another."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from pulsepool.pool.connector import Connector
from pulsepool.pool.slot import Slot

if TYPE_CHECKING:
    from pulsepool.pool.core import Core

C = TypeVar("C")


class Renewal(Generic[C]):
    """Replaces the connections of `pool` for their age. `condemn`: sees to it that one is lent no more, and closed."""

    def __init__(self, pool: "Core[C]", connector: Connector[C], condemn: Callable[[Slot[C]], None]) -> None:
        self._pool = pool
        self._connector = connector
        self._condemn = condemn
        self._under_way = False

    def look(self, now: float) -> None:
        """Begin to replace the oldest one that is past its lifetime; without room for a new one, the old goes first."""
        pool = self._pool
        if self._under_way or self._expired(now) is None:
            return
        room = len(pool.slots) + self._connector.connecting < pool.limits.max_size
        # An old failure that nobody followed up must not keep the old ones for ever.
        if (outage := pool.outage) is not None and (not room or outage.final or now < outage.retry_at):
            return
        self._under_way = True
        if room:
            self._connector.connect()
        else:
            self.arrived()

    def arrived(self) -> None:
        """There is a new connection: let the oldest one go that is waiting to."""
        if self._under_way:
            self._under_way = False
            if (slot := self._expired(self._pool.loop.time())) is not None:
                self._condemn(slot)

    def failed(self) -> None:
        """There is none: all stay, until the next look."""
        self._under_way = False

    def _expired(self, now: float) -> Slot[C] | None:
        old = [slot for slot in list(self._pool.slots) if not slot.condemned and now - slot.born >= slot.lifetime]
        return min(old, key=lambda slot: slot.born + slot.lifetime, default=None)
