"""Who holds a connection: where it was acquired, and where its task is now."""

import asyncio
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import CodeType, CoroutineType, FrameType
from typing import Any

from greenlet import getcurrent
from greenlet import greenlet as Greenlet  # noqa: N812 - a class

LIBRARIES = ("pulsepool", "sqlalchemy", "asyncpg", "fastapi", "starlette", "uvicorn", "anyio", "greenlet")
"""Packages whose frames say nothing of who holds a connection, beside the standard library's."""


@cache
def _tells(file: str) -> bool:
    """Whether a file is the application's own: not of the interpreter's, and not of one of `LIBRARIES`."""
    paths = sysconfig.get_paths()
    for installed in {paths["purelib"], paths["platlib"], str(Path(__file__).parents[2])}:
        if file.startswith(installed + os.sep):
            return file[len(installed) + 1 :].split(os.sep, maxsplit=1)[0] not in LIBRARIES
    return not file.startswith((paths["stdlib"] + os.sep, "<"))


def place() -> str:
    """Where the running code of the application is: `checkout.py:88 in create`; "" when only libraries run."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the interpreter's documented way to its frames
    greenlet: Greenlet | None = getcurrent()
    while True:
        while frame is not None:
            if _tells(frame.f_code.co_filename):
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
        if (frame := awaited.cr_frame) is not None and _tells(frame.f_code.co_filename):
            found = _shown(frame.f_code, frame.f_lineno)
        awaited = awaited.cr_await
    return f"{task.get_name()}, now at {found}" if found else task.get_name()


def _shown(code: CodeType, line: int | None) -> str:
    return f"{Path(code.co_filename).name}:{line} in {code.co_name}"
