"""Where the database is when nobody says so: an embedded server in this folder."""

import contextlib
import os
import secrets
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
        password = _password(data.with_suffix(".password"))
    except OSError as error:
        raise ConfigurationError(
            f"no PostgreSQL of our own in {data.parent} ({error.strerror})",
            hint="make this folder writable, or set DATABASE_URL",
        ) from error
    with EmbeddedPostgres(data, password=password) as server:
        server.create_database("edbotv8", exist_ok=True)
        os.environ["DATABASE_URL"] = server.url("edbotv8")
        yield f"embedded, on 127.0.0.1:{server.port}, data in {server.data}"


def _password(file: Path) -> str:
    """A password of this folder's own: anybody on the machine can reach the server's port."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_urlsafe(24))
    return file.read_text()
