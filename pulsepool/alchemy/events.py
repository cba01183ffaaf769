"""What happens when an engine connects, lends a connection, or fails."""

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, cast

from pydantic import SecretStr
from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only

from pulsepool.alchemy.errors import Unanswered
from pulsepool.alchemy.gated import GatedPool
from pulsepool.diagnosis import sqlstate_of, unavailable
from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError, DatabaseUnavailable, PulsePoolError
from pulsepool.pool.policy import may_change_session
from pulsepool.settings import DatabaseSettings

COMMITTING = "pulsepool: committing"
"""In a connection's `info` while COMMIT is under way, and until its failure has been judged."""

IN_COMMIT = "_pulsepool_in_commit"
"""The attribute of an error that carries the answer to `was_in_commit`."""

TRY_AGAIN = "that transaction is undone; try it again"

LOST = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs, or their class, after which a connection is of no use, whatever its socket says (HikariCP's list)."""


CANCELLED = "57014"
"""The SQLSTATE of a statement that somebody cancelled."""


def on_connect(engine: Engine, dsn: Dsn, settings: DatabaseSettings, limit: float) -> None:
    """Ask a callable for the password, and say in our words why a connect failed within `limit` seconds."""
    ask = _ask_on_the_loop if engine.dialect.is_async else _ask_in_a_thread

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, _: ConnectionPoolEntry, cargs: list[Any], cparams: dict[str, Any]) -> Any:
        started = time.monotonic()
        try:
            if callable(settings.password) and not isinstance(settings.password, SecretStr):
                cparams = {**cparams, "password": ask(settings.password, limit)}
                if "timeout" in cparams:  # asyncpg's; what the callable took is no time for the connect
                    cparams["timeout"] = max(limit - (time.monotonic() - started), 0.001)
            return dialect.connect(*cargs, **cparams)
        except PulsePoolError:
            raise
        except Exception as error:  # a peer that is no PostgreSQL makes a driver stumble in any way
            raise unavailable(error, dsn, settings, limit) from error


def _ask_on_the_loop(password: Callable[[], Any], limit: float) -> str:
    async def ask() -> str:
        async with asyncio.timeout(limit):
            # In a thread, as a plain callable may read a file or call a service; of its own, as asyncio's are shared.
            answer = await asyncio.wrap_future(_in_own_thread(password))
            return _text(await answer if inspect.isawaitable(answer) else answer)

    with _blamed_on_the_callable():
        return await_only(ask())


def _ask_in_a_thread(password: Callable[[], Any], limit: float) -> str:
    async def ask() -> str:
        answer = password()
        return _text(await answer if inspect.isawaitable(answer) else answer)

    # In a thread of its own, whose loop an async callable can have: this thread's may be running.
    with _blamed_on_the_callable():
        return cast("str", _in_own_thread(lambda: asyncio.run(ask())).result(limit))


def _in_own_thread(call: Callable[[], Any]) -> "Future[Any]":
    """Call it in a thread of its own, which holds up nobody's end when the call never comes back."""
    future: Future[Any] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - for the other thread to see
            future.set_exception(error)

    threading.Thread(target=run, name="pulsepool: password", daemon=True).start()
    return future


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
    commit = engine.dialect.do_commit

    # In place of the engine's events `begin`, `commit` and `rollback`: with any listener, an engine dispatches all.
    def do_commit(connection: PoolProxiedConnection) -> None:
        connection.info[COMMITTING] = True
        commit(connection)
        del connection.info[COMMITTING]

    engine.dialect.do_commit = do_commit  # type: ignore[assignment, method-assign]

    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> DatabaseUnavailable | None:
        error = context.original_exception
        context.invalidate_pool_on_disconnect = False
        connection = context.connection
        in_commit = connection is not None and not connection.invalidated and connection.info.pop(COMMITTING, False)
        if isinstance(error, PulsePoolError):
            return None
        silence = None
        if isinstance(error, OSError):  # TimeoutError among them: the driver gave up waiting for an answer
            context.is_disconnect = True
            _end_at_once(context)
            silence = Unanswered(f"the server at {dsn.where} stopped answering", hint=TRY_AGAIN)
        elif (sqlstate_of(error) or "").startswith(LOST) or _was_cut_off(context, error):
            context.is_disconnect = True
        failure = silence or context.sqlalchemy_exception
        if context.is_disconnect and in_commit and failure is not None:  # None for a cancellation: it passes as it is
            setattr(failure, IN_COMMIT, True)
        return silence


def note_statements(engine: Engine) -> None:
    """Have a connection reset at its return that was given a statement which may leave something in its session.

    The direct lane uses the same connections, and expects nothing of the kind on them.
    """
    execute = engine.dialect.do_execute

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if may_change_session(statement) and context is not None:
            record = context.root_connection.connection._connection_record
            if record is not None:  # None for one that was detached, which comes home to nobody
                record.slot.asked(statement)
        execute(cursor, statement, parameters, context)

    engine.dialect.do_execute = do_execute  # type: ignore[method-assign]


def _was_cut_off(context: ExceptionContext, error: BaseException) -> bool:
    """Whether the statement was cancelled because its pool stops: the connection goes, too."""
    if sqlstate_of(error) != CANCELLED or context.connection is None or context.connection.invalidated:
        return False
    slot = getattr(context.connection.connection._connection_record, "slot", None)
    return slot is not None and bool(slot.pool.closed)


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
    """Lend no synchronous connection that is known to be closed; ask one that idled for `validate_after` seconds."""
    gate = GatedPool.of(engine).gate

    @event.listens_for(engine, "connect")
    def arrives(_: Any, record: ConnectionPoolEntry) -> None:
        with gate.lock:
            gate.opened.add(record.driver_connection)

    @event.listens_for(engine, "checkin")
    def comes_home(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def leaves(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        driver = record.driver_connection
        if driver is None or driver.closed:
            raise DisconnectionError("the server closed this connection")
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < validate_after:
            return
        try:
            engine.dialect.do_ping(connection)
        except (engine.dialect.loaded_dbapi.Error, OSError) as error:
            raise DisconnectionError("this connection does not answer any more") from error
