"""An async database connection layer with a pulse, for FastAPI, SQLAlchemy and PostgreSQL."""

from pulsepool.alchemy import PulsePool
from pulsepool.database import Database
from pulsepool.dsn import Dsn
from pulsepool.errors import (
    BlockedLoop,
    CommitUnknown,
    ConfigurationError,
    DatabaseUnavailable,
    NotHeld,
    PoolClosed,
    PoolTimeout,
    PulsePoolError,
    StatementTimeout,
    WrongLoop,
)
from pulsepool.pool import PoolStats
from pulsepool.settings import DatabaseSettings

__all__ = [
    "BlockedLoop",
    "CommitUnknown",
    "ConfigurationError",
    "Database",
    "DatabaseSettings",
    "DatabaseUnavailable",
    "Dsn",
    "NotHeld",
    "PoolClosed",
    "PoolStats",
    "PoolTimeout",
    "PulsePool",
    "PulsePoolError",
    "StatementTimeout",
    "WrongLoop",
]
