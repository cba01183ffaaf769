"""What a driver's error at connect means, in words that name the setting to change."""

import socket
import ssl

from pulsepool.dsn import Dsn
from pulsepool.errors import DatabaseUnavailable

WHERE = "DATABASE_URL, or DB_HOST and DB_PORT"

REFUSALS = {
    "28P01": ("refused the password of user {user!r}", "check the password in DATABASE_URL, or DB_PASSWORD"),
    "28000": ("does not let user {user!r} in", "check the user in DATABASE_URL, or DB_USER, and its pg_hba.conf"),
    "3D000": ("has no database {database!r}", "create it, or check the name in DATABASE_URL, or DB_NAME"),
    "53300": ("has no connection left", "lower max_size times the number of processes, or raise its max_connections"),
    "57P03": ("is starting up or shutting down", "try again in a moment"),
}
"""By SQLSTATE (PostgreSQL's appendix A): what the server did, and the remedy."""


def unavailable(error: BaseException, dsn: Dsn, *, connect_timeout: float) -> DatabaseUnavailable:
    """Tell why no connection to `dsn` came to be. `error` is what the driver raised; chain it with `from`."""
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if sqlstate in REFUSALS:
        did, hint = REFUSALS[sqlstate]
        message = f"the server at {dsn.where} {did.format(user=dsn.user, database=dsn.database)} ({sqlstate})"
    elif isinstance(error, TimeoutError):
        message = f"the server at {dsn.where} did not answer within {connect_timeout:.1f} s"
        hint = f"is it up, and does a firewall drop the packets? Check {WHERE}"
    elif isinstance(error, socket.gaierror):
        message = f"the host name in {dsn.where} cannot be resolved"
        hint = f"check {WHERE}"
    elif isinstance(error, ssl.SSLError):
        message = f"no TLS with the server at {dsn.where} ({getattr(error, 'reason', None) or error})"
        hint = "check sslmode and sslrootcert in the address, and the server's certificate"
    elif isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        message = f"nothing listens at {dsn.where}"
        hint = f"start PostgreSQL there, or check {WHERE}"
    else:
        lines = str(error).strip().splitlines()
        message = f"no connection to {dsn.where} ({lines[0] if lines else type(error).__name__})"
        hint = f"check {WHERE}"
    failure = DatabaseUnavailable(message, hint=hint)
    failure.sqlstate = sqlstate
    return failure
