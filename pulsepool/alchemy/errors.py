"""Errors that are SQLAlchemy's as well as ours, and one that only this room needs to know."""

from typing import Any

from sqlalchemy.exc import TimeoutError as AlchemyTimeout

from pulsepool import errors


class PoolTimeout(errors.PoolTimeout, AlchemyTimeout):
    """`pulsepool.PoolTimeout`, which an `except sqlalchemy.exc.TimeoutError` written for another pool still catches."""

    __module__ = "pulsepool"
    code = "3o7r"  # SQLAlchemy's for a full pool

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the public class, whose name this one bears."""
        return errors.PoolTimeout, (self.message,), {"hint": self.hint}


class Unanswered(errors.DatabaseUnavailable):
    """The server fell silent in the middle of something."""
