"""The service's database, migrated and seeded once; its connections closed in the loop that opened them."""

import sys
from collections.abc import AsyncIterator

import pytest

from pulsepool.embedded import EmbeddedPostgres


@pytest.fixture(autouse=True)
async def _service_connections_end_with_their_loop() -> AsyncIterator[None]:
    yield
    if "src.models.async_database" in sys.modules:
        from src.models.async_database import close_async_database

        await close_async_database(deadline=2.0)


@pytest.fixture(scope="session")
def edbot(pg_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """The server whose database `edbotv8` has the service's tables and corpus."""
    from sqlalchemy.orm import Session

    from src.models.database import engine
    from src.models.migrate import upgrade
    from src.pipeline.seed import load_corpus, seed

    upgrade(engine)
    with Session(engine) as session, session.begin():
        seed(session, load_corpus())
    return pg_server
