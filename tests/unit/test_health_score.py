"""What checks add up to, and what the monitor makes of checks that misbehave: no server, no network."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from pulsepool import ConfigurationError, DatabaseUnavailable
from src.config.settings import Settings
from src.observability import health
from src.observability.health import ComponentType, HealthCheck, HealthMonitor, HealthStatus, SystemHealth

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMIT = 0.2
SECRET = "s3cr3t-p/ss"

checks = st.builds(
    HealthCheck, st.sampled_from(ComponentType), st.sampled_from(HealthStatus), st.floats(0, 1e6), st.text(max_size=20)
)


def well(component: ComponentType) -> Callable[[], Awaitable[HealthCheck]]:
    async def check() -> HealthCheck:
        return HealthCheck(component, HealthStatus.HEALTHY, 1.0, "well")

    return check


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> HealthMonitor:
    """Three components, all well, each with a short limit; nothing is asked for real."""
    monkeypatch.setattr(health, "LIMITS", dict.fromkeys(ComponentType, LIMIT))
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1", llm_url="http://127.0.0.1:1")
    monitor = HealthMonitor(settings)
    monkeypatch.setattr(monitor, "check_database_health", well(ComponentType.DATABASE))
    monkeypatch.setattr(monitor, "check_redis_health", well(ComponentType.REDIS))
    monkeypatch.setattr(monitor, "check_llm_health", well(ComponentType.LLM_BACKEND))
    return monitor


@given(st.lists(checks, min_size=1, max_size=3))
def test_the_worst_status_wins_and_the_score_agrees_with_it(found: list[HealthCheck]) -> None:
    system = SystemHealth.from_checks(found, NOON)
    statuses = {check.status for check in found}
    assert system.status in statuses
    assert 0 <= system.health_score <= 1
    assert (system.health_score == 1) == (statuses == {HealthStatus.HEALTHY})
    assert (system.health_score == 0) == (statuses == {HealthStatus.UNHEALTHY})
    assert (system.status is HealthStatus.UNHEALTHY) == (HealthStatus.UNHEALTHY in statuses)


@pytest.mark.parametrize(
    ("statuses", "status", "score"),
    [
        ("healthy", "healthy", 1.0),
        ("degraded", "degraded", 0.5),
        ("healthy unhealthy", "unhealthy", 0.5),
        ("healthy degraded", "degraded", 0.75),
        ("healthy degraded unhealthy", "unhealthy", 0.5),
    ],
)
def test_the_score_is_the_mean_of_the_components(statuses: str, status: str, score: float) -> None:
    found = [HealthCheck(ComponentType.DATABASE, HealthStatus(name), 1.0, "") for name in statuses.split()]
    system = SystemHealth.from_checks(found, NOON)
    assert (system.status.value, system.health_score) == (status, score)


@given(st.lists(checks, min_size=1, max_size=3))
def test_a_report_is_plain_json(found: list[HealthCheck]) -> None:
    body = SystemHealth.from_checks(found, NOON).to_dict()
    assert json.loads(json.dumps(body)) == body


def test_a_report_has_the_shape_of_the_http_contract() -> None:
    check = HealthCheck(ComponentType.DATABASE, HealthStatus.DEGRADED, 1234.5678, "slow", {"version": "18"})
    assert SystemHealth.from_checks([check], NOON).to_dict() == {
        "status": "degraded",
        "health_score": 0.5,
        "timestamp": "2026-01-01T12:00:00+00:00",
        "components": [
            {
                "component": "database",
                "status": "degraded",
                "response_time_ms": 1234.6,
                "message": "slow",
                "details": {"version": "18"},
            }
        ],
    }


def test_a_check_cannot_be_changed_afterwards() -> None:
    check = HealthCheck(ComponentType.REDIS, HealthStatus.HEALTHY, 1.0, "")
    with pytest.raises(AttributeError, match="cannot assign"):
        check.status = HealthStatus.UNHEALTHY  # type: ignore[misc]  # what is tested


async def raises() -> HealthCheck:
    raise OSError(f"redis://:{SECRET}@host")


async def hangs() -> HealthCheck:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


async def answers_nonsense() -> Any:
    return 42


async def answers_for_another() -> HealthCheck:
    return HealthCheck(ComponentType.DATABASE, HealthStatus.HEALTHY, 1.0, "well")


async def cancels_itself() -> HealthCheck:
    raise asyncio.CancelledError


def is_no_coroutine() -> Any:
    return 42


@pytest.mark.parametrize(
    "bad",
    [raises, hangs, answers_nonsense, answers_for_another, cancels_itself, is_no_coroutine],
    ids=lambda f: f.__name__,
)
async def test_a_bad_check_makes_its_own_component_unhealthy_and_no_other(
    bad: Callable[[], Any], monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "check_redis_health", bad)
    async with asyncio.timeout(LIMIT * 5):
        system = await monitor.check_system_health()
    found = {check.component: check for check in system.checks}
    redis = found.pop(ComponentType.REDIS)
    assert redis.status is HealthStatus.UNHEALTHY
    assert redis.message.startswith("Redis ")
    assert SECRET not in redis.message
    assert [check.status for check in found.values()] == [HealthStatus.HEALTHY] * 2
    assert system.health_score == pytest.approx(2 / 3)


class Stubborn:
    """A check that goes on when it is cancelled, until it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self) -> HealthCheck:
        self.asked += 1
        self.was_asked.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue
        return HealthCheck(ComponentType.DATABASE, HealthStatus.HEALTHY, 1.0, "well")


@pytest.fixture
async def stubborn(monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stubborn]:
    """In the place of the database's check; let go when the test is over, which could not end otherwise."""
    check = Stubborn()
    monkeypatch.setattr(monitor, "check_database_health", check)
    yield check
    check.let_go.set()


async def test_a_check_that_swallows_its_cancellation_costs_its_limit_and_is_not_asked_again_meanwhile(
    monitor: HealthMonitor, stubborn: Stubborn
) -> None:
    for _ in range(3):
        async with asyncio.timeout(LIMIT * 2):
            system = await monitor.check_system_health()
        assert system.checks[0].status is HealthStatus.UNHEALTHY
        assert system.checks[0].message == f"Database gave no answer within {LIMIT:.1f} s"
    assert stubborn.asked == 1
    stubborn.let_go.set()
    await asyncio.wait(monitor._under_way.values(), timeout=1)
    assert (await monitor.check_system_health()).status is HealthStatus.HEALTHY
    assert stubborn.asked == 2


async def test_a_check_that_hangs_is_ended_by_its_limit_and_asked_anew(
    monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "check_database_health", hangs)
    await monitor.check_system_health()
    (_, pending) = await asyncio.wait(monitor._under_way.values(), timeout=LIMIT)
    assert not pending
    monkeypatch.setattr(monitor, "check_database_health", well(ComponentType.DATABASE))
    assert (await monitor.check_system_health()).status is HealthStatus.HEALTHY


async def test_many_who_ask_at_once_share_one_question(monitor: HealthMonitor, stubborn: Stubborn) -> None:
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(monitor.check_system_health()) for _ in range(20)]
        asyncio.get_running_loop().call_later(LIMIT / 4, stubborn.let_go.set)
    assert {task.result().status for task in asking} == {HealthStatus.HEALTHY}
    assert stubborn.asked == 1


async def test_a_caller_that_is_cancelled_is_cancelled_at_once_and_the_others_get_their_answer(
    monitor: HealthMonitor, stubborn: Stubborn
) -> None:
    impatient, patient = (asyncio.create_task(monitor.check_system_health()) for _ in range(2))
    await stubborn.was_asked.wait()
    impatient.cancel()
    await asyncio.wait({impatient}, timeout=LIMIT / 2)
    assert impatient.cancelled()
    stubborn.let_go.set()
    assert (await patient).status is HealthStatus.HEALTHY


async def test_what_is_not_configured_does_not_count(monitor: HealthMonitor) -> None:
    alone = HealthMonitor(Settings(_env_file=None))
    alone.check_database_health = well(ComponentType.DATABASE)  # type: ignore[assignment,method-assign]  # a stand-in
    system = await alone.check_system_health()
    assert [check.component for check in system.checks] == [ComponentType.DATABASE]
    assert len((await monitor.check_system_health()).checks) == 3
    for unasked in (await alone.check_redis_health(), await alone.check_llm_health()):
        assert unasked.status is HealthStatus.UNHEALTHY
        assert "is not configured" in unasked.message


async def test_each_check_of_the_system_is_one_line_in_the_log(
    monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    await monitor.check_system_health()
    monkeypatch.setattr(monitor, "check_redis_health", raises)
    monkeypatch.setattr(monitor, "check_llm_health", raises)
    await monitor.check_system_health()
    assert caplog.record_tuples == [
        ("src.observability.health", logging.INFO, "Health check complete: healthy (score: 1.000)"),
        ("src.observability.health", logging.INFO, "Health check complete: unhealthy (score: 0.333)"),
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DatabaseUnavailable("nothing listens at db:5432", hint="start it"), "nothing listens at db:5432"),
        (ConfigurationError("one line\nanother"), "one line"),
        (DatabaseUnavailable("x" * 500), "x" * 170),
        (ValueError(f"Port could not be cast to integer value as '{SECRET}'"), "ValueError"),
        (DBAPIError(f"SELECT '{SECRET}'", None, Exception("permission denied")), "permission denied"),
    ],
    ids=["ours", "first line", "cut", "foreign", "the server's"],
)
async def test_the_message_of_a_failure_is_one_short_line_without_secrets(
    error: Exception, told: str, monitor: HealthMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> HealthCheck:
        raise error

    monkeypatch.setattr(monitor, "check_database_health", fails)
    message = (await monitor.check_system_health()).checks[0].message
    assert message.startswith(f"Database connection failed: {told}")
    assert len(message) <= 200
    assert "\n" not in message
    assert SECRET not in message
    assert "start it" not in message
