"""What happens when an engine connects, lends a connection, or fails."""

import asyncio
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from pulsepool.alchemy.pool import GatedPool, Unanswered
from pulsepool.diagnosis import unavailable
from pulsepool.dsn import Dsn
from pulsepool.errors import DatabaseUnavailable, PulsePoolError
from pulsepool.settings import DatabaseSettings

VALIDATION_TIMEOUT = 1.0
"""Seconds that an idle asyncpg connection has to answer `SELECT 1` before it is taken for dead."""

ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError)
"""What asyncpg itself raises; SQLAlchemy before 2.1 lets it through at connect."""

LOST = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs, or their class, after which a connection is of no use, whatever its socket says (HikariCP's list)."""


def on_connect(engine: Engine, dsn: Dsn, settings: DatabaseSettings, limit: float) -> None:
    """Ask a callable for the password, and say in our words why a connect failed within `limit` seconds."""
    ask = _ask_on_the_loop if engine.dialect.is_async else _ask_in_a_thread

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, _: ConnectionPoolEntry, cargs: list[Any], cparams: dict[str, Any]) -> Any:
        try:
            if callable(settings.password) and not isinstance(settings.password, SecretStr):
                cparams = {**cparams, "password": ask(settings.password, limit)}
            return dialect.connect(*cargs, **cparams)
        except PulsePoolError:
            raise
        except Exception as error:  # a peer that is no PostgreSQL makes a driver stumble in any way
            raise unavailable(error, dsn, settings, limit) from error


def _ask_on_the_loop(password: Callable[[], Any], limit: float) -> str:
    """In a thread, as a plain callable may read a file or call a service; what it gives may be awaitable."""

    async def ask() -> str:
        async with asyncio.timeout(limit):
            answer = await asyncio.to_thread(password)
            return str(await answer if inspect.isawaitable(answer) else answer)

    with _blamed_on_the_callable():
        return await_only(ask())


def _ask_in_a_thread(password: Callable[[], Any], limit: float) -> str:
    """In a thread of its own, whose loop an async callable can have: this thread's may be running."""

    async def ask() -> str:
        answer = password()
        return str(await answer if inspect.isawaitable(answer) else answer)

    executor = ThreadPoolExecutor(1, thread_name_prefix="pulsepool: password")
    try:
        with _blamed_on_the_callable():
            return executor.submit(asyncio.run, ask()).result(limit)
    finally:
        executor.shutdown(wait=False)


class _blamed_on_the_callable:  # noqa: N801 - a context manager
    """Say that the password callable failed, and how, but not what it said: that could be a secret."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            how = "gave nothing in time" if isinstance(error, TimeoutError) else f"raised {type(error).__name__}"
            raise DatabaseUnavailable(
                f"no password for a new connection: the callable {how}", hint="mend the callable given as `password`"
            ) from error


def on_failure(engine: Engine, dsn: Dsn) -> None:
    """Recognise a connection that is of no use any more; it condemns itself alone, not the healthy ones."""

    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> DatabaseUnavailable | None:
        error = context.original_exception
        context.invalidate_pool_on_disconnect = False
        if isinstance(error, PulsePoolError):
            return None
        if isinstance(error, OSError):  # TimeoutError among them: the driver gave up waiting for an answer
            context.is_disconnect = True
            _end_at_once(context)
            silence = Unanswered(
                f"the server at {dsn.where} stopped answering", hint="the work is undone; try the whole of it again"
            )
            silence.statement = context.statement
            return silence
        if (getattr(error, "sqlstate", None) or "").startswith(LOST):
            context.is_disconnect = True
        return None


def _end_at_once(context: ExceptionContext) -> None:
    """SQLAlchemy's invalidating says good-bye first, and waits two seconds for a server that is silent."""
    if context.connection is not None:
        terminate = getattr(context.connection.connection.driver_connection, "terminate", None)
        if terminate is not None:
            terminate()


def on_lending(engine: Engine, validate_after: float) -> None:
    """Lend no connection that is known to be closed, and ask one that idled for `validate_after` seconds."""
    opened = GatedPool.of(engine).gate.opened
    ask = _ask_asyncpg if engine.dialect.is_async else engine.dialect.do_ping

    @event.listens_for(engine, "connect")
    def arrives(_: Any, record: ConnectionPoolEntry) -> None:
        opened.add(record.driver_connection)

    @event.listens_for(engine, "checkin")
    def comes_home(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def leaves(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        if _is_closed(record.driver_connection):
            raise DisconnectionError("the server closed this connection")
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < validate_after:
            return
        try:
            ask(connection)
        except (engine.dialect.loaded_dbapi.Error, *ASYNCPG_ERRORS, OSError) as error:
            raise DisconnectionError("this connection does not answer any more") from error


def _is_closed(driver: Any) -> bool:
    return driver is None or bool(driver.is_closed() if hasattr(driver, "is_closed") else driver.closed)


def _ask_asyncpg(connection: Any) -> None:
    driver = connection.driver_connection
    try:
        await_only(driver.execute("SELECT 1", timeout=VALIDATION_TIMEOUT))
    except BaseException:
        driver.terminate()  # at once: a polite good-bye would wait for a server that does not answer
        raise
