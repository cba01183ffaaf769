"""How the service is doing, in two words and in full."""

from fastapi import APIRouter, Response

from src.api.schemas import HealthOut, SystemHealthOut
from src.config import settings
from src.observability.health import ComponentType, HealthMonitor, HealthStatus, SystemHealth

NO_STORE = {"Cache-Control": "no-store"}

router = APIRouter(tags=["health"])
monitor = HealthMonitor(settings)


async def _check(response: Response) -> SystemHealth:
    health = await monitor.check_system_health()
    response.headers.update(NO_STORE)
    database_is_down = any(
        check.component is ComponentType.DATABASE and check.status is HealthStatus.UNHEALTHY for check in health.checks
    )
    response.status_code = 503 if database_is_down else 200
    return health


@router.get("/health", responses={503: {"model": HealthOut}})
async def health(response: Response) -> HealthOut:
    """For whoever decides whether to send requests here: 503 when the database is down, without which none is answered.

    A full pool, or another part that is down, shows in status and score, and is 200.
    """
    return HealthOut.model_validate((await _check(response)).to_dict())


@router.get("/api/v1/health", responses={503: {"model": SystemHealthOut}})
async def system_health(response: Response) -> SystemHealthOut:
    """The same with each part's state, for a person."""
    return SystemHealthOut.model_validate((await _check(response)).to_dict())
