"""Alembic's way in: each run is one transaction under one lock, with waits that end.

It migrates `config.attributes["connection"]` if there is one, else the database of `src.config.settings`. No address
goes through alembic.ini: ConfigParser would read a `%` of the password as its own.
"""

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, func, select

from src.models.entities import Base
from src.models.migrate import connect

LOCK = 0x7065_6462  # any number that no other user of this database takes
QUEUE_LIMIT = 60_000
"""Milliseconds to wait for another process that is migrating this database."""
LOCK_LIMIT = 5_000
"""Milliseconds to wait for a table: everybody who comes after waits behind us."""
STATEMENT_LIMIT = 600_000
"""Milliseconds for one statement, instead of the service's own limit: an index may take minutes to build."""


def migrate(connection: Connection) -> None:
    """Run what was asked for, alone: who comes second waits, and then finds the work done."""
    with connection.begin():
        connection.execute(
            select(
                func.set_config("statement_timeout", str(STATEMENT_LIMIT), True),  # noqa: FBT003 - PostgreSQL's is_local
                func.set_config("lock_timeout", str(QUEUE_LIMIT), True),  # noqa: FBT003
            )
        )
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        connection.execute(select(func.set_config("lock_timeout", str(LOCK_LIMIT), True)))  # noqa: FBT003
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

given = context.config.attributes.get("connection")
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif given is not None:
    migrate(given)
else:
    from src.config import settings

    with connect(settings.dsn) as opened:
        migrate(opened)
