"""What a driver's error at connect means, in words that name the setting to change. Pure."""

import re
import socket
import ssl

from pulsepool.dsn import Dsn
from pulsepool.errors import DatabaseUnavailable
from pulsepool.settings import DatabaseSettings

REFUSALS = {
    "28P01": ("refused the password of {user}", "check the password in {password}"),
    "28000": ("does not let {user} in", "check the user in {user_place}, and the server's pg_hba.conf"),
    "3D000": ("has no database {database!r}", "create it, or check the name in {name}"),
    "53300": ("has no connection left", "lower max_size times the number of processes, or raise its max_connections"),
    "57P03": ("is starting up or shutting down", "try again in a moment"),
}
"""By SQLSTATE (PostgreSQL's appendix A): what the server did, and the remedy."""

LIBPQ_SAYS = {
    r"password authentication failed|no password supplied": "28P01",
    r"no pg_hba\.conf entry|role \".*\" (does not exist|is not permitted to log in)": "28000",
    r"FATAL: +database \".*\" does not exist": "3D000",
    r"too many clients|remaining connection slots": "53300",
    r"the database system is (starting up|shutting down|in recovery mode)": "57P03",
}
"""libpq gives no code for a refused connect, only text: how the server's English messages are recognised."""

NOBODY = r"Connection refused|Is the server running locally"
UNRESOLVED = r"could not translate host name|ame or service not known|failed to resolve host|No address associated"
SILENT = r"timeout expired|connection timeout"
NO_TLS = r"rejected SSL|does not support SSL|SSL error|certificate"


def unavailable(error: BaseException, dsn: Dsn, settings: DatabaseSettings, limit: float) -> DatabaseUnavailable:
    """Tell why no connection to `dsn` came to be within `limit` seconds. `error` is the driver's; chain it with `from`.

    asyncpg raises what happened as types and codes, libpq's drivers as text.
    """
    text = str(error).strip()
    sqlstate = sqlstate_of(error) or _code_in(text)
    if sqlstate in REFUSALS:
        did, remedy = REFUSALS[sqlstate]
        user = f"user {dsn.user!r}" if dsn.user else "this user"
        places = {"password": settings.place("password"), "user_place": settings.place("user")}
        message = f"the server at {dsn.where} {did.format(user=user, database=dsn.database)} ({sqlstate})"
        hint = remedy.format(**places, name=settings.place("name"))
    elif isinstance(error, TimeoutError) or re.search(SILENT, text):
        message = f"the server at {dsn.where} did not answer within {limit:.1f} s"
        hint = f"is it up, and does a firewall drop the packets? Check {settings.place('host', 'port')}"
    elif isinstance(error, socket.gaierror) or re.search(UNRESOLVED, text):
        message = f"the host name of {dsn.where} cannot be resolved"
        hint = f"check {settings.place('host')}"
    elif isinstance(error, FileNotFoundError) and not any(host.is_socket for host in dsn.hosts):
        message = f"a file that the address of {dsn.where} names is not there"
        hint = "check sslrootcert, sslcert, sslkey and sslcrl in the address"
    elif isinstance(error, ssl.SSLError) or re.search(NO_TLS, text):
        message = f"no TLS with the server at {dsn.where} ({first_line(text) or type(error).__name__})"
        hint = "check sslmode and sslrootcert in the address, and whether the server has a certificate for this name"
    elif isinstance(error, (ConnectionRefusedError, FileNotFoundError)) or re.search(NOBODY, text):
        message = f"nothing listens at {dsn.where}"
        hint = f"start PostgreSQL there, or check {settings.place('host', 'port')}"
    else:
        message = f"no connection to {dsn.where} ({first_line(text) or type(error).__name__})"
        hint = f"is it a PostgreSQL? Check {settings.place('host', 'port')}"
    failure = DatabaseUnavailable(message, hint=hint)
    failure.sqlstate = sqlstate
    return failure


def sqlstate_of(error: BaseException | None) -> str | None:
    """The server's code in a driver's error: asyncpg and psycopg call it `sqlstate`, psycopg2 `pgcode`; else None."""
    code: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code


def _code_in(text: str) -> str | None:
    return next((code for pattern, code in LIBPQ_SAYS.items() if re.search(pattern, text)), None)


def first_line(text: str) -> str:
    """What a driver says, without the context that may follow it."""
    return text.strip().partition("\n")[0]
