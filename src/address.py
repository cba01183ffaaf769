"""Where the database is when nobody says so: an embedded server in this folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pulsepool import ConfigurationError, DatabaseSettings
from pulsepool.embedded import EmbeddedPostgres

DATA = Path(".pulsepool/edbotv8")
ADDRESS = {"url", "user", "password", "host", "port", "name"}


@contextlib.contextmanager
def address(data: Path = DATA) -> Iterator[str]:
    """Put an address into `DATABASE_URL` unless the environment or `.env` has one; say in a few words where it leads.

    The embedded server ends with the block, but one that another process started in the same folder goes on.
    To be entered before `src.config` is imported, which reads the environment once.
    """
    if said := ADDRESS & DatabaseSettings().model_fields_set:
        yield f"of your own ({', '.join(sorted(said))})"
        return
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"no PostgreSQL of our own in {data.parent} ({error.strerror})",
            hint="make this folder writable, or set DATABASE_URL",
        ) from error
    # Anybody on the machine can reach its port, so its password is of this folder's own.
    with EmbeddedPostgres(data, password=None) as server:
        server.create_database("edbotv8", exist_ok=True)
        os.environ["DATABASE_URL"] = server.url("edbotv8")
        yield f"embedded, on 127.0.0.1:{server.port}, data in {server.data}"
