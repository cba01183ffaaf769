"""Logs as JSON, one line per event, on standard error: what a command prints on standard output stays its own."""

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType

SERVER = ("uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers that uvicorn gives handlers of their own when it starts."""

QUIET = (
    "httpx2",  # these two write down the address of every request, with whatever key is in it
    "httpcore2",
    "alembic.runtime.plugins",  # these two say at every start and stop what nobody needs to know
    "pulsepool.alchemy",
)
"""Loggers that are heard from WARNING on."""


def setup_logging(level: str = "INFO") -> None:
    """Send every log record of at least `level`, uvicorn's too, to standard error as a line of JSON.

    Takes the place of all earlier handlers of the root logger; doing it twice is no error. Call it after uvicorn has
    been configured, from the application's module or its lifespan. Raises `ValueError` for a level that does not exist.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in SERVER:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """`timestamp` (UTC, ISO 8601, microseconds), `level`, `logger`, `message`; with an exception also `exception`.

    The exception is its kind, the first line of its text and the place it came from; its whole traceback only when the
    root logger is at DEBUG, as the texts of all the errors along a traceback are nobody's to vouch for.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII, whatever is in it."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        if record.exc_info and (error := record.exc_info[1]) is not None:
            whole = logging.getLogger().isEnabledFor(logging.DEBUG)
            line["exception"] = "".join(traceback.format_exception(error)) if whole else _summary(error)
        return json.dumps(line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - logging would print a traceback with the arguments instead of the line
        return f"{record.msg} ({type(error).__name__} while its arguments were put in)"


def _summary(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}{_place(error.__traceback__)}"


def _place(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return f" (in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
