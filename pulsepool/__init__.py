"""An async database connection layer with a pulse, for FastAPI, SQLAlchemy and PostgreSQL."""

from pulsepool.database import Database
from pulsepool.dsn import Dsn
from pulsepool.errors import (
    BlockedLoop,
    CommitUnknown,
    ConfigurationError,
    DatabaseUnavailable,
    PoolClosed,
    PoolTimeout,
    PulsePoolError,
)
from pulsepool.settings import DatabaseSettings

__all__ = [
    "BlockedLoop",
    "CommitUnknown",
    "ConfigurationError",
    "Database",
    "DatabaseSettings",
    "DatabaseUnavailable",
    "Dsn",
    "PoolClosed",
    "PoolTimeout",
    "PulsePoolError",
]
