"""A driver's connection on loan."""

import itertools
from functools import partial
from inspect import ismethod
from typing import Any

from asyncpg.connection import _ConnectionProxy

from pulsepool.alchemy import Record
from pulsepool.errors import NotHeld
from pulsepool.pool import Slot

CHANGES_CODECS = ("set_type_codec", "set_builtin_type_codec", "reset_type_codec")
"""What no reset undoes: a connection that was asked for one of these is not lent again."""

CALLBACKS = ("_listeners", "_log_listeners", "_query_loggers")
"""Where the driver keeps who is to be called, beside those who wait for its end: one of them is the pool."""

ENDINGS = "_termination_listeners"

MARK = "_pool_release_ctr"
"""The driver's mark of a loan, by which what was made in one refuses to outlive it; put back after the loan, as
SQLAlchemy's prepared statements on the same connection bear the old one."""

_LOANS = itertools.count(1)


class LentConnection(_ConnectionProxy):  # asyncpg's mark for what stands for a connection of its own
    """Everything that the driver's connection is and does, for as long as the loan lasts; then `NotHeld`.

    The driver's statements, cursors and transactions that were made in the loan refuse to go on after it, with an
    `asyncpg.InterfaceError`.
    """

    __slots__ = ("_before", "_slot", "_waiting_for_its_end")

    def __init__(self, slot: Slot[Record]) -> None:
        self._slot: Slot[Record] | None = slot
        self._before: int = getattr(slot.connection.driver, MARK)
        setattr(slot.connection.driver, MARK, next(_LOANS))
        self._waiting_for_its_end = set(getattr(slot.connection.driver, ENDINGS))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._held(name).connection.driver, name)
        return partial(self._call, found) if ismethod(found) else found

    def _call(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        slot = self._held(method.__name__)
        if method.__name__ in CHANGES_CODECS:
            slot.condemned = True
        elif args and isinstance(args[0], str):
            slot.asked(args[0])  # the loan ends with a reset in any case, which does not bring back what was forgotten
        return method(*args, **kwargs)

    def _held(self, name: str) -> Slot[Record]:
        if self._slot is None:
            raise NotHeld(
                f"{name!r} of a connection was used after it went back to its pool",
                hint="use it inside its `async with database.connection()` block alone",
            )
        return self._slot

    def __repr__(self) -> str:
        shown = "returned" if self._slot is None else repr(self._slot.connection.driver)
        return f"<LentConnection {shown}>"

    def end(self) -> None:
        """The loan is over, and nobody is called any more."""
        if self._slot is not None:
            driver, self._slot = self._slot.connection.driver, None
            setattr(driver, MARK, self._before)
            for callbacks in CALLBACKS:
                getattr(driver, callbacks).clear()
            getattr(driver, ENDINGS).intersection_update(self._waiting_for_its_end)
