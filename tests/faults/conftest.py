"""The service on a server that may be killed and has a planted password."""

from collections.abc import Callable, Iterator

import httpx2
import pytest

from pulsepool.embedded import EmbeddedPostgres
from tests.service import Service


@pytest.fixture(scope="module")
def edbotv8(mortal: EmbeddedPostgres) -> str:
    """The address of the service's database on the server that may be killed."""
    mortal.create_database("edbotv8")
    return mortal.url("edbotv8")


@pytest.fixture
def service(edbotv8: str) -> Iterator[Callable[..., Service]]:
    """Start the service; it is stopped after the test."""
    started: list[Service] = []

    def start(url: str | None = None, *arguments: str, **environment: str) -> Service:
        started.append(Service(url or edbotv8, *arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    """A client that waits for no more than ten seconds."""
    with httpx2.Client(timeout=10) as client:
        yield client
