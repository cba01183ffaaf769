"""The drivers' own: asyncpg without a pool, asyncpg.Pool, psycopg_pool."""

# ruff: noqa: D102 - told once, at `Peer`

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from benchmarks import data
from benchmarks.peers.base import ASYNCPG, BARE, BIND_EXECUTE, NO_RESET, PSYCOPG, WAIT, Peer
from pulsepool.pool.asyncpg import fetch


class Bare(Peer):
    """asyncpg's connections in a deque, handed to the oldest waiter: the limit, and careless as no pool can be."""

    name = BARE

    async def open(self) -> None:
        self._idle = deque([await asyncpg.connect(self.url) for _ in range(self.most)])
        self._waiters: deque[asyncio.Future[asyncpg.Connection[asyncpg.Record]]] = deque()

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()

    async def _acquire(self) -> asyncpg.Connection:
        if self._idle:
            return self._idle.pop()
        waiter: asyncio.Future[asyncpg.Connection[asyncpg.Record]] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    def _release(self, connection: asyncpg.Connection) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    async def churn(self, times: int) -> None:
        for _ in range(times):
            self._release(await self._acquire())

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[object]:
        connection = await self._acquire()
        try:
            yield connection
        finally:
            self._release(connection)

    async def one(self) -> object:
        connection = await self._acquire()
        try:
            return await connection.fetchrow(data.ONE, data.ID)
        finally:
            self._release(connection)

    async def some(self, rows: int) -> object:
        """The first `rows` rows."""
        connection = await self._acquire()
        try:
            return await connection.fetch(data.SOME, rows)
        finally:
            self._release(connection)

    async def nap(self, seconds: float) -> None:
        connection = await self._acquire()
        try:
            await connection.fetch(data.NAP.format(seconds=seconds))
        finally:
            self._release(connection)


class BareBindExecute(Bare):
    """The same, past asyncpg's public methods: what the direct lane calls for a statement in asyncpg's cache."""

    name = BIND_EXECUTE

    async def one(self) -> object:
        connection = await self._acquire()
        try:
            (row,) = await fetch(connection, data.ONE, (data.ID,), None, limit=1)
            return row
        finally:
            self._release(connection)


class AsyncpgPool(Peer):
    """asyncpg.Pool: `async with pool.acquire()`, or the pool's own `fetch`, which is the same."""

    name = ASYNCPG

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.url, min_size=self.least, max_size=self.most)

    async def close(self) -> None:
        await self.pool.close()

    async def churn(self, times: int) -> None:
        pool = self.pool
        for _ in range(times):
            await pool.release(await pool.acquire())

    def hold(self) -> AbstractAsyncContextManager[object]:
        return self.pool.acquire()

    async def one(self) -> object:
        return await self.pool.fetchrow(data.ONE, data.ID)

    async def loan(self) -> object:
        async with self.pool.acquire() as connection:
            return await connection.fetchrow(data.ONE, data.ID)

    async def some(self, rows: int) -> object:
        """The first `rows` rows."""
        return await self.pool.fetch(data.SOME, rows)

    async def nap(self, seconds: float) -> None:
        await self.pool.fetch(data.NAP.format(seconds=seconds))


class AsyncpgPoolNoReset(AsyncpgPool):
    """asyncpg.Pool where `reset` does nothing: a round trip less, and a SET is there for the next caller."""

    name = NO_RESET

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.url, min_size=self.least, max_size=self.most, reset=_nothing)


async def _nothing(_: object) -> None: ...


class PsycopgPool(Peer):
    """psycopg_pool in autocommit, which leaves it BEGIN and COMMIT, and psycopg's automatic preparing."""

    name = PSYCOPG

    async def open(self) -> None:
        self.pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            self.url, min_size=self.least, max_size=self.most, timeout=WAIT, open=False, kwargs={"autocommit": True}
        )
        await self.pool.open(wait=True)

    async def close(self) -> None:
        await self.pool.close()

    async def churn(self, times: int) -> None:
        pool = self.pool
        for _ in range(times):
            await pool.putconn(await pool.getconn())

    def hold(self) -> AbstractAsyncContextManager[object]:
        return self.pool.connection()

    async def one(self) -> object:
        async with self.pool.connection() as connection:
            return await (await connection.execute(data.ONE_PSYCOPG, (data.ID,))).fetchone()

    async def loan(self) -> object:
        return await self.one()

    async def nap(self, seconds: float) -> None:
        async with self.pool.connection() as connection:
            await connection.execute("select pg_sleep(%s)", (seconds,))
