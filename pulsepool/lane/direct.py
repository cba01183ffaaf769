"""The direct lane: statements at the driver's speed, with the pool's limits and errors."""

# ruff: noqa: ASYNC109 - `timeout` is the driver's: it cancels the statement on the server, too

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, cast, overload

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.elements import ClauseElement

from pulsepool.alchemy import Cores, Record, acquire
from pulsepool.errors import ConfigurationError, PoolClosed
from pulsepool.lane.binds import Parameters
from pulsepool.lane.failures import typed
from pulsepool.lane.lent import LentConnection
from pulsepool.lane.plans import Plan
from pulsepool.lane.rows import Row
from pulsepool.lane.statements import Prepared, Statements
from pulsepool.pool import Pool, Slot
from pulsepool.pool.asyncpg import fetch
from pulsepool.pool.policy import is_time

BATCH = 500
"""Rows that a stream asks the server for at a time, unless told otherwise."""

MOST_ROWS = 2**31 - 1
"""What PostgreSQL's protocol counts rows with."""


class DirectLane(ABC):
    """Statements straight to the driver, each in a transaction of its own, on connections of the sessions' pool.

    A query is SQL text with `$1`, `$2`, … and its arguments, as asyncpg takes them; or a SQLAlchemy Core statement and
    at most one dictionary of parameters. Text gives asyncpg's records, a statement rows with its own types. `timeout`
    is in seconds and for the statement alone; the wait for a connection has `acquire_timeout`. json comes decoded, as
    SQLAlchemy's sessions set it up.

    All raise `PoolTimeout`, `PoolClosed`, `DatabaseUnavailable`; `CommitUnknown` when the connection is lost while a
    statement is under way that may write; `StatementTimeout`, also a `TimeoutError`, after `timeout`; and the driver's
    `asyncpg.PostgresError` for what the server refuses. `ConfigurationError` for a statement that only a session can
    do. A cancelled statement is cancelled on the server, too, and its connection lives.
    """

    _cores: Cores
    _core: Pool[Record] | None = None

    @property
    @abstractmethod
    def async_engine(self) -> AsyncEngine:
        """The engine whose dialect compiles statements."""

    @abstractmethod
    def _require_started(self) -> None:
        """Raise `PoolClosed` or `WrongLoop` when there is nothing to be had."""

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self.async_engine.dialect)

    @overload
    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[asyncpg.Record]: ...
    @overload
    async def fetch(self, query: ClauseElement, *args: Parameters, timeout: float | None = None) -> Sequence[Row]: ...
    async def fetch(self, query: str | ClauseElement, *args: Any, timeout: float | None = None) -> Any:
        """Give all rows."""
        if isinstance(query, str):
            return await self._rows(query, args, timeout)
        prepared = self._prepare(query, args)
        return prepared.plan.rows(await self._rows(prepared.sql, prepared.arguments, timeout, prepared.plan))

    @overload
    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record | None: ...
    @overload
    async def fetchrow(self, query: ClauseElement, *args: Parameters, timeout: float | None = None) -> Row | None: ...
    async def fetchrow(self, query: str | ClauseElement, *args: Any, timeout: float | None = None) -> Any:
        """Give the first row; None when there is none."""
        if isinstance(query, str):
            rows = await self._rows(query, args, timeout, limit=1)
        else:
            prepared = self._prepare(query, args)
            rows = prepared.plan.rows(await self._rows(prepared.sql, prepared.arguments, timeout, prepared.plan, 1))
        return rows[0] if rows else None

    async def fetchval(self, query: str | ClauseElement, *args: Any, timeout: float | None = None) -> Any:
        """Give the first row's first value; None when there is no row."""
        row = await self.fetchrow(query, *args, timeout=timeout)
        return row[0] if row is not None else None

    async def execute(self, query: str | ClauseElement, *args: Any, timeout: float | None = None) -> str:
        """Run it, and give the server's word for what was done: `INSERT 0 1`. Without arguments, several at a time."""
        if isinstance(query, str):
            return cast("str", await self._call("execute", query, args, timeout))
        prepared = self._prepare(query, args)
        return cast("str", await self._call("execute", prepared.sql, prepared.arguments, timeout))

    async def executemany(
        self, query: str | ClauseElement, args: Iterable[Any], *, timeout: float | None = None
    ) -> None:
        """Run it once for each of `args`, all or nothing: sequences for text, dictionaries for a statement."""
        if isinstance(query, str):
            await self._call("executemany", query, (args,), timeout)
            return
        self._require_started()  # as in `_prepare`
        many = self._statements.prepare_many(query, list(args))
        await self._call("executemany", many.sql, (many.arguments,), timeout)

    async def copy_to_table(self, table_name: str, *, timeout: float | None = None, **options: Any) -> str:
        """Fill a table from `source=`, a file or bytes; the other options are asyncpg's."""
        return cast("str", await self._call("copy_to_table", table_name, (), timeout, **options))

    async def copy_records_to_table(self, table_name: str, *, timeout: float | None = None, **options: Any) -> str:
        """Fill a table from `records=`, an iterable of sequences; the other options are asyncpg's."""
        return cast("str", await self._call("copy_records_to_table", table_name, (), timeout, **options))

    async def copy_from_table(self, table_name: str, *, timeout: float | None = None, **options: Any) -> str:
        """Write a table to `output=`, a path, a file, or a coroutine function; the other options are asyncpg's."""
        return cast("str", await self._call("copy_from_table", table_name, (), timeout, **options))

    async def copy_from_query(self, query: str, *args: Any, timeout: float | None = None, **options: Any) -> str:
        """Write a query's rows to `output=`, as `copy_from_table` does."""
        return cast("str", await self._call("copy_from_query", query, args, timeout, **options))

    @asynccontextmanager
    async def connection(self) -> "AsyncIterator[asyncpg.Connection[Any]]":
        """Lend the driver's own connection for the block.

        Whatever is done to its session, a SET, a LISTEN, an advisory lock, a temporary table, an open transaction, is
        undone when it comes home, by nobody who waits. Listeners are forgotten with the end of the block, and a
        connection that was given a type codec is closed, as nothing undoes that: both belong on a connection that is
        kept, of one's own. Used after the block it raises `NotHeld`.

        Errors are the driver's own; but when the connection is lost, the block raises `DatabaseUnavailable` if its last
        statement was not sent any more, else `CommitUnknown`, as only the block knows what that was.
        """
        slot = await self._acquire()
        slot.changed = True
        lent = LentConnection(slot)
        try:
            yield cast("asyncpg.Connection[Any]", lent)
        except Exception as error:
            driver = slot.connection.driver
            if driver.is_closed() and (failure := typed(error, driver, "")) is not None:
                raise failure from error
            raise
        finally:
            lent.end()
            slot.pool.release(slot)

    async def stream(
        self, query: str | ClauseElement, *args: Any, batch: int = BATCH, timeout: float | None = None
    ) -> AsyncIterator[Any]:
        """Give the rows of a large result one by one, holding `batch` of them in memory at a time.

        The result is one snapshot, in a transaction that only reads. Leave it by its end or with
        `contextlib.aclosing`: until then it holds its connection. `timeout`: of each batch.
        """
        if type(batch) is not int or not 1 <= batch <= MOST_ROWS:
            raise ConfigurationError(f"batch={batch!r} rows make no stream", hint=f"1 to {MOST_ROWS}")
        if timeout is not None:
            _check(timeout)
        prepared = None if isinstance(query, str) else self._prepare(query, args)
        sql, arguments = (str(query), list(args)) if prepared is None else (prepared.sql, prepared.arguments)
        slot = await self._acquire()
        slot.asked(sql)
        driver = slot.connection.driver
        try:
            transaction = driver.transaction(readonly=True)
            await transaction.start()
            if prepared is not None and prepared.plan.undescribed:
                await prepared.plan.describe(driver, sql)
            options = {} if prepared is None else {"record_class": prepared.plan.record_class}
            cursor = await driver.cursor(sql, *arguments, timeout=timeout, **options)
            while records := await cursor.fetch(batch, timeout=timeout):
                for row in records if prepared is None else prepared.plan.rows(records):
                    yield row
            await transaction.commit()  # left before that, it is rolled back by the keeper, and nobody waits for it
        except Exception as error:
            if (failure := typed(error, driver, "SELECT 1", timeout)) is not None:
                raise failure from error
            raise
        finally:
            slot.pool.release(slot)

    async def _rows(
        self, sql: str, args: Sequence[Any], timeout: float | None, plan: Plan | None = None, limit: int = 0
    ) -> Sequence[Any]:
        """The way that most statements go."""
        if timeout is not None:
            _check(timeout)
        core = self._core
        slot = core.take() if core is not None else None
        if slot is None or slot.mode:
            slot = await self._acquire(slot)
        slot.asked(sql)
        driver = slot.connection.driver
        try:
            if plan is None:
                records = await fetch(driver, sql, args, timeout, limit=limit)
            else:
                if plan.undescribed:
                    await plan.describe(driver, sql)
                records = await fetch(driver, sql, args, timeout, plan.record_class, limit)
        except BaseException as error:
            slot.pool.release(slot)
            if isinstance(error, Exception) and (failure := typed(error, driver, sql, timeout)) is not None:
                raise failure from error
            raise
        slot.pool.put_back(slot)
        return records

    async def _call(self, method: str, query: str, args: Iterable[Any], timeout: float | None, **options: Any) -> Any:
        if not isinstance(query, str):
            raise ConfigurationError(
                f"{method} takes text, and was given {type(query).__name__}", hint="use fetch, or a session, for it"
            )
        if timeout is not None:
            _check(timeout)
        slot = (self._core and self._core.take()) or await self._acquire()
        if slot.mode:
            slot = await self._acquire(slot)
        slot.asked(query)
        driver = slot.connection.driver
        try:
            return await getattr(driver, method)(query, *args, timeout=timeout, **options)
        except Exception as error:
            if (
                failure := typed(error, driver, "TABLE" if method == "copy_from_table" else query, timeout)
            ) is not None:
                raise failure from error
            raise
        finally:
            slot.pool.release(slot)

    def _prepare(self, statement: ClauseElement, args: Sequence[Any]) -> Prepared:
        if len(args) > 1 or (args and not isinstance(args[0], dict)):
            raise ConfigurationError(
                "a SQLAlchemy statement takes one dictionary of parameters at most",
                hint="give {'name': value}; for several, executemany",
            )
        self._require_started()  # its dialect learns from the first connection what the server can do
        return self._statements.prepare(statement, args[0] if args else None)

    async def _acquire(self, unfit: Slot[Record] | None = None) -> Slot[Record]:
        """Acquire a connection on the long way round; `unfit`: one that has to be prepared first."""
        if unfit is not None:
            return await acquire(unfit.pool, slot=unfit)
        self._require_started()
        while True:
            core = self._core = self._cores.here()
            try:
                return await acquire(core)
            except PoolClosed:  # disposed of while this caller waited, or closed for good
                if self._cores.closed:
                    raise


def _check(timeout: float) -> None:
    if not is_time(timeout):
        raise ConfigurationError(f"timeout={timeout!r} is no time", hint="give seconds, or None for no limit")
