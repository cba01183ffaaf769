"""SQLAlchemy's engines from one address, with errors that say what happened and waits that end.

The pool is SQLAlchemy's own queue, made to speak our errors, to ask a connection that idled whether it lives, and to
close. It stands behind `async_engine` and `sync_engine`: the seam at which another pool can take its place.
"""

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import asyncpg
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as AlchemyTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool
from sqlalchemy.util import await_only

from pulsepool import errors
from pulsepool.diagnosis import unavailable
from pulsepool.dsn import Dsn
from pulsepool.errors import DatabaseUnavailable, PoolClosed
from pulsepool.settings import DatabaseSettings

VALIDATION_TIMEOUT = 1.0
"""Seconds that an idle connection has to answer `SELECT 1` before it is taken for dead."""

ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError)
"""What asyncpg itself raises; SQLAlchemy before 2.1 lets it through at connect."""

LOST = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs, or their class, after which a connection is of no use, whatever its socket says (HikariCP's list)."""


class PoolTimeout(errors.PoolTimeout, AlchemyTimeout):
    """`pulsepool.PoolTimeout`, which an `except sqlalchemy.exc.TimeoutError` written for another pool still catches."""

    __module__ = "pulsepool"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the public class, whose name this one bears."""
        return errors.PoolTimeout, (self.message,), {"hint": self.hint}


@dataclass
class Gate:
    """What a pool asks before it lends a connection."""

    name: str
    settings: DatabaseSettings
    closed: bool = False
    waiting: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # the sync engine's callers are threads
    opened: WeakSet[Any] = field(default_factory=WeakSet)  # the driver's connections, to be ended at a deadline


class GatedPool(QueuePool):
    """SQLAlchemy's queue behind a `Gate`."""

    gate: Gate

    def _do_get(self) -> ConnectionPoolEntry:
        gate = self.gate
        if gate.closed:
            raise PoolClosed(f"pool {gate.name!r} is closed", hint="start the database again, or stop using it")
        full = self.checkedout() >= self.size()
        bound = gate.settings.max_waiting
        with gate.lock:
            if full and bound is not None and gate.waiting >= bound:
                raise self._timeout_error(f"turned away at once, as max_waiting={bound} callers wait already")
            gate.waiting += full
        started = time.monotonic()
        try:
            return super()._do_get()
        except PoolTimeout:
            raise
        except AlchemyTimeout:
            waited = time.monotonic() - started
        finally:
            with gate.lock:
                gate.waiting -= full
        raise self._timeout_error(f"no connection within {waited:.1f} s")

    def _timeout_error(self, happened: str) -> PoolTimeout:
        return PoolTimeout(
            f"{happened} from pool {self.gate.name!r} "
            f"({self.checkedout()} of {self.size()} in use, {self.gate.waiting} waiting)",
            hint="something holds connections for long, or max_size is too small for what is held",
        )

    def recreate(self) -> QueuePool:
        """Give the successor the same gate: a disposed pool is replaced, not reopened."""
        fresh = super().recreate()
        if isinstance(fresh, GatedPool):
            fresh.gate = self.gate
        return fresh


class AsyncGatedPool(GatedPool, AsyncAdaptedQueuePool):
    """The same for an asyncio engine."""


def build_async_engine(dsn: Dsn, settings: DatabaseSettings, gate: Gate) -> AsyncEngine:
    """An engine on asyncpg; it connects with its first use. Raises `ConfigurationError` for what asyncpg cannot do."""
    dsn = _with_session_parameters(dsn, settings)
    connect_args: dict[str, Any] = {**dsn.connect_args("asyncpg"), "timeout": settings.connect_timeout}
    if settings.statement_timeout is not None:
        # The server ends a slow statement itself; only one that says nothing at all runs into this.
        connect_args["command_timeout"] = settings.statement_timeout + settings.connect_timeout
    engine = create_async_engine(
        dsn.sqlalchemy_url("asyncpg"),
        connect_args=connect_args,
        poolclass=AsyncGatedPool,
        pool_use_lifo=True,
        **_pool_arguments(settings),
    )
    _listen(engine.sync_engine, dsn, settings, gate)
    _validate_idle(engine.sync_engine, gate, settings.validate_after)
    return engine


def build_sync_engine(dsn: Dsn, settings: DatabaseSettings, gate: Gate, driver: str) -> Engine:
    """An engine on `driver`, "psycopg" or "psycopg2", from the same address and with the same limits."""
    dsn = _with_session_parameters(dsn, settings)
    engine = create_engine(
        dsn.sqlalchemy_url(driver),
        connect_args={**dsn.connect_args(driver), "connect_timeout": math.ceil(settings.connect_timeout)},
        poolclass=GatedPool,
        pool_use_lifo=True,
        pool_pre_ping=True,
        **_pool_arguments(settings),
    )
    _listen(engine, dsn, settings, gate)
    return engine


async def close_async_engine(engine: AsyncEngine, gate: Gate, *, deadline: float) -> int:
    """Shut `gate`, wait for the connections that are lent, close all; return by `deadline` seconds from now.

    The last quarter of the time, a second at most, is for closing; connections still lent by then are ended under
    their holders. Gives how many those were.
    """
    gate.closed = True
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline
    lent_until = ends - min(1.0, deadline / 4)
    pool = _gated(engine.sync_engine)
    while pool.checkedout() and loop.time() < lent_until:  # noqa: ASYNC110 - SQLAlchemy's pool has nothing to wait for
        await asyncio.sleep(0.01)
    ended = pool.checkedout()
    if ended:
        _terminate_all(gate)
    try:
        async with asyncio.timeout_at(ends):
            await engine.dispose()
    except TimeoutError:  # a server that says nothing does not answer a good-bye either
        _terminate_all(gate)
        await engine.dispose()
    return ended


def _gated(engine: Engine) -> GatedPool:
    pool = engine.pool
    if not isinstance(pool, GatedPool):
        raise TypeError(f"{engine!r} was not built by pulsepool.alchemy")
    return pool


def _terminate_all(gate: Gate) -> None:
    for connection in list(gate.opened):
        connection.terminate()


def _pool_arguments(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.max_size,
        "max_overflow": 0,  # overflow opens and closes a connection per request under load
        "pool_timeout": settings.acquire_timeout,
        "pool_recycle": -1 if settings.max_lifetime is None else math.ceil(settings.max_lifetime),
        "hide_parameters": True,  # what people ask in an emergency department is nobody's log line
    }


def _with_session_parameters(dsn: Dsn, settings: DatabaseSettings) -> Dsn:
    """The address with what a session starts with; a setting said outright wins over it, a default does not."""
    parameters: dict[str, str] = {}
    if "application_name" in settings.model_fields_set or "application_name" not in dsn.parameters:
        parameters["application_name"] = settings.application_name
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    options = [f"-c {name}={math.ceil(seconds * 1000)}" for name, seconds in timeouts.items() if seconds is not None]
    if options:
        parameters["options"] = " ".join([dsn.parameters.get("options", ""), *options]).strip()
    return dsn.replace(**parameters)


def _listen(engine: Engine, dsn: Dsn, settings: DatabaseSettings, gate: Gate) -> None:
    _gated(engine).gate = gate
    is_async = engine.dialect.is_async

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, _: ConnectionPoolEntry, cargs: list[Any], cparams: dict[str, Any]) -> Any:
        if settings.password is not None:
            cparams["password"] = _password(settings, is_async=is_async)
        try:
            return dialect.connect(*cargs, **cparams)
        except (dialect.loaded_dbapi.Error, *ASYNCPG_ERRORS, OSError) as error:
            raise unavailable(error, dsn, connect_timeout=settings.connect_timeout) from error

    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> DatabaseUnavailable | None:
        error = context.original_exception
        if isinstance(error, DatabaseUnavailable | PoolTimeout):
            return None
        if isinstance(error, OSError):  # TimeoutError among them: the driver gave up waiting for an answer
            context.is_disconnect = True
            if (
                is_async
                and context.connection is not None
                and (driver := context.connection.connection.driver_connection)
            ):
                # At once: invalidating alone says good-bye first, and waits two seconds for a server that is silent.
                driver.terminate()
            return DatabaseUnavailable(
                f"the server at {dsn.where} stopped answering in the middle of a statement",
                hint="what the statement did is undone unless it was COMMIT; try the whole transaction again",
            )
        if (getattr(error, "sqlstate", None) or "").startswith(LOST):
            context.is_disconnect = True
        return None


def _password(settings: DatabaseSettings, *, is_async: bool) -> str:
    if not callable(settings.password):
        return settings.password.get_secret_value() if isinstance(settings.password, SecretStr) else ""
    answer = settings.password()
    if not inspect.isawaitable(answer):
        return answer

    async def within_limit(awaitable: Awaitable[str]) -> str:
        return await asyncio.wait_for(awaitable, settings.connect_timeout)

    return await_only(within_limit(answer)) if is_async else asyncio.run(within_limit(answer))


def _validate_idle(engine: Engine, gate: Gate, validate_after: float) -> None:
    """Hand out no connection that is known to be closed, and ask one that idled for `validate_after` seconds."""

    @event.listens_for(engine, "connect")
    def opened(_: Any, record: ConnectionPoolEntry) -> None:
        gate.opened.add(record.driver_connection)

    @event.listens_for(engine, "checkin")
    def came_home(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def leaves(_: Any, record: ConnectionPoolEntry, __: Any) -> None:
        connection = record.driver_connection
        idle_since = record.info.get("idle_since")
        if connection is None or connection.is_closed():
            raise DisconnectionError("the server closed this connection")
        if idle_since is None or time.monotonic() - idle_since < validate_after:
            return
        try:
            await_only(connection.execute("SELECT 1", timeout=VALIDATION_TIMEOUT))
        except (*ASYNCPG_ERRORS, OSError) as error:
            connection.terminate()  # at once: a polite good-bye would wait for a server that does not answer
            raise DisconnectionError("this connection does not answer any more") from error
