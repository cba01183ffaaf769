"""What happens when an engine connects, lends a connection, or fails."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from pulsepool.alchemy.pool import GatedPool, Unanswered
from pulsepool.diagnosis import sqlstate_of, unavailable
from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError, DatabaseUnavailable, PulsePoolError
from pulsepool.settings import DatabaseSettings

VALIDATION_TIMEOUT = 1.0
"""Seconds that an idle asyncpg connection has to answer `SELECT 1` before it is taken for dead."""

ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError)
"""What asyncpg itself raises; SQLAlchemy before 2.1 lets it through at connect."""

COMMITTING = "pulsepool: committing"
"""In a connection's `info`: whether the last of BEGIN, COMMIT and ROLLBACK that it was asked for is COMMIT."""

IN_COMMIT = "_pulsepool_in_commit"
"""The attribute of an error that carries the answer to `was_in_commit`."""

TRY_AGAIN = "that transaction is undone; try it again"

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
    async def ask() -> str:
        async with asyncio.timeout(limit):
            # In a thread, as a plain callable may read a file or call a service; of its own, as asyncio's are shared.
            with _own_thread() as thread:
                answer = await asyncio.get_running_loop().run_in_executor(thread, password)
            return _text(await answer if inspect.isawaitable(answer) else answer)

    with _blamed_on_the_callable():
        return await_only(ask())


def _ask_in_a_thread(password: Callable[[], Any], limit: float) -> str:
    async def ask() -> str:
        answer = password()
        return _text(await answer if inspect.isawaitable(answer) else answer)

    # In a thread of its own, whose loop an async callable can have: this thread's may be running.
    with _blamed_on_the_callable(), _own_thread() as thread:
        return thread.submit(asyncio.run, ask()).result(limit)


@contextlib.contextmanager
def _own_thread() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(1, thread_name_prefix="pulsepool: password")
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)


def _text(answer: Any) -> str:
    if isinstance(answer, SecretStr):
        return answer.get_secret_value()
    if isinstance(answer, str):
        return answer
    raise ConfigurationError(f"the password callable gave {type(answer).__name__}", hint="it has to give text")


@contextlib.contextmanager
def _blamed_on_the_callable() -> Iterator[None]:
    """Say that the password callable failed, and how, but not what it said: that could be a secret."""
    try:
        yield
    except PulsePoolError:
        raise
    except Exception as error:  # noqa: BLE001 - it is somebody else's code
        how = "gave nothing in time" if isinstance(error, TimeoutError) else f"raised {type(error).__name__}"
    else:
        return
    raise DatabaseUnavailable(
        f"no password for a new connection: the callable {how}", hint="mend the callable given as `password`"
    )


def on_failure(engine: Engine, dsn: Dsn) -> None:
    """Recognise a connection that is of no use any more, and whether it was lost in COMMIT.

    It condemns itself alone, not the healthy ones.
    """

    @event.listens_for(engine, "begin")
    @event.listens_for(engine, "rollback")
    def not_committing(connection: Connection) -> None:
        if not connection.invalidated:  # else asking for `info` would reconnect, and be refused while rolling back
            connection.info[COMMITTING] = False

    @event.listens_for(engine, "commit")
    def committing(connection: Connection) -> None:
        connection.info[COMMITTING] = True

    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> DatabaseUnavailable | None:
        error = context.original_exception
        context.invalidate_pool_on_disconnect = False
        if isinstance(error, PulsePoolError):
            return None
        silence = None
        if isinstance(error, OSError):  # TimeoutError among them: the driver gave up waiting for an answer
            context.is_disconnect = True
            _end_at_once(context)
            silence = Unanswered(f"the server at {dsn.where} stopped answering", hint=TRY_AGAIN)
        elif (sqlstate_of(error) or "").startswith(LOST):
            context.is_disconnect = True
        if context.is_disconnect and context.statement is None and context.connection is not None:
            failure = silence or context.sqlalchemy_exception
            if failure is not None:  # None for a cancellation, which passes as it is
                setattr(failure, IN_COMMIT, context.connection.info.get(COMMITTING, False))
        return silence


def was_in_commit(error: BaseException) -> bool:
    """Whether `error` tells of a connection that was lost, or fell silent, while COMMIT was under way."""
    return bool(getattr(error, IN_COMMIT, False))


def _end_at_once(context: ExceptionContext) -> None:
    """SQLAlchemy's invalidating says good-bye first, and waits two seconds for a server that is silent."""
    if context.connection is not None:
        terminate = getattr(context.connection.connection.driver_connection, "terminate", None)
        if terminate is not None:
            terminate()


def on_lending(engine: Engine, validate_after: float) -> None:
    """Lend no connection that is known to be closed, and ask one that idled for `validate_after` seconds."""
    gate = GatedPool.of(engine).gate
    ask = _ask_asyncpg if engine.dialect.is_async else engine.dialect.do_ping

    @event.listens_for(engine, "connect")
    def arrives(_: Any, record: ConnectionPoolEntry) -> None:
        with gate.lock:
            gate.opened.add(record.driver_connection)

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
