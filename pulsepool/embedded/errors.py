"""The one error of this room, with what the server itself last said."""

from pulsepool.errors import PulsePoolError


class EmbeddedServerError(PulsePoolError):
    """The embedded server did not do what was asked: it did not start, did not stop, or refused a statement.

    `log`: the last lines of the server's log, or of the failing program's output; "" when it said nothing.
    """

    __module__ = "pulsepool.embedded"

    def __init__(self, message: str, *, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log

    def __str__(self) -> str:
        return "\n  log: ".join([super().__str__(), *self.log.splitlines()])
