"""`Database`: one address, both engines, a start that checks and a stop that ends."""

import asyncio
import importlib.util
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from pulsepool.alchemy import (
    Gate,
    Record,
    build_async_engine,
    build_reading_engine,
    build_sync_engine,
    close_engines,
    make_cores,
)
from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError, PoolClosed, WrongLoop
from pulsepool.lane import DirectLane
from pulsepool.pool import Pool, PoolStats
from pulsepool.pool.policy import is_time
from pulsepool.sessions import GIVING_UP, Reading, Writing, outwait, sync_unit_of_work
from pulsepool.settings import DatabaseOptions, DatabaseSettings

logger = logging.getLogger("pulsepool")

WITHOUT_EFFECT = {"pgbouncer"}
"""Settings that nothing honours yet: said loudly rather than taken silently."""

SYNC_DRIVERS = ("psycopg", "psycopg2")
"""In order of preference, when the address names none of them."""


class Database(DirectLane):
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
        self._cores = make_cores(name, dsn, settings)
        self._sync_gate = Gate(f"{name} (sync)", settings)
        self._making = threading.RLock()  # two threads that are first must not make two engines
        self._loop: asyncio.AbstractEventLoop | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
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
        return build_async_engine(self.dsn, self.settings, self._cores)

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
    def _reading_sessions(self) -> async_sessionmaker[AsyncSession]:
        engine = build_reading_engine(self.async_engine, self._cores)
        return async_sessionmaker(engine, expire_on_commit=False, close_resets_only=False)

    @cached_property
    def _sync_sessions(self) -> sessionmaker[Session]:
        return sessionmaker(self.sync_engine, expire_on_commit=False, close_resets_only=False)

    def open(self) -> None:
        """Let both engines lend connections, again after a `stop()`; connects to nothing."""
        self._cores.closed = self._sync_gate.closed = False

    async def start(self) -> None:
        """Open `min_size` connections, at least one: what cannot work is known now, not with the first user.

        Raises `DatabaseUnavailable` or `ConfigurationError` naming what is wrong and the remedy; then nothing stays
        open. Starting what is started is no error; of two who start at the same time, the second waits for the first.
        """
        async with self._changing:
            if self._started and self._is_home():
                return
            self.open()
            try:
                await self.pool.start()
            except BaseException:
                await self._close(deadline=1.0)
                raise
            self._started = True
            self._home, self._process = asyncio.get_running_loop(), os.getpid()
        address, most = self.dsn.replace(driver=None), self.settings.max_size
        logger.info("database %r started: %s, at most %d connections for each engine", self.name, address, most)

    @property
    def pool(self) -> Pool[Record]:
        """The asynchronous pool, for `drain()`, `resize()`, `suspend()` and `resume()`; a new one after each `start()`.

        Raises `PoolClosed` after `stop()`, `WrongLoop` elsewhere than in the loop that started it, and `RuntimeError`
        where no event loop is running.
        """
        if self._started:
            self._require_started()
        self.async_engine  # noqa: B018 - it brings the pools to life
        return self._cores.here()

    def stats(self) -> PoolStats:
        """Give the asynchronous pool's numbers at this moment; all 0 before its first use."""
        pool = self._cores.of(self._home)
        return pool.stats() if pool is not None else PoolStats()

    async def stop(self, deadline: float = 10.0) -> None:
        """Refuse new work, wait for the work under way, and be closed `deadline` seconds from now at the latest.

        Sessions that still hold a connection near the end lose it: their next statement raises `DatabaseUnavailable`.
        Callers who wait for one get `PoolClosed`, at the latest when their `acquire_timeout` is over.
        """
        if not is_time(deadline) or deadline < 0:
            raise ConfigurationError(f"deadline={deadline!r} is no time", hint="give seconds")
        self._cores.interrupt()  # a start that is under way would hold us up
        await self._close_in_turn(deadline, lambda: True)

    async def _close_in_turn(self, deadline: float, wanted: Callable[[], bool]) -> None:
        """Close it when nobody else starts or stops it, if it is still `wanted` then, all within `deadline` seconds."""
        loop, changing = asyncio.get_running_loop(), self._changing
        ends = loop.time() + deadline
        try:
            async with asyncio.timeout_at(ends):
                await changing.acquire()
        except TimeoutError:
            return  # another stop is closing it, by a deadline of its own
        try:
            if wanted():
                await self._close(max(ends - loop.time(), 0.0))
        finally:
            changing.release()

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
                await self._close_in_turn(stop_deadline, lambda: self._users == 0)  # unless somebody came meanwhile

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
        self._sync_gate.closed = True
        closing = close_engines(self._cores, vars(self).get("_sync_engine"), deadline=deadline)
        task = asyncio.create_task(closing, name=f"pulsepool: close {self.name}")
        cancelled = await outwait(task, deadline + GIVING_UP)
        if cancelled is not None:
            raise cancelled
        if task.done() and task.result():
            logger.warning("database %r stopped while %d connections were still held", self.name, task.result())

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session in one transaction: committed on success, rolled back on any error or cancellation.

        The server hears BEGIN only with the first statement. Objects stay readable after the commit. What is SET for
        the session rather than for the transaction (`SET LOCAL`) is undone when its connection comes home.
        Raises `PoolClosed` outside `start()` and `stop()`, `WrongLoop`, `PoolTimeout`, `DatabaseUnavailable`, and
        `CommitUnknown` when the connection is lost during COMMIT; whatever else the body or the commit raises passes.
        """
        self._require_started()
        return Writing(self._sessions())

    def read(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that only reads: one round trip for each statement, and the server refuses to write.

        Each statement sees what is committed when it begins: there is no transaction around them, so a savepoint fails.
        Raises as `session` does, but never `CommitUnknown`; a write, and `select … for update`, is a `DBAPIError` with
        the SQLSTATE 25006. Who says `begin read write` means it.
        """
        self._require_started()
        return Reading(self._reading_sessions())

    @contextmanager
    def sync_session(self) -> Iterator[Session]:
        """The same on the sync engine, for a script, or a thread of its own. Raises `BlockedLoop` on a running loop.

        Works without `start()`, which a script has no loop for; after `stop()` it raises `PoolClosed`.
        """
        with sync_unit_of_work(self._sync_sessions()) as session:
            yield session

    def _is_home(self) -> bool:
        """Whether the running loop is the one that it was started on; a forked process makes its own home.

        Raises `WrongLoop` for another loop, unless the first one is closed: nobody can stop it there any more.
        """
        loop = asyncio.get_running_loop()
        if self._home is loop:
            return True
        if self._process != os.getpid():
            self._home, self._process = loop, os.getpid()
            if (sync_engine := vars(self).get("_sync_engine")) is not None:
                sync_engine.dispose(close=False)
            return True
        if self._home is not None and not self._home.is_closed():
            raise WrongLoop(
                f"database {self.name!r} was started on another event loop than the one that is running",
                hint="start and stop it in the loop that uses it (in pytest: one loop scope for fixture and test)",
            )
        return False

    def _require_started(self) -> None:
        if self._started and (self._home is asyncio.get_running_loop() or self._is_home()):
            return
        if self._started:
            raise WrongLoop(
                f"database {self.name!r} was started on an event loop that is closed now",
                hint="stop it before its loop ends, and start it in the loop that uses it",
            )
        raise PoolClosed(
            f"database {self.name!r} is not started", hint="use `async with database:`, or await database.start()"
        )
