"""The one hierarchy of errors, by what the caller can do; each with a hint.

An error's text is for the person who reads it at 3 a.m.: what happened, with its numbers, and then the remedy.
It never holds a password: whoever makes one passes text that has been through `Dsn`.
"""


class PulsePoolError(Exception):
    """The base of all that pulsepool raises on purpose.

    `message`: what happened, one line. `hint`: the remedy, or "" when there is none to give.
    """

    __module__ = "pulsepool"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __init_subclass__(cls) -> None:
        """Show the name that people import, `pulsepool.PoolTimeout`, in tracebacks."""
        if cls.__module__ == __name__:
            cls.__module__ = "pulsepool"

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigurationError(PulsePoolError, ValueError):
    """A setting or an address is wrong. Mend it; trying again will not help."""


class PoolClosed(PulsePoolError):
    """A session was asked for before `start()`, or a connection after `stop()`."""


class PoolTimeout(PulsePoolError, TimeoutError):
    """No connection became free within `acquire_timeout`. Retry later, or answer 503."""


class DatabaseUnavailable(PulsePoolError, ConnectionError):
    """The server cannot be reached, refuses this user, or went away. Retry later, or answer 503.

    `sqlstate`: the server's five-character code when it was the server that refused (`28P01` wrong password,
    `3D000` no such database, `53300` too many clients), else None.
    """

    sqlstate: str | None = None


class StatementTimeout(PulsePoolError, TimeoutError):
    """A statement took longer than its `timeout`, and was cancelled. One that writes may have happened or not."""


class CommitUnknown(PulsePoolError):
    """The connection was lost while COMMIT was under way, so the transaction may or may not have happened.

    Do not simply retry: look whether the work is there first.
    """


class WrongLoop(PulsePoolError, RuntimeError):
    """A database was used from another event loop than the one that it was started on."""


class NotHeld(PulsePoolError, RuntimeError):
    """A connection was released twice, to a pool that is not its own, or used after it was released."""


class BlockedLoop(PulsePoolError):
    """Synchronous database work was asked for on a running event loop, where it would stall every other task."""
