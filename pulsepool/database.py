"""`Database`: one address, both engines, a start that checks and a stop that ends."""

import importlib.util
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from pulsepool.alchemy import Gate, build_async_engine, build_sync_engine, close_async_engine
from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError, PoolClosed
from pulsepool.sessions import sync_unit_of_work, unit_of_work
from pulsepool.settings import DatabaseOptions, DatabaseSettings

logger = logging.getLogger("pulsepool")

WITHOUT_EFFECT = {"max_idle", "keepalive", "leak_after", "pgbouncer"}
"""Settings that SQLAlchemy's own pool cannot honour: said loudly rather than taken silently."""

SYNC_DRIVERS = ("psycopg", "psycopg2")
"""In order of preference, when the address names none of them."""


class Database:
    """A PostgreSQL database with an async and a sync engine from one address.

    `address`: whatever `Dsn.parse` takes, or a `Dsn`. `name`: how logs and errors call it. The options are those of
    `DatabaseSettings`, whose environment has no say here; `Database.from_env()` is for that.
    Raises `ConfigurationError` for an address or an option that is wrong; connects to nothing yet.
    """

    def __init__(self, address: str | Dsn, *, name: str = "main", **options: Unpack[DatabaseOptions]) -> None:
        self._setup(
            address if isinstance(address, Dsn) else Dsn.parse(address), DatabaseSettings.explicit(**options), name
        )

    @classmethod
    def from_env(cls, prefix: str = "DB_", *, name: str = "main", env_file: str | Path | None = ".env") -> Self:
        """The database that `DATABASE_URL` and `DB_*` describe; see `DatabaseSettings.from_env`."""
        return cls.from_settings(DatabaseSettings.from_env(prefix, env_file), name=name)

    @classmethod
    def from_settings(cls, settings: DatabaseSettings, *, name: str = "main") -> Self:
        """The database that `settings` describe. Raises `ConfigurationError` when they hold no address."""
        database = cls.__new__(cls)
        database._setup(settings.dsn, settings, name)  # noqa: SLF001 - our own, being made
        return database

    def _setup(self, dsn: Dsn, settings: DatabaseSettings, name: str) -> None:
        self.name = name
        self.dsn = dsn
        self.settings = settings
        self._gate = Gate(name, settings)
        self._sync_gate = Gate(f"{name} (sync)", settings)
        self._started = False
        for setting in sorted(WITHOUT_EFFECT & settings.model_fields_set):
            logger.warning("database %r: %s has no effect yet", name, setting)

    def __repr__(self) -> str:
        state = "started" if self._started else "not started"
        return f"<Database {self.name}: {self.dsn}, {state}>"

    @cached_property
    def async_engine(self) -> AsyncEngine:
        """An ordinary SQLAlchemy engine on asyncpg."""
        return build_async_engine(self.dsn, self.settings, self._gate)

    @cached_property
    def sync_engine(self) -> Engine:
        """An ordinary synchronous SQLAlchemy engine, on the driver that the address names, or psycopg, or psycopg2."""
        return build_sync_engine(self.dsn, self.settings, self._sync_gate, self._sync_driver())

    def _sync_driver(self) -> str:
        wanted = (self.dsn.driver,) if self.dsn.driver in SYNC_DRIVERS else SYNC_DRIVERS
        for driver in wanted:
            if importlib.util.find_spec(driver) is not None:
                return driver
        raise ConfigurationError(
            f"no synchronous driver is installed ({' or '.join(wanted)})", hint="pip install 'pulsepool[sync]'"
        )

    @cached_property
    def _sessions(self) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(self.async_engine, expire_on_commit=False)

    @cached_property
    def _sync_sessions(self) -> sessionmaker[Session]:
        return sessionmaker(self.sync_engine, expire_on_commit=False)

    def open(self) -> None:
        """Let both engines lend connections, again after a `stop()`; connects to nothing."""
        self._gate.closed = self._sync_gate.closed = False

    async def start(self) -> None:
        """Open `min_size` connections, at least one: what cannot work is known now, not with the first user.

        Raises `DatabaseUnavailable` or `ConfigurationError` naming what is wrong and the remedy; then nothing stays
        open. Starting twice is no error.
        """
        if self._started:
            return
        self.open()
        try:
            async with AsyncExitStack() as held:
                for _ in range(max(self.settings.min_size, 1)):
                    await held.enter_async_context(self.async_engine.connect())
        except BaseException:
            await self.stop(deadline=1.0)
            raise
        self._started = True
        address = self.dsn.replace(driver=None)
        logger.info("database %r started: %s, at most %d connections", self.name, address, self.settings.max_size)

    async def stop(self, deadline: float = 10.0) -> None:
        """Refuse new work, wait for the work under way, and be closed `deadline` seconds from now at the latest.

        Sessions that still hold a connection near the end lose it: their next statement raises `DatabaseUnavailable`.
        """
        self._started = False
        self._gate.closed = self._sync_gate.closed = True
        if "async_engine" in self.__dict__:
            ended = await close_async_engine(self.async_engine, self._gate, deadline=deadline)
            if ended:
                logger.warning("database %r stopped while %d connections were still held", self.name, ended)
        if "sync_engine" in self.__dict__:
            self.sync_engine.dispose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed on success, rolled back on any error or cancellation.

        The server hears BEGIN only with the first statement. Objects stay readable after the commit.
        Raises `PoolClosed` outside `start()` and `stop()`, `PoolTimeout`, `DatabaseUnavailable`, and `CommitUnknown`
        when the connection is lost during COMMIT; whatever else the body or the commit raises passes through.
        """
        self._require_started()
        async with unit_of_work(self._sessions()) as session:
            yield session

    @contextmanager
    def sync_session(self) -> Iterator[Session]:
        """The same on the sync engine, for a thread of its own. Raises `BlockedLoop` where an event loop is running."""
        self._require_started()
        with sync_unit_of_work(self._sync_sessions()) as session:
            yield session

    def _require_started(self) -> None:
        if not self._started:
            raise PoolClosed(
                f"database {self.name!r} is not started", hint="use `async with database:`, or await database.start()"
            )
