"""The database's schema, brought to a revision from a program; by hand it is `alembic upgrade head`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from pulsepool.dsn import Dsn
from pulsepool.errors import PulsePoolError

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_LIMIT = 5
"""Seconds that connecting may take, as in pulsepool."""
LOCK_NOT_AVAILABLE = "55P03"
"""SQLSTATE; psycopg has it in `sqlstate`, psycopg2 in `pgcode`."""


class MigrationBlocked(PulsePoolError, TimeoutError):
    """Somebody else held the schema for too long; nothing was changed. Try again when they are done."""


def upgrade(database: Dsn | Engine, revision: str = "head") -> None:
    """Bring `database` to `revision` in one transaction; nothing happens when it is there already.

    Processes that do this at the same time take turns. Raises `MigrationBlocked` when the turn, or a table, is not free
    in time (the limits are those of `migrations/env.py`), and what SQLAlchemy raises for everything else.
    """
    with connect(database) as connection:
        try:
            command.upgrade(configuration(connection), revision)
        except OperationalError as error:
            if LOCK_NOT_AVAILABLE not in (getattr(error.orig, "sqlstate", None), getattr(error.orig, "pgcode", None)):
                raise
            raise MigrationBlocked(
                f"the database was not brought to revision {revision}: a lock was not free in time",
                hint="another process is migrating, or keeps a table in a long transaction; look at pg_stat_activity",
            ) from error


def configuration(connection: Connection) -> Config:
    """What Alembic's commands need to work on `connection`, without alembic.ini."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))  # ConfigParser interpolates
    return config


@contextmanager
def connect(database: Dsn | Engine) -> Iterator[Connection]:
    """A connection for one run of migrations; one to a `Dsn` is made for it and closed for good."""
    engine = database if isinstance(database, Engine) else _engine(database)
    with engine.connect() as connection:
        yield connection


def _engine(dsn: Dsn) -> Engine:
    arguments = {"connect_timeout": CONNECT_LIMIT, **dsn.connect_args("psycopg")}
    return create_engine(dsn.sqlalchemy_url("psycopg"), connect_args=arguments, poolclass=NullPool)
