"""What a check says, and what all of them say together. Pure data: nobody is asked here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self


class HealthStatus(StrEnum):
    """From well to ill."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


SCORES = {HealthStatus.HEALTHY: 1.0, HealthStatus.DEGRADED: 0.5, HealthStatus.UNHEALTHY: 0.0}


class ComponentType(StrEnum):
    """What the system is made of."""

    DATABASE = "database"
    REDIS = "redis"
    LLM_BACKEND = "llm_backend"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How one component is; `message` is one line without secrets."""

    component: ComponentType
    status: HealthStatus
    response_time_ms: float
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SystemHealth:
    """How all of it is: the worst status, and a score from 0 to 1, the mean over the components."""

    status: HealthStatus
    health_score: float
    checks: tuple[HealthCheck, ...]
    timestamp: datetime

    @classmethod
    def from_checks(cls, checks: Sequence[HealthCheck], timestamp: datetime) -> Self:
        """Sum up at least one check: healthy counts 1, degraded 0.5, unhealthy 0."""
        score = sum(SCORES[check.status] for check in checks) / len(checks)
        worst = min((check.status for check in checks), key=SCORES.__getitem__)
        return cls(worst, score, tuple(checks), timestamp)

    def to_dict(self) -> dict[str, Any]:
        """The body of `/api/v1/health`: plain JSON values; the score has 3 decimals, a time in milliseconds 1."""
        return {
            "status": self.status.value,
            "health_score": round(self.health_score, 3),
            "timestamp": self.timestamp.isoformat(),
            "components": [
                {
                    "component": check.component.value,
                    "status": check.status.value,
                    "response_time_ms": round(check.response_time_ms, 1),
                    "message": check.message,
                    "details": dict(check.details),
                }
                for check in self.checks
            ],
        }
