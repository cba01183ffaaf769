"""Both engines, made from one address and one set of limits, and closed by one deadline."""

import asyncio
import contextlib
import math
import os
import socket
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pulsepool.alchemy.cores import Cores
from pulsepool.alchemy.events import note_statements, on_connect, on_failure, on_lending
from pulsepool.alchemy.gated import Gate, GatedPool
from pulsepool.alchemy.limits import limits_of
from pulsepool.alchemy.own import DatabasePool, ReadingPool
from pulsepool.diagnosis import unavailable
from pulsepool.dsn import Dsn
from pulsepool.settings import DatabaseSettings

A_DAY = 86_400.0
"""Seconds; what libpq's `connect_timeout=0`, no limit, comes to here."""


def make_cores(name: str, dsn: Dsn, settings: DatabaseSettings) -> Cores:
    """What the asynchronous engine and the direct lane have their connections from."""
    return Cores(limits_of(settings, name, connect_timeout=_connect_limit(dsn, settings)))


def build_async_engine(dsn: Dsn, settings: DatabaseSettings, cores: Cores) -> AsyncEngine:
    """An engine on asyncpg; it connects with its first use. Raises `ConfigurationError` for what asyncpg cannot do."""
    limit = _connect_limit(dsn, settings)
    dsn = _with_session_parameters(dsn, settings)
    connect_args: dict[str, Any] = {**dsn.connect_args("asyncpg"), "timeout": limit}
    if settings.statement_timeout is not None:
        # The server ends a slow statement itself; only one that says nothing at all runs into this.
        connect_args["command_timeout"] = settings.statement_timeout + limit

    def explain(error: Exception) -> Exception:
        """It let us in, and was gone before the dialect's first questions."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        return unavailable(cause, dsn, settings, limit)

    engine = create_async_engine(
        dsn.sqlalchemy_url("asyncpg"),
        connect_args=connect_args,
        poolclass=DatabasePool,
        limits=cores.limits,
        cores=cores,
        explain=explain,
        hide_parameters=True,  # what people send is no line of anybody's log
    )
    on_connect(engine.sync_engine, dsn, settings, limit)
    on_failure(engine.sync_engine, dsn)
    note_statements(engine.sync_engine)
    cores.own_listeners = frozenset(engine.pool.dispatch.connect)
    return engine


def build_reading_engine(engine: AsyncEngine, cores: Cores) -> AsyncEngine:
    """A second engine on the same connections, whose sessions only read, one round trip for each statement."""
    writing = engine.sync_engine
    main: Any = writing.pool
    pool = ReadingPool(main._creator, limits=cores.limits, cores=cores, explain=main.explain, dialect=writing.dialect)
    cores.make = main._make_core
    reading = Engine(pool, writing.dialect, writing.url, hide_parameters=True)
    return AsyncEngine(reading)


def build_sync_engine(dsn: Dsn, settings: DatabaseSettings, gate: Gate, driver: str) -> Engine:
    """An engine on `driver`, "psycopg" or "psycopg2", from the same address and with the same limits."""
    limit = _connect_limit(dsn, settings)
    dsn = _with_session_parameters(dsn, settings)
    connect_args = {**dsn.connect_args(driver), "connect_timeout": math.ceil(limit)}
    engine = create_engine(
        dsn.sqlalchemy_url(driver), connect_args=connect_args, poolclass=GatedPool, **_pool_arguments(settings)
    )
    GatedPool.of(engine).gate = gate
    on_connect(engine, dsn, settings, limit)
    on_failure(engine, dsn)
    on_lending(engine, settings.validate_after)
    return engine


async def close_engines(cores: Cores, sync_engine: Engine | None, *, deadline: float) -> int:
    """Lend no more, wait for the connections that are lent, close all; return by `deadline` seconds from now.

    The last quarter of the time, a second at most, is for closing; connections still lent by then are ended under their
    holders. Gives how many those were.
    """
    cores.closed = True
    if sync_engine is None:
        return await cores.stop(deadline)
    ended = await asyncio.gather(cores.stop(deadline), _close_sync(sync_engine, deadline))
    return sum(ended)


async def _close_sync(engine: Engine, deadline: float) -> int:
    loop = asyncio.get_running_loop()
    lent_until = loop.time() + deadline - min(1.0, deadline / 4)
    pool = GatedPool.of(engine)
    pool.gate.closed = pool.retired = True
    while pool.checkedout() and loop.time() < lent_until:  # noqa: ASYNC110 - threads hold them, who set no event
        await asyncio.sleep(0.01)
    if ended := pool.checkedout():
        with pool.gate.lock:
            opened = list(pool.gate.opened)
        for connection in opened:
            _hang_up(connection)
    engine.dispose()
    return ended


def _hang_up(connection: Any) -> None:
    """Shut a libpq connection's socket: its holder, in another thread, wakes up with an error.

    Neither closing nor cancelling would do: the one is not for another thread to call, the other waits for the server,
    and holds the interpreter's lock meanwhile.
    """
    # Suppressed: it is closed already, whatever its driver raises for that.
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as shared:
        shared.shutdown(socket.SHUT_RDWR)


def _pool_arguments(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.max_size,
        "max_overflow": 0,  # overflow opens and closes a connection per request under load
        "pool_timeout": settings.acquire_timeout,
        "pool_recycle": -1 if settings.max_lifetime is None else math.ceil(settings.max_lifetime),
        "pool_use_lifo": True,  # the rest idles, and is not kept alive by taking turns
        "hide_parameters": True,  # what people send is no line of anybody's log
    }


def _said_outright(name: str, dsn: Dsn, settings: DatabaseSettings) -> bool:
    """A setting that was said wins over the address, which wins over the setting's default."""
    return name in settings.model_fields_set or name not in dsn.parameters


def _connect_limit(dsn: Dsn, settings: DatabaseSettings) -> float:
    if _said_outright("connect_timeout", dsn, settings):
        return settings.connect_timeout
    each = float(dsn.parameters["connect_timeout"])  # libpq counts it for each host
    return each * max(len(dsn.hosts), 1) if each > 0 else A_DAY


def _with_session_parameters(dsn: Dsn, settings: DatabaseSettings) -> Dsn:
    """The address with what a session starts with."""
    parameters: dict[str, str] = {}
    if _said_outright("application_name", dsn, settings):
        parameters["application_name"] = settings.application_name
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    options = [f"-c {name}={math.ceil(seconds * 1000)}" for name, seconds in timeouts.items() if seconds is not None]
    if options:
        parameters["options"] = " ".join([dsn.parameters.get("options", ""), *options]).strip()
    return dsn.replace(**parameters)
