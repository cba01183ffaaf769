"""All that is async here runs on virtual time: nothing sleeps, and what awaits in vain fails at once."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pulsepool.pool import Limits, Pool
from tests.unit.pool.clock import VirtualLoop
from tests.unit.pool.scripted import Driver


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], VirtualLoop]]:
    return {"virtual time": VirtualLoop}


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def make(driver: Driver) -> Callable[..., Pool[Any]]:
    """Make a pool of `driver`, with no dice, and `Limits` as given."""

    def make_pool(timeout_error: Any = None, **limits: Any) -> Pool[Any]:
        more = {} if timeout_error is None else {"timeout_error": timeout_error}
        return Pool(driver, Limits(**{"min_size": 0, **limits}), dice=lambda: 0.0, **more)

    return make_pool
