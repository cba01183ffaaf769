"""What a driver's error on the lane means: which of ours, if any, stands for it."""

import re
from typing import Any

import asyncpg

from pulsepool.diagnosis import first_line, sqlstate_of
from pulsepool.errors import CommitUnknown, DatabaseUnavailable, PulsePoolError, StatementTimeout

LOST = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs, or their class, after which a connection is of no use (HikariCP's list)."""

READS = re.compile(r"\s*(select|show|values|table)\b(?!.*\binto\b)[^;]*;?\s*\Z", re.IGNORECASE | re.DOTALL)
"""Single statements that are done again without a second thought, unless they call a function that writes."""


def typed(error: Exception, driver: Any, query: str, timeout: float | None = None) -> PulsePoolError | None:
    """Say what a lost connection, or the end of `timeout`, means for `query`; None for an error of another meaning.

    A statement of the lane commits by itself, so one that may write is in doubt once it was sent; asyncpg's
    `InterfaceError` is the driver refusing to send it. An `OSError` of a connection that lives is of somebody else: of
    the file that a COPY reads, say.
    """
    if isinstance(error, TimeoutError) and not isinstance(error, PulsePoolError) and not driver.is_closed():
        limit = "the time it may take" if timeout is None else f"{timeout:g} s"
        doubt = "" if READS.match(query) else "; look whether it happened before doing it again"
        return StatementTimeout(
            f"no answer within {limit}, and the statement was cancelled", hint=f"give it a longer timeout{doubt}"
        )
    unsent = isinstance(error, asyncpg.InterfaceError)
    if unsent and not driver.is_closed():
        return None
    if unsent and isinstance(error.__context__, Exception) and _lost(error.__context__, driver):
        error, unsent = error.__context__, False  # asyncpg's transaction() stumbles over what ended it, and hides that
    if not unsent and not _lost(error, driver):
        return None
    what = first_line(str(error)) or type(error).__name__
    if unsent or READS.match(query):
        hint = "nothing was sent" if unsent else "it read, and changed nothing unless it called a function that writes"
        failure = DatabaseUnavailable(f"the connection was lost ({what})", hint=f"{hint}; try it again")
        failure.sqlstate = sqlstate_of(error)
        return failure
    return CommitUnknown(
        f"the connection was lost while a statement was under way ({what}): it may or may not have happened",
        hint="look whether the work is there before doing it again",
    )


def _lost(error: Exception, driver: Any) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, TimeoutError) and bool(driver.is_closed())
    if isinstance(error, asyncpg.InternalClientError):  # of a driver that was in the midst of something else
        return bool(driver.is_closed())
    return (sqlstate_of(error) or "").startswith(LOST)
