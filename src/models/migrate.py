"""The database's schema, brought to a revision from a program; by hand it is `alembic upgrade head`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, NullPool, create_engine, func, literal, select
from sqlalchemy.exc import DBAPIError

from pulsepool.dsn import Dsn
from pulsepool.errors import PulsePoolError

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_LIMIT = 5
"""Seconds that connecting may take, as in pulsepool."""

LOCK_NOT_AVAILABLE = "55P03"
NOT_ALLOWED = ("42501", "3F000")
TAKEN = ("42P07", "42710", "42723")
"""SQLSTATEs. Insufficient privilege, and no schema to create in (there may be one that this user must not use); a
table or index, another object, and a function of that name are there already."""


class MigrationBlocked(PulsePoolError, TimeoutError):
    """Somebody else held the schema for too long; nothing was changed. Try again when they are done."""


class MigrationRefused(PulsePoolError):
    """The database is not the service's to change: a right is missing, or a name is taken. Nothing was changed."""


def upgrade(database: Dsn | Engine, revision: str = "head") -> None:
    """Bring `database` to `revision` in one transaction; nothing happens when it is there already.

    Processes that do this at the same time take turns. Raises `MigrationBlocked` when the turn, or a table, is not free
    in time (the limits are those of `migrations/env.py`), `MigrationRefused`, and what SQLAlchemy raises for
    everything else.
    """
    with connect(database) as connection:
        try:
            command.upgrade(configuration(connection), revision)
        except DBAPIError as error:
            explained = _explain(error, connection, revision)
            if explained is None:
                raise
            raise explained from error


def configuration(connection: Connection) -> Config:
    """What Alembic's commands need to work on `connection`, without alembic.ini."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))  # ConfigParser interpolates
    return config


@contextmanager
def connect(database: Dsn | Engine) -> Iterator[Connection]:
    """A connection for one run of migrations; one to a `Dsn` is made for it and closed for good.

    It is made by the driver that the `Dsn` names when that is synchronous and installed, else by psycopg2, the
    service's own.
    """
    engine = database if isinstance(database, Engine) else _engine(database)
    with engine.connect() as connection:
        yield connection


def _engine(dsn: Dsn) -> Engine:
    driver = "psycopg" if dsn.driver == "psycopg" and find_spec("psycopg") else "psycopg2"
    arguments = {"connect_timeout": CONNECT_LIMIT, **dsn.connect_args(driver)}
    return create_engine(dsn.sqlalchemy_url(driver), connect_args=arguments, poolclass=NullPool)


def _explain(error: DBAPIError, connection: Connection, revision: str) -> PulsePoolError | None:
    """The error to raise instead of the server's; None when it has to speak for itself."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    what = f"the database was not brought to revision {revision}"
    if state == LOCK_NOT_AVAILABLE:
        return MigrationBlocked(
            f"{what}: a lock was not free in time",
            hint="another process is migrating, or keeps a table in a long transaction; look at pg_stat_activity",
        )
    reason = str(error.orig).partition("\n")[0]
    if state in NOT_ALLOWED:
        return MigrationRefused(
            f"{what}: {reason}",
            hint=f"the database's owner can allow it: {_grant(connection)}; what is there already must be that user's",
        )
    if state in TAKEN:
        return MigrationRefused(
            f"{what}: {reason}",
            hint="it is somebody else's: rename it, or give the service a database of its own in DATABASE_URL",
        )
    return None


def _grant(connection: Connection) -> str:
    schema = func.coalesce(func.current_schema(), "public")
    statement = func.format(literal("GRANT USAGE, CREATE ON SCHEMA %I TO %I"), schema, func.current_user())
    with connection.begin():
        return str(connection.scalar(select(statement)))
