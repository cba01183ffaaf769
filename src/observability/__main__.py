"""`python -m src.observability [--url URL]`: how the service is, as a table.

Exit status 0 when the score is above 0.8 (PRP-27's mark), else 1.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from time import perf_counter

import httpx2
from pydantic import HttpUrl, ValidationError
from rich.console import Console

from pulsepool import PulsePoolError
from src.address import address
from src.observability.health import HealthMonitor
from src.observability.table import Report, show

WELL = 0.8
PATIENCE = 5.0
"""Seconds for a service to answer; its slowest check takes 2 s at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m src.observability", description="How the service is.")
    parser.add_argument("--url", help="ask the service that runs at this address; otherwise look from here")
    url = parser.parse_args(arguments).url
    report = asyncio.run(ask_service(url)) if url else look_from_here()
    show(report, Console())
    return 0 if report.health_score > WELL else 1


async def ask_service(url: str) -> Report:
    """The report of the service at `url`; one that says why when there is none."""
    started = perf_counter()
    try:
        address = str(HttpUrl(url)).rstrip("/")
    except ValidationError:
        return Report.failed("service", "this is no address of a service; http://127.0.0.1:8001 would be one")
    try:
        async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(timeout=PATIENCE) as client:
            response = await client.get(f"{address}/api/v1/health")
            return Report.model_validate_json(response.content)
    except (TimeoutError, httpx2.TimeoutException):
        failure = f"no answer within {PATIENCE:.1f} s"
    except httpx2.HTTPError as error:
        failure = f"nothing answers at this address ({type(error).__name__})"
    except ValidationError:
        failure = f"status {response.status_code}, and no health report with it"
    return Report.failed("service", failure, (perf_counter() - started) * 1000)


def look_from_here() -> Report:
    """The report of a `HealthMonitor` in this process, on the service's database, its embedded one too."""
    try:
        with address():
            return asyncio.run(_look())
    except PulsePoolError as error:
        return Report.failed("settings", f"{error.message} ({error.hint})" if error.hint else error.message)


async def _look() -> Report:
    # Imported here, as settings that are wrong raise while they are imported.
    from src.config import settings  # noqa: PLC0415
    from src.models.async_database import close_async_database  # noqa: PLC0415

    try:
        return Report.model_validate((await HealthMonitor(settings).check_system_health()).to_dict())
    finally:
        await close_async_database(deadline=1.0)


if __name__ == "__main__":
    sys.exit(main())
