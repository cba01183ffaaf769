"""Who holds a connection: where it was acquired, and where its task is now."""

import asyncio
import sys
from pathlib import Path
from types import CodeType, CoroutineType, FrameType
from typing import Any

from greenlet import getcurrent
from greenlet import greenlet as Greenlet  # noqa: N812 - a class

OURS = str(Path(__file__).parents[1])
BETWEEN = (OURS, "/sqlalchemy/", "/asyncpg/", "/contextlib.py", "/asyncio/", "/fastapi/", "/starlette/", "<")
"""Parts of file names that say nothing of who holds a connection."""


def place() -> str:
    """Where the running code of the application is: `checkout.py:88 in create`; "" when only libraries run."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the interpreter's documented way to its frames
    greenlet: Greenlet | None = getcurrent()
    while True:
        while frame is not None:
            if _tells(frame.f_code):
                return _shown(frame.f_code, frame.f_lineno)
            frame = frame.f_back
        # SQLAlchemy's asyncio runs its engine in a greenlet: who called it stands in the parent.
        if (greenlet := greenlet and greenlet.parent) is None:
            return ""
        frame = greenlet.gr_frame


def whereabouts(task: "asyncio.Task[Any] | None") -> str:
    """Where a suspended task waits, in the innermost of the application's own functions; else its name."""
    if task is None:
        return "no task"
    found = ""
    awaited: Any = task.get_coro()
    while isinstance(awaited, CoroutineType):
        if (frame := awaited.cr_frame) is not None and _tells(frame.f_code):
            found = _shown(frame.f_code, frame.f_lineno)
        awaited = awaited.cr_await
    return f"{task.get_name()}, now at {found}" if found else task.get_name()


def _tells(code: CodeType) -> bool:
    return not any(part in code.co_filename for part in BETWEEN)


def _shown(code: CodeType, line: int | None) -> str:
    return f"{Path(code.co_filename).name}:{line} in {code.co_name}"
