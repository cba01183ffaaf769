"""What a pool asks of a driver."""

from collections.abc import Callable
from typing import Protocol, TypeVar

C = TypeVar("C")


class Driver(Protocol[C]):
    """Opens, judges, mends and ends connections of one kind; the pool sets every time limit.

    Each coroutine may be cancelled when its time is over; the pool then calls `terminate`. A callback that raises is
    taken as a connection that is lost.
    """

    async def connect(self) -> C:
        """Open a connection. What it raises is what callers get to see, chained."""
        ...

    def is_closed(self, connection: C) -> bool:
        """Whether it is known, without asking the server, to be of no use any more."""
        ...

    def is_clean(self, connection: C) -> bool:
        """Whether it can be lent to the next one as it is: open, outside a transaction, no statement under way."""
        ...

    async def ping(self, connection: C) -> None:
        """Ask the server for an answer; raise when there is none."""
        ...

    async def restore(self, connection: C, *, full: bool) -> None:
        """Wait for a cancelled statement's end and roll back; `full`: undo what was changed in the session, too."""
        ...

    async def cancel(self, connection: C) -> None:
        """Have the server give up the statement that is under way, if there is one, beside its holder who waits."""
        ...

    async def close(self, connection: C) -> None:
        """Say good-bye and close."""
        ...

    def terminate(self, connection: C) -> None:
        """Close at once, without a word."""
        ...

    def watch(self, connection: C, died: Callable[[], None]) -> bool:
        """Call `died` as soon as the other side closes an idle connection; False when the driver cannot tell.

        Those that cannot be watched are asked `is_closed` each time before they are lent.
        """
        ...

    def is_final(self, error: BaseException) -> bool:
        """Whether what `connect` raised is not mended by trying again: a wrong password, a bug in a callback."""
        ...
