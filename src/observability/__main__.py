"""`python -m src.observability [--url URL | --port PORT]`: how the service is, as a table.

Exit status 0 when the score is above 0.8 (PRP-27's mark), else 1.
"""

import argparse
import asyncio
import logging
import socket
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
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="ask the service that runs at this address")
    where.add_argument("--port", type=int, help="ask the service on this port; when there is none, look from here")
    asked = parser.parse_args(arguments)
    console, url = Console(), asked.url
    if asked.port is not None:
        if _listens(asked.port):
            url = f"http://127.0.0.1:{asked.port}"
        else:
            console.print(f"No service on port {asked.port}; this is how its parts look from here.", soft_wrap=True)
    report = asyncio.run(ask_service(url)) if url else look_from_here()
    show(report, console)
    return 0 if report.health_score > WELL else 1


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(PATIENCE)
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
    logging.getLogger("pulsepool").addHandler(logging.NullHandler())  # the table says what is wrong
    try:
        with address():
            return asyncio.run(_look())
    except PulsePoolError as error:
        return Report.failed("settings", f"{error.message} ({error.hint})" if error.hint else error.message)


async def _look() -> Report:
    # Imported here, as settings that are wrong raise while they are imported.
    from src.config import settings  # noqa: PLC0415 - see above
    from src.models.async_database import close_async_database  # noqa: PLC0415 - see above

    try:
        return Report.model_validate((await HealthMonitor(settings).check_system_health()).to_dict())
    finally:
        await close_async_database(deadline=1.0)


if __name__ == "__main__":
    sys.exit(main())
