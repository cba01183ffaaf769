"""`Database`: one address, both engines, a start that checks and a stop that ends."""

import asyncio
import importlib.util
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from pulsepool.alchemy import Gate, build_async_engine, build_sync_engine, close_engines
from pulsepool.diagnosis import unavailable
from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError, PoolClosed
from pulsepool.sessions import GIVING_UP, outwait, sync_unit_of_work, unit_of_work
from pulsepool.settings import DatabaseOptions, DatabaseSettings

logger = logging.getLogger("pulsepool")

WITHOUT_EFFECT = {"max_idle", "keepalive", "leak_after", "pgbouncer"}
"""Settings that SQLAlchemy's own pool cannot honour: said loudly rather than taken silently."""

SYNC_DRIVERS = ("psycopg", "psycopg2")
"""In order of preference, when the address names none of them."""


class Database:
    """A PostgreSQL database with an async and a sync engine from one address.

    `address`: whatever `Dsn.parse` takes, or a `Dsn`. `name`: how logs and errors call it. The options are those of
    `DatabaseSettings` that are not the address; the environment has no say, `Database.from_env()` is for that.
    Raises `ConfigurationError` for an address or an option that is wrong; connects to nothing yet.
    """

    name = "?"
    _started = False
    _users = 0

    def __init__(self, address: str | Dsn, *, name: str = "main", **options: Unpack[DatabaseOptions]) -> None:
        settings = DatabaseSettings.explicit(**options)
        dsn = address if isinstance(address, Dsn) else Dsn.parse(address)
        if isinstance(settings.password, SecretStr):
            dsn = dsn.merge(password=settings.password)
        self._setup(dsn, settings, name)

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
        self._making = threading.RLock()  # two threads that are first must not make two engines
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._runs: list[AbstractAsyncContextManager[Self]] = []
        for setting in sorted(WITHOUT_EFFECT & settings.model_fields_set):
            logger.warning("database %r: %s has no effect yet", name, setting)

    def __repr__(self) -> str:
        state = "started" if self._started else "not started"
        address = vars(self).get("dsn", "no address")  # a traceback may show one that was not made
        return f"<Database {self.name}: {address}, {state}>"

    @property
    def async_engine(self) -> AsyncEngine:
        """An ordinary SQLAlchemy engine on asyncpg."""
        with self._making:
            return self._async_engine

    @property
    def sync_engine(self) -> Engine:
        """An ordinary synchronous SQLAlchemy engine, on the driver that the address names, or psycopg, or psycopg2."""
        with self._making:
            return self._sync_engine

    @cached_property
    def _async_engine(self) -> AsyncEngine:
        return build_async_engine(self.dsn, self.settings, self._gate)

    @cached_property
    def _sync_engine(self) -> Engine:
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
        return async_sessionmaker(self.async_engine, expire_on_commit=False, close_resets_only=False)

    @cached_property
    def _sync_sessions(self) -> sessionmaker[Session]:
        return sessionmaker(self.sync_engine, expire_on_commit=False, close_resets_only=False)

    def open(self) -> None:
        """Let both engines lend connections, again after a `stop()`; connects to nothing."""
        self._gate.closed = self._sync_gate.closed = False

    async def start(self) -> None:
        """Open `min_size` connections, at least one: what cannot work is known now, not with the first user.

        Raises `DatabaseUnavailable` or `ConfigurationError` naming what is wrong and the remedy; then nothing stays
        open. Starting what is started is no error; of two who start at the same time, the second waits for the first.
        """
        async with self._changing:
            if self._started:
                return
            self.open()
            try:
                async with AsyncExitStack() as held:
                    for _ in range(max(self.settings.min_size, 1)):
                        await held.enter_async_context(self.async_engine.connect())
            except BaseException as error:
                await self._close(deadline=1.0)
                if isinstance(error, DBAPIError):  # it let us in, and was gone before the driver's first questions
                    cause = error.orig or error
                    raise unavailable(cause, self.dsn, self.settings, self.settings.connect_timeout) from error
                raise
            self._started = True
        address, most = self.dsn.replace(driver=None), self.settings.max_size
        logger.info("database %r started: %s, at most %d connections for each engine", self.name, address, most)

    async def stop(self, deadline: float = 10.0) -> None:
        """Refuse new work, wait for the work under way, and be closed `deadline` seconds from now at the latest.

        Sessions that still hold a connection near the end lose it: their next statement raises `DatabaseUnavailable`.
        Callers who wait for one get `PoolClosed`, at the latest when their `acquire_timeout` is over.
        """
        async with self._changing:
            await self._close(deadline)

    @asynccontextmanager
    async def running(self, stop_deadline: float = 10.0) -> AsyncIterator[Self]:
        """Start it, and stop it when the last of those who run it leaves; `async with database:` is the same."""
        self._users += 1
        try:
            await self.start()
            yield self
        finally:
            self._users -= 1
            if self._users == 0:
                async with self._changing:
                    if self._users == 0:  # nobody came while we waited for our turn
                        await self._close(stop_deadline)

    async def __aenter__(self) -> Self:
        running = self.running()
        await running.__aenter__()
        self._runs.append(running)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runs.pop().__aexit__(kind, error, trace)

    @property
    def _changing(self) -> asyncio.Lock:
        """Who starts or stops it holds this; a lock of asyncio's is of one event loop, and there may be another one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _close(self, deadline: float) -> None:
        """Close it to the end even when cancelled: half closed, it would keep connections that nobody ends."""
        self._started = False
        self._gate.closed = self._sync_gate.closed = True
        made = vars(self)
        closing = close_engines(made.get("_async_engine"), made.get("_sync_engine"), deadline=deadline)
        task = asyncio.create_task(closing, name=f"pulsepool: close {self.name}")
        cancelled = await outwait(task, deadline + GIVING_UP)
        if cancelled is not None:
            raise cancelled
        if task.done() and task.result():
            logger.warning("database %r stopped while %d connections were still held", self.name, task.result())

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
        """The same on the sync engine, for a script, or a thread of its own. Raises `BlockedLoop` on a running loop.

        Works without `start()`, which a script has no loop for; after `stop()` it raises `PoolClosed`.
        """
        with sync_unit_of_work(self._sync_sessions()) as session:
            yield session

    def _require_started(self) -> None:
        if not self._started:
            raise PoolClosed(
                f"database {self.name!r} is not started", hint="use `async with database:`, or await database.start()"
            )
