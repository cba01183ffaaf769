"""pulsepool in a FastAPI application: the lifespan, the dependencies, and errors that a client understands.

`SessionDep` ends its unit of work before the response is sent, so that no client reads 200 for a commit that failed.
"""

import functools
import inspect
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import CodeType, FrameType
from typing import Annotated, Any

try:
    import fastapi.routing
except ImportError as error:
    raise ImportError("pulsepool.fastapi needs FastAPI: pip install 'pulsepool[fastapi]'") from error
import asyncpg
from fastapi import Depends, FastAPI, WebSocket, status
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulsepool.database import Database
from pulsepool.diagnosis import sqlstate_of
from pulsepool.errors import (
    CommitUnknown,
    ConfigurationError,
    DatabaseUnavailable,
    PoolClosed,
    PoolTimeout,
    PulsePoolError,
    StatementTimeout,
)

logger = logging.getLogger("pulsepool.fastapi")

RETRY_AFTER = 2
"""Seconds that a refused client is asked to wait: the server of a crash test accepts again after one."""

FOR_NOW = ("25006", "40001", "40P01", "53", "55P03", "57014", "57P05", "58030")
"""SQLSTATEs, or their class, of a server that will not do it now: read-only, in conflict, out of room, locked, slow."""

READ_ONLY = "25006"
"""The SQLSTATE of a write where nothing may be written."""

BUSY = "The service is busy. Try again in a moment."
DOWN = "The service cannot reach its database. Try again in a moment."
UNKNOWN = "The outcome of this request is not known. Look whether it was done before sending it again."


def install(app: FastAPI, db: Database, *, stop_deadline: float = 10.0) -> None:
    """Start and stop `db` with `app`, around the lifespan that it has, and answer database trouble as problem+json.

    `PoolTimeout`, `StatementTimeout`, `PoolClosed` and `DatabaseUnavailable` become 503 with `Retry-After`,
    `CommitUnknown` becomes 500; what happened goes to the log and not to the client. 503 is also the answer for a
    server that is read-only, out of room, locked or too slow, and for a serialization failure (`FOR_NOW`), unless the
    application has a handler of its own for such errors; all others stay the application's. A database that is wrong at
    start ends the start with one line instead of a traceback, unless `app.debug`. Stopping takes `stop_deadline`
    seconds at most. Call it once, before the application starts.
    """
    app.state.pulsepool = db
    app.router.lifespan_context = _lifespan_around(app, db, stop_deadline)
    for trouble in (PoolTimeout, StatementTimeout, PoolClosed, DatabaseUnavailable, CommitUnknown):
        app.add_exception_handler(trouble, _refuse)
    for refused in (DBAPIError, asyncpg.PostgresError):
        app.exception_handlers.setdefault(refused, _refuse_for_now)
    app.add_middleware(PlainStartup)


def _lifespan_around(app: FastAPI, db: Database, stop_deadline: float) -> Any:
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with db.running(stop_deadline), inner(app) as state:
            yield state

    return lifespan


async def _database(connection: HTTPConnection) -> Database:
    # No plain `def`: FastAPI would call that in a worker thread, and have each request wait for a free one.
    db = getattr(connection.app.state, "pulsepool", None)
    if not isinstance(db, Database):
        raise PoolClosed("this application has no database", hint="call pulsepool.fastapi.install(app, db)")
    return db


DatabaseDep = Annotated[Database, Depends(_database)]
"""The `Database` that was given to `install`."""


async def _session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    # The database is not asked for as a dependency of its own: FastAPI takes its time to solve each.
    async with (await _database(connection)).session() as session:
        yield session
        if (code := _status_to_send(connection)) is not None and code >= 400:
            await session.rollback()


SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
"""A session for this request, in one transaction, which ends before the response is sent.

Committed when the response says 1xx to 3xx. Rolled back when the endpoint raises, `HTTPException` too, and when it
*returns* a response of 400 or more: an answer that says no must not leave half of the work behind.
A streamed body runs after the session has ended and needs one of its own, `db.session()`.
"""


async def _reading_session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    try:
        async with (await _database(connection)).read() as session:
            yield session
    except DBAPIError as error:
        if sqlstate_of(error.orig) == READ_ONLY:
            mistake = ConfigurationError("a write was tried through ReadDep", hint="use SessionDep here")
            logger.warning("%s: %s", connection.url.path, mistake)
            raise mistake from error
        raise


ReadDep = Annotated[AsyncSession, Depends(_reading_session, scope="function")]
"""A session for this request that only reads, as of `Database.read()`, closed before the response is sent.

A write is refused by the server, and answered as the mistake that it is: 500, and a line in the log with the remedy.
With a `SessionDep` beside it a request holds two connections, and this one does not see what that one has not yet
committed.
"""


def _status_to_send(connection: HTTPConnection) -> int | None:
    """The status of the response that FastAPI has ready while it ends this request's function-scoped dependencies.

    FastAPI shows a dependency only the status that was set on an injected `Response`, not the response that an
    endpoint returned. But the frame that ends us, in `fastapi.routing`, holds it in a local named `response`
    (seen in twenty versions from 0.121.1 to 0.165). None for a websocket, which has no response.
    """
    if connection.scope["type"] != "http":
        return None
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - documented, for exactly this: looking at callers
    while frame is not None:
        if _may_hold_the_response(frame.f_code):
            response = frame.f_locals.get("response")
            if isinstance(response, Response):
                return response.status_code
        frame = frame.f_back
    _warn_once_that_returned_errors_commit()
    return None


@functools.cache
def _may_hold_the_response(code: CodeType) -> bool:
    """Whether it is a function of `fastapi.routing` with such a local: looking at a frame's locals copies them all."""
    names = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
    return code.co_filename == fastapi.routing.__file__ and "response" in names


@functools.cache
def _warn_once_that_returned_errors_commit() -> None:
    logger.warning(
        "this FastAPI (%s) does not show the response that an endpoint returned: one of 400 or more commits; "
        "raise HTTPException to roll back",
        fastapi.__version__,
    )


async def _refuse(connection: Any, error: Exception) -> Any:
    """Tell the client when to come back, and the log what happened. `connection`: a `Request` or a `WebSocket`."""
    method = connection.scope.get("method", "websocket")
    logger.error("%s %s: %s: %s", method, connection.url.path, type(error).__name__, error)
    if isinstance(connection, WebSocket):
        await connection.close(status.WS_1013_TRY_AGAIN_LATER)
        return None
    if isinstance(error, CommitUnknown):
        return _problem(500, "Outcome unknown", UNKNOWN)
    busy = not isinstance(error, (DatabaseUnavailable, PoolClosed))
    return _problem(503, "Busy" if busy else "Unavailable", BUSY if busy else DOWN, {"Retry-After": str(RETRY_AFTER)})


async def _refuse_for_now(connection: Any, error: Exception) -> Any:
    """The same for a server that answers, but not with this; any other error is for whom it would have been without us.

    Starlette has looked for a handler of the error's own class already, so what is left are those of its bases.
    """
    cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
    if (sqlstate_of(cause) or "").startswith(FOR_NOW):
        return await _refuse(connection, cause)
    kind = DBAPIError if isinstance(error, DBAPIError) else asyncpg.PostgresError
    for base in kind.__mro__[1:]:
        handler = connection.app.exception_handlers.get(base)
        if handler is not None and base is not Exception:  # that one is not looked for here, but outside of all
            if inspect.iscoroutinefunction(handler):
                return await handler(connection, error)
            return await run_in_threadpool(handler, connection, error)
    raise error


def _problem(code: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """RFC 9457's body; nothing in it that a stranger may not know."""
    body = {"type": "about:blank", "title": title, "status": code, "detail": detail}
    return JSONResponse(body, code, {"Cache-Control": "no-store", **(headers or {})}, "application/problem+json")


class PlainStartup:
    """ASGI middleware: a start that fails for a known reason says so in one line, not with a traceback.

    Starlette reports a failed lifespan with the whole traceback as its message; a server logs that message and exits
    with an error. The message is exchanged for the error's own words, unless `app.debug`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but the report of a failed start."""
        if scope["type"] != "lifespan" or scope["app"].debug:
            await self.app(scope, receive, send)
            return
        reported = False

        async def plainly(message: Message) -> None:
            nonlocal reported
            error = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(error, PulsePoolError):
                reported = True
                message = {**message, "message": f"{type(error).__module__}.{type(error).__name__}: {error}"}
            await send(message)

        try:
            await self.app(scope, receive, plainly)
        except PulsePoolError:
            if not reported:
                raise
