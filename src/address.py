"""Where the database is when nobody says so: an embedded server in this folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pulsepool import DatabaseSettings
from pulsepool.embedded import EmbeddedPostgres

DATA = Path(".pulsepool/edbotv8")
LOGIN = "postgres"
"""User and password of the embedded server, which listens on loopback alone: PRP-27's own, `postgres:postgres`."""


@contextlib.contextmanager
def address(data: Path = DATA) -> Iterator[str]:
    """Put an address into `DATABASE_URL` unless the environment or `.env` has one; say in a few words where it leads.

    The embedded server ends with the block, but one that another process started in the same folder goes on.
    To be entered before `src.config` is imported, which reads the environment once.
    """
    settings = DatabaseSettings()
    if settings.url or settings.host:
        yield str(settings.dsn)
        return
    data.parent.mkdir(parents=True, exist_ok=True)
    with EmbeddedPostgres(data, user=LOGIN, password=LOGIN) as server:
        server.create_database("edbotv8", exist_ok=True)
        os.environ["DATABASE_URL"] = server.url("edbotv8")
        yield f"embedded, on 127.0.0.1:{server.port}, data in {server.data}"
