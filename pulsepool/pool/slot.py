"""One connection's life."""

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pulsepool.pool.policy import Wear, may_change_session, ruins_statements

if TYPE_CHECKING:
    from pulsepool.pool.core import Core

C = TypeVar("C")


class State(Enum):
    """Where a connection is; in exactly one of these places at any time."""

    IDLE = "idle"
    HELD = "in use"
    KEPT = "with the keeper"  # being asked or restored
    LEAVING = "being closed"
    ENDED = "ended under its holder"  # who has yet to release it
    GONE = "gone"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Slot(Generic[C]):
    """A place in the pool and the connection in it. Times are seconds on the event loop's clock.

    `used`: when a caller last had it; `heard`: when its server was last heard of; `condemned`: not to be lent again;
    `changed`: lent raw, or given a statement that may have left something in its session; `doubtful`: a
    statement was cancelled on it, so that a late cancel may still be on its way; `mode`: what its
    session was set to by those who use it ("" at first), so that the next one of the same kind gets it; `watched`: its
    driver says by itself when it dies; `dead`: it has said so, and the holder does not know yet.
    """

    pool: "Core[C]"
    connection: C
    born: float
    lifetime: float
    used: float
    heard: float
    state: State = State.KEPT
    condemned: bool = False
    changed: bool = False
    doubtful: bool = False
    mode: str = ""
    acquired: float = 0.0
    holder: "asyncio.Task[Any] | None" = None
    place: str = ""
    reported: bool = False
    watched: bool = False
    dead: bool = False

    def asked(self, statement: str) -> None:
        """Note what `statement` may leave behind, before it is sent."""
        if may_change_session(statement):
            self.changed = True
            if ruins_statements(statement):
                self.condemned = True

    @property
    def wear(self) -> Wear:
        """What it has been through, for the policy."""
        return Wear(self.born, self.lifetime, self.used, self.heard)
