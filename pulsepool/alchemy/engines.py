"""Both engines, made from one address and one set of limits, and closed by one deadline."""

import asyncio
import contextlib
import math
import os
import socket
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pulsepool.alchemy.events import on_connect, on_failure, on_lending
from pulsepool.alchemy.pool import AsyncGatedPool, Gate, GatedPool
from pulsepool.dsn import Dsn
from pulsepool.settings import DatabaseSettings

A_DAY = 86_400.0
"""Seconds; what libpq's `connect_timeout=0`, no limit, comes to here."""


def build_async_engine(dsn: Dsn, settings: DatabaseSettings, gate: Gate) -> AsyncEngine:
    """An engine on asyncpg; it connects with its first use. Raises `ConfigurationError` for what asyncpg cannot do."""
    limit = _connect_limit(dsn, settings)
    dsn = _with_session_parameters(dsn, settings)
    connect_args: dict[str, Any] = {**dsn.connect_args("asyncpg"), "timeout": limit}
    if settings.statement_timeout is not None:
        # The server ends a slow statement itself; only one that says nothing at all runs into this.
        connect_args["command_timeout"] = settings.statement_timeout + limit
    engine = create_async_engine(
        dsn.sqlalchemy_url("asyncpg"), connect_args=connect_args, poolclass=AsyncGatedPool, **_pool_arguments(settings)
    )
    _equip(engine.sync_engine, dsn, settings, gate, limit)
    return engine


def build_sync_engine(dsn: Dsn, settings: DatabaseSettings, gate: Gate, driver: str) -> Engine:
    """An engine on `driver`, "psycopg" or "psycopg2", from the same address and with the same limits."""
    limit = _connect_limit(dsn, settings)
    dsn = _with_session_parameters(dsn, settings)
    connect_args = {**dsn.connect_args(driver), "connect_timeout": math.ceil(limit)}
    engine = create_engine(
        dsn.sqlalchemy_url(driver), connect_args=connect_args, poolclass=GatedPool, **_pool_arguments(settings)
    )
    _equip(engine, dsn, settings, gate, limit)
    return engine


def _equip(engine: Engine, dsn: Dsn, settings: DatabaseSettings, gate: Gate, limit: float) -> None:
    GatedPool.of(engine).gate = gate
    on_connect(engine, dsn, settings, limit)
    on_failure(engine, dsn)
    on_lending(engine, settings.validate_after)


async def close_engines(async_engine: AsyncEngine | None, sync_engine: Engine | None, *, deadline: float) -> int:
    """Shut the gates, wait for the connections that are lent, close all; return by `deadline` seconds from now.

    The last quarter of the time, a second at most, is for closing; connections still lent by then are ended under their
    holders. Gives how many those were.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline
    lent_until = ends - min(1.0, deadline / 4)
    pools = [GatedPool.of(engine) for engine in (async_engine and async_engine.sync_engine, sync_engine) if engine]
    for pool in pools:
        pool.gate.closed = pool.retired = True

    def lent() -> int:
        return sum(pool.checkedout() for pool in pools)

    while lent() and loop.time() < lent_until:  # noqa: ASYNC110 - SQLAlchemy's pool has nothing to wait for
        await asyncio.sleep(0.01)
    if ended := lent():
        for pool in pools:
            _end_all(pool.gate)
    await asyncio.gather(*(_close(engine, ends) for engine in (async_engine, sync_engine) if engine))
    return ended


def _end_all(gate: Gate) -> None:
    """End every connection where it stands, without a word to a server that may not answer."""
    with gate.lock:
        opened = list(gate.opened)
    for connection in opened:
        if hasattr(connection, "terminate"):
            connection.terminate()
        else:
            _hang_up(connection)


def _hang_up(connection: Any) -> None:
    """Shut a libpq connection's socket: its holder, in another thread, wakes up with an error.

    Neither closing nor cancelling would do: the one is not for another thread to call, the other waits for the server,
    and holds the interpreter's lock meanwhile.
    """
    # Suppressed: it is closed already, whatever its driver raises for that.
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as shared:
        shared.shutdown(socket.SHUT_RDWR)


async def _close(engine: AsyncEngine | Engine, ends: float) -> None:
    if isinstance(engine, Engine):
        engine.dispose()
        return
    try:
        async with asyncio.timeout_at(ends):
            await engine.dispose()
    except TimeoutError:  # a server that says nothing does not answer a good-bye either
        _end_all(GatedPool.of(engine.sync_engine).gate)
        await engine.dispose()


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
