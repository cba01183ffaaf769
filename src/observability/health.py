"""Is the system well? Each component is asked at the same time, each within a limit of its own.

A check cannot hurt its neighbours: one that raises, hangs, swallows its cancellation or answers nonsense makes its own
component unhealthy and no other. At most one question per component is under way, however many ask for the answer, so
that watching a frozen database never fills its pool.
"""

import asyncio
import functools
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx2
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pulsepool.errors import DatabaseUnavailable, PoolTimeout, PulsePoolError
from src.observability.checks import ComponentType, HealthCheck, HealthStatus, SystemHealth

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from src.config.settings import Settings

__all__ = ["ComponentType", "HealthCheck", "HealthMonitor", "HealthStatus", "SystemHealth"]

logger = logging.getLogger(__name__)

SLOW = 1.0
"""Seconds; a component that answers later than this is degraded (PRP-27)."""

DETAILS_LIMIT = 0.5
"""Seconds that the server may spend on a database's details; sizing one with very many tables takes longer."""

MESSAGE_LIMIT = 200
"""Characters of a message at most."""

Question = Callable[[], Awaitable[object]]

NAMES = {
    ComponentType.DATABASE: "Database",
    ComponentType.REDIS: "Redis",
    ComponentType.LLM_BACKEND: "LLM backend",
}

LIMITS = {ComponentType.DATABASE: 2.0, ComponentType.REDIS: 2.0, ComponentType.LLM_BACKEND: 2.0}
"""Seconds until a component without an answer is unhealthy: twice `SLOW`, so that slow and silent can be told apart."""

DETAILS = text("""
    SELECT pg_size_pretty(pg_database_size(current_database())) AS database_size,
           current_database() AS database_name,
           (SELECT count(*) FROM pg_stat_activity WHERE state = 'active') AS active_connections,
           split_part(version(), ' on ', 1) AS version
""")


class HealthMonitor:
    """Asks the components of the service that `settings` describe.

    The database is the one of `src.models`, over its pool. Redis and the LLM backend belong to the system when
    `redis_url` and `llm_url` are set; asked all the same, a check says that its component is not configured.
    No check raises; each returns within its `LIMITS`, and answers all who ask meanwhile.
    """

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._under_way: dict[Question, asyncio.Task[object]] = {}

    async def check_system_health(self) -> SystemHealth:
        """All components at the same time; one line in the log."""
        checks: dict[ComponentType, Question] = {ComponentType.DATABASE: self.check_database_health}
        if self._settings.redis_url is not None:
            checks[ComponentType.REDIS] = self.check_redis_health
        if self._settings.llm_url is not None:
            checks[ComponentType.LLM_BACKEND] = self.check_llm_health
        answers = await asyncio.gather(*(self._ask(component, check) for component, check in checks.items()))
        health = SystemHealth.from_checks(answers, datetime.now(UTC))
        logger.info("Health check complete: %s (score: %.3f)", health.status.value, health.health_score)
        return health

    async def check_database_health(self) -> HealthCheck:
        """PostgreSQL, asked through `get_database()`: degraded when slower than `SLOW`, or when the pool is full."""
        return await self._ask(ComponentType.DATABASE, self._database)

    async def check_redis_health(self) -> HealthCheck:
        """Redis, asked with PING on a connection of its own."""
        return await self._ask(ComponentType.REDIS, self._redis)

    async def check_llm_health(self) -> HealthCheck:
        """The LLM backend, asked with GET on `llm_url`, without credentials, redirects or a proxy.

        2xx is healthy; 3xx and 4xx are degraded, as something answers there but not what was asked for; 5xx, or no
        answer, is unhealthy.
        """
        return await self._ask(ComponentType.LLM_BACKEND, self._llm)

    async def _ask(self, component: ComponentType, question: Question) -> HealthCheck:
        """The answer to `question`, or an unhealthy one by the component's limit.

        The task is waited for, not awaited: undoing a transaction is shielded from cancellation, and waiting for that
        would outlast the limit. So the task may live on, and while it does nobody starts another. Nor does a caller
        that goes away end it, as others may be waiting for the same answer: it ends by its own limit.
        """
        limit = LIMITS[component]
        task = self._under_way.get(question)
        if task is None or task.done():
            task = asyncio.create_task(_cut_off(question, limit), name=f"health check: {component.value}")
            task.add_done_callback(_retrieve)
            self._under_way[question] = task
        started = perf_counter()
        await asyncio.wait({task}, timeout=limit)
        elapsed = perf_counter() - started
        if not task.done() or task.cancelled() or type(task.exception()) is TimeoutError:
            # One who came while the question was under way has not waited for as long as it took.
            failure = f"{NAMES[component]} gave no answer within {max(elapsed, limit):.1f} s"
        elif error := task.exception():
            failure = f"{NAMES[component]} connection failed: {_reason(error)}"
        elif isinstance(answer := task.result(), HealthCheck) and answer.component is component:
            return answer
        else:
            failure = f"{NAMES[component]} check gave something else than its answer ({type(answer).__name__})"
        return _unhealthy(component, elapsed * 1000, failure)

    async def _database(self) -> HealthCheck:
        # Imported here, as PRP-27 does: the engine is made at import, and an address that cannot be read
        # is for this check to report, not for the import of this module to fail with.
        from src.models.async_database import get_database  # noqa: PLC0415

        component, started = ComponentType.DATABASE, perf_counter()
        try:
            async with get_database() as db:
                await _acquire(db)
                row = (await db.execute(text("SELECT 1 AS health_check"))).fetchone()
                ms = _ms_since(started)
                if row is None or row[0] != 1:
                    return _unhealthy(component, ms, "Database query returned unexpected result")
                details = await self._get_async_database_details(db)
        except PoolTimeout as full:
            message = f"The pool is full: {_reason(full)}"[:MESSAGE_LIMIT]
            return HealthCheck(component, HealthStatus.DEGRADED, _ms_since(started), message)
        return _answered(component, ms, details)

    async def _get_async_database_details(self, db: "AsyncSession") -> dict[str, Any]:
        """What is worth knowing about the server; without it when that cannot be had within `DETAILS_LIMIT`.

        The caller's transaction stays as it was: all happens in a savepoint that is rolled back, its time limit too.
        """
        try:
            async with db.begin_nested() as savepoint:
                await db.execute(text(f"SET LOCAL statement_timeout = {DETAILS_LIMIT * 1000:.0f}"))
                details = dict((await db.execute(DETAILS)).mappings().one())
                await savepoint.rollback()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            return {"connection_type": "async", "error": "Could not fetch details"}
        return {**details, "connection_type": "async"}

    async def _redis(self) -> HealthCheck:
        component, url, started = ComponentType.REDIS, self._settings.redis_url, perf_counter()
        if url is None:
            return _unhealthy(component, 0.0, "Redis is not configured (REDIS_URL is not set)")
        async with Redis.from_url(url.get_secret_value()) as client:
            pong = await client.ping()
        if not pong:
            return _unhealthy(component, _ms_since(started), "Redis answered PING with something else than PONG")
        return _answered(component, _ms_since(started), {})

    async def _llm(self) -> HealthCheck:
        component, url, started = ComponentType.LLM_BACKEND, self._settings.llm_url, perf_counter()
        if url is None:
            return _unhealthy(component, 0.0, "LLM backend is not configured (LLM_URL is not set)")
        # The transport alone: a client would log the address at INFO, key and all, and load the certificates each time.
        async with httpx2.AsyncHTTPTransport(verify=_tls()) as transport:
            response = await transport.handle_async_request(httpx2.Request("GET", url.get_secret_value()))
            await response.aclose()
        ms = _ms_since(started)
        if response.is_success:
            return _answered(component, ms, {})
        status = HealthStatus.UNHEALTHY if response.is_server_error else HealthStatus.DEGRADED
        return HealthCheck(component, status, ms, f"LLM backend answered with status {response.status_code}")


async def _acquire(db: "AsyncSession") -> None:
    """Give `db` its connection; raises `PoolTimeout` after `SLOW` seconds when others hold all.

    The pool's own patience is for callers with work to do, and longer than a check may take. A pool without a
    connection, all of whose places are still connecting, is not full: then `DatabaseUnavailable`.
    """
    from src.models.database import database  # noqa: PLC0415 - as above

    stats, most = database.stats(), database.settings.max_size
    full = stats.in_use + stats.connecting >= most
    try:
        async with asyncio.timeout(SLOW if full else None):
            await db.connection()
    except TimeoutError as error:  # a `PoolTimeout` is one, too
        if database.stats().size == 0:
            raise DatabaseUnavailable("the server lets nobody in, and all places in the pool wait for it") from error
        if isinstance(error, PoolTimeout):
            raise
        raise PoolTimeout(f"no connection became free within {SLOW:.1f} s") from error


async def _cut_off(question: Question, limit: float) -> object:
    async with asyncio.timeout(limit):
        return await question()


def _retrieve(task: asyncio.Task[object]) -> None:
    """Look at what an abandoned check ended with, so that asyncio does not complain of an error nobody saw."""
    if not task.cancelled():
        task.exception()


def _unhealthy(component: ComponentType, ms: float, message: str) -> HealthCheck:
    return HealthCheck(component, HealthStatus.UNHEALTHY, ms, message[:MESSAGE_LIMIT])


def _answered(component: ComponentType, ms: float, details: Mapping[str, Any]) -> HealthCheck:
    if ms > SLOW * 1000:
        message = f"{NAMES[component]} responding slowly ({ms:.0f}ms)"
        return HealthCheck(component, HealthStatus.DEGRADED, ms, message, details)
    return HealthCheck(component, HealthStatus.HEALTHY, ms, f"{NAMES[component]} connection healthy", details)


def _reason(error: BaseException) -> str:
    """The first line of an error whose text is known to hold no secret; of others the kind alone.

    A library that cannot read an address quotes what it stumbled over, and that may be half of a password.
    """
    match error:
        case PulsePoolError():
            said = error.message
        case DBAPIError():
            said = str(error.orig)
        case AuthenticationError():
            said = "it refused the user or the password"
        case _:
            said = type(error).__name__
    return said.strip().partition("\n")[0]


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000


@functools.cache
def _tls() -> ssl.SSLContext:
    """Loading the certificates takes some 20 ms, in which the event loop does nothing else; so once."""
    return httpx2.create_ssl_context()
