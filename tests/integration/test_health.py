"""The health monitor against a real PostgreSQL and real sockets."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pulsepool import Database
from pulsepool.embedded import EmbeddedPostgres
from src.config.settings import Settings
from src.models import async_database
from src.models import database as models_database
from src.observability import health
from src.observability.health import ComponentType, HealthCheck, HealthMonitor, HealthStatus
from tests.listeners import answers, hangs_up, listening, never_answers

SECRET = "s3cr3t-p@ss/w:rd"
WELL, ILL, UNWELL = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.DEGRADED
LATE = 0.5
"""Seconds that a busy machine may take beyond a limit."""

PointAt = Callable[..., Database]


@pytest.fixture(scope="module")
def server(mortal: EmbeddedPostgres) -> EmbeddedPostgres:
    return mortal


@pytest.fixture
async def point_at(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PointAt]:
    """Puts another database behind `get_database()`, until the test is over."""

    def point(url: str, **options: Any) -> Database:
        database = Database(url, name="edbotv8", **options)
        for module in (async_database, models_database):
            monkeypatch.setattr(module, "database", database)
        monkeypatch.setattr(async_database, "async_engine", None)
        monkeypatch.setattr(async_database, "AsyncSessionLocal", None)
        return database

    yield point
    await async_database.close_async_database(deadline=1.0)


@pytest.fixture
def monitor() -> HealthMonitor:
    return HealthMonitor(Settings(_env_file=None))


async def timed(asking: Awaitable[HealthCheck]) -> tuple[HealthCheck, float]:
    started = perf_counter()
    return await asking, perf_counter() - started


async def backend() -> int:
    """The process that serves the connection which the next caller gets: the only one yet, and used just now."""
    async with async_database.get_database() as db:
        pid = (await db.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    assert isinstance(pid, int)
    return pid


@asynccontextmanager
async def frozen(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# The database, well


async def test_a_database_that_answers_is_healthy_and_tells_about_itself(
    server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor
) -> None:
    point_at(server.url())
    check = await monitor.check_database_health()
    assert (check.component, check.status) == (ComponentType.DATABASE, WELL)
    assert check.message == "Database connection healthy"
    async with async_database.get_database() as db:
        version = (await db.execute(text("SHOW server_version"))).scalar_one()
    assert check.details["version"] == f"PostgreSQL {version}"
    assert check.details["database_name"] == "postgres"
    assert check.details["connection_type"] == "async"
    assert check.details["active_connections"] >= 1
    assert "B" in check.details["database_size"]


async def test_a_warm_check_takes_less_than_half_a_second(
    server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor
) -> None:
    point_at(server.url())
    await monitor.check_database_health()
    check, took = await timed(monitor.check_database_health())
    assert took < 0.5
    assert 0 < check.response_time_ms <= took * 1000


async def test_a_database_that_takes_more_than_a_second_is_degraded(
    server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor
) -> None:
    point_at(server.url())
    pid = await backend()
    async with frozen(pid):
        asyncio.get_running_loop().call_later(1.1, os.kill, pid, signal.SIGCONT)
        check = await monitor.check_database_health()
    assert check.status is UNWELL
    assert check.response_time_ms > 1000
    assert check.message == f"Database responding slowly ({check.response_time_ms:.0f}ms)"
    assert check.details["connection_type"] == "async"


# The database, ill


async def test_a_dead_address_is_unhealthy_before_its_limit_with_the_reason(
    point_at: PointAt, monitor: HealthMonitor, unused_tcp_port: int
) -> None:
    point_at(f"postgresql://postgres:x@127.0.0.1:{unused_tcp_port}/x")
    check, took = await timed(monitor.check_database_health())
    assert check.status is ILL
    assert check.message.startswith(f"Database connection failed: nothing listens at 127.0.0.1:{unused_tcp_port}")
    assert took < health.LIMITS[ComponentType.DATABASE]  # a restart of the server, for a second, is waited out


async def test_a_refused_password_is_unhealthy_and_told_without_the_password(
    server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    point_at(f"postgresql://postgres:wrong-{SECRET.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:{server.port}/x")
    check = await monitor.check_database_health()
    assert check.status is ILL
    assert "refused the password of user 'postgres'" in check.message
    assert "s3cr3t" not in repr(check) + caplog.text
    assert "src.models.async_database" in caplog.text


async def test_a_server_that_accepts_and_never_answers_is_unhealthy_by_the_limit(
    point_at: PointAt, monitor: HealthMonitor
) -> None:
    async with listening(never_answers) as port:
        point_at(f"postgresql://postgres:{SECRET.replace('/', '').replace('@', '')}@127.0.0.1:{port}/x")
        check, took = await timed(monitor.check_database_health())
        assert check.status is ILL
        assert check.message == "Database gave no answer within 2.0 s"
        assert took == pytest.approx(2.0, abs=LATE)
        assert "s3cr3t" not in repr(check)


async def test_a_backend_frozen_in_the_middle_is_unhealthy_by_the_limit_and_the_next_check_gets_another(
    server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(health.LIMITS, ComponentType.DATABASE, 0.3)
    database = point_at(server.url())
    async with frozen(await backend()):
        check, took = await timed(monitor.check_database_health())
        assert (check.status, check.message) == (ILL, "Database gave no answer within 0.3 s")
        assert took < 0.3 + LATE
        async with asyncio.timeout(5):  # undoing the first goes on beyond its limit; nobody queues up behind it
            while (await monitor.check_database_health()).status is ILL:
                await asyncio.sleep(0.05)
        assert database.stats().counters.connects == 2
    assert (await monitor.check_database_health()).status is WELL


async def test_a_connection_lost_while_details_are_fetched_is_unhealthy(
    server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(server.url())
    with monkeypatch.context() as broken:
        broken.setattr(health, "DETAILS", text("SELECT pg_terminate_backend(pg_backend_pid())"))
        check = await monitor.check_database_health()
    assert check.status is ILL
    assert check.message.startswith("Database connection failed: the connection was lost")
    assert (await monitor.check_database_health()).status is WELL


async def test_an_answer_that_is_not_one_is_unhealthy(monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def get_database() -> AsyncIterator[AsyncMock]:
        db = AsyncMock(spec=AsyncSession)
        db.execute.return_value.fetchone = lambda: (2,)
        yield db

    monkeypatch.setattr(async_database, "get_database", get_database)
    check = await monitor.check_database_health()
    assert (check.status, check.message) == (ILL, "Database query returned unexpected result")


# The pool


@pytest.mark.parametrize("acquire_timeout", [0.1, 5.0], ids=["the pool gives up first", "the check gives up first"])
async def test_a_full_pool_is_degraded_and_never_down(
    acquire_timeout: float, server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor
) -> None:
    point_at(server.url(), max_size=1, acquire_timeout=acquire_timeout)
    async with async_database.get_database() as holder:
        await holder.execute(text("SELECT 1"))
        check, took = await timed(monitor.check_database_health())
        assert check.status is UNWELL
        assert check.message.startswith("The pool is full: no connection")
        assert took == pytest.approx(min(acquire_timeout, 1.0), abs=LATE)
    assert (await monitor.check_database_health()).status is WELL


@pytest.mark.parametrize("acquire_timeout", [0.1, 5.0], ids=["the pool gives up first", "the check gives up first"])
async def test_a_pool_that_is_full_of_callers_who_wait_for_a_dead_server_is_down(
    acquire_timeout: float, point_at: PointAt, monitor: HealthMonitor
) -> None:
    async with listening(never_answers) as port:
        database = point_at(f"postgresql://u:x@127.0.0.1:{port}/x", max_size=1, acquire_timeout=acquire_timeout)
        connecting = asyncio.create_task(database.async_engine.connect().__aenter__())
        await asyncio.sleep(0)
        assert database.stats().connecting == 1
        check = await monitor.check_database_health()
        assert check.status is ILL
        assert check.message.startswith("Database connection failed: the server lets nobody in")
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=1)


# The details


@pytest.mark.parametrize("trouble", ["SELECT nonsense", "SELECT pg_sleep(30)"], ids=["refused", "slow"])
async def test_details_that_cannot_be_had_cost_the_check_nothing(
    trouble: str, server: EmbeddedPostgres, point_at: PointAt, monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(server.url())
    monkeypatch.setattr(health, "DETAILS", text(trouble))
    check, took = await timed(monitor.check_database_health())
    assert check.status is WELL
    assert check.details == {"connection_type": "async", "error": "Could not fetch details"}
    assert took < health.DETAILS_LIMIT + LATE


@pytest.mark.parametrize("trouble", [None, "SELECT nonsense", "SELECT pg_sleep(30)"], ids=["well", "refused", "slow"])
async def test_details_leave_the_transaction_of_their_caller_as_it_was(
    trouble: str | None,
    server: EmbeddedPostgres,
    point_at: PointAt,
    monitor: HealthMonitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point_at(server.url())
    if trouble:
        monkeypatch.setattr(health, "DETAILS", text(trouble))
    async with async_database.get_database() as db:
        await db.execute(text("CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT 7 AS seven"))
        details = await monitor._get_async_database_details(db)
        assert ("error" in details) == (trouble is not None)
        assert (await db.execute(text("SELECT seven FROM kept"))).scalar_one() == 7
        assert (await db.execute(text("SHOW statement_timeout"))).scalar_one() == "0"


# The LLM backend


async def ask_llm(port: int, path: str = "") -> HealthCheck:
    return await HealthMonitor(Settings(_env_file=None, llm_url=f"http://127.0.0.1:{port}{path}")).check_llm_health()


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ("200 OK", WELL, "LLM backend connection healthy"),
        ("204 No Content", WELL, "LLM backend connection healthy"),
        ("307 Temporary Redirect", UNWELL, "LLM backend answered with status 307"),
        ("404 Not Found", UNWELL, "LLM backend answered with status 404"),
        ("500 Internal Server Error", ILL, "LLM backend answered with status 500"),
        ("503 Service Unavailable", ILL, "LLM backend answered with status 503"),
    ],
)
async def test_an_llm_backend_is_as_well_as_its_status(answer: str, status: HealthStatus, message: str) -> None:
    async with listening(answers(answer, b"")) as port:
        check = await ask_llm(port)
    assert (check.component, check.status, check.message) == (ComponentType.LLM_BACKEND, status, message)
    assert check.response_time_ms > 0


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    async with listening(answers("200 OK", b"x" * 1000, length=10**12)) as port:
        assert (await ask_llm(port)).status is WELL


async def test_an_llm_backend_that_hangs_is_unhealthy_by_the_limit() -> None:
    async with listening(never_answers) as port:
        check, took = await timed(ask_llm(port))
    assert (check.status, check.message) == (ILL, "LLM backend gave no answer within 2.0 s")
    assert took == pytest.approx(2.0, abs=LATE)


async def test_an_llm_backend_that_hangs_up_or_is_not_there_is_unhealthy(unused_tcp_port: int) -> None:
    async with listening(hangs_up) as port:
        assert (await ask_llm(port)).message == "LLM backend connection failed: RemoteProtocolError"
    check = await ask_llm(unused_tcp_port)
    assert (check.status, check.message) == (ILL, "LLM backend connection failed: ConnectError")


async def test_the_key_in_an_llm_address_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "httpx2", "httpcore2"):  # which the service's own logging keeps quiet
        caplog.set_level(logging.DEBUG, logger=name)
    async with listening(answers("404 Not Found")) as port:
        check = await ask_llm(port, "/?key=hunter2")
    assert check.status is UNWELL
    assert "hunter2" not in repr(check) + caplog.text
    assert "httpcore2" in caplog.text


# All together


async def test_a_frozen_component_costs_the_others_nothing(
    server: EmbeddedPostgres, point_at: PointAt, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="src.observability")
    point_at(server.url())
    async with listening(never_answers) as frozen_redis, listening(answers("200 OK")) as llm:
        settings = Settings(
            _env_file=None,
            redis_url=SecretStr(f"redis://:hunter2@127.0.0.1:{frozen_redis}/0"),
            llm_url=f"http://127.0.0.1:{llm}",
        )
        started = perf_counter()
        system = await HealthMonitor(settings).check_system_health()
        assert perf_counter() - started == pytest.approx(2.0, abs=LATE)
    assert [check.status for check in system.checks] == [WELL, ILL, WELL]
    assert system.status is ILL
    assert system.health_score == pytest.approx(2 / 3)
    assert json.loads(json.dumps(system.to_dict()))["components"][0]["details"]["database_name"] == "postgres"
    assert caplog.messages == ["Health check complete: unhealthy (score: 0.667)"]
