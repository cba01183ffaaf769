"""pulsepool itself."""

# ruff: noqa: D102 - told once, at `Peer`

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text

from benchmarks import data
from benchmarks.peers.base import PULSEPOOL, WAIT, Peer
from pulsepool import Database


class PulsePool(Peer):
    """pulsepool: the direct lane where a statement is enough, its sessions where there is an ORM."""

    name = PULSEPOOL

    async def open(self) -> None:
        self.db = Database(self.url, min_size=self.least, max_size=self.most, acquire_timeout=WAIT)
        await self.db.start()

    async def close(self) -> None:
        await self.db.stop(deadline=5)

    async def churn(self, times: int) -> None:
        pool = self.db.pool
        for _ in range(times):
            pool.release(await pool.acquire())

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[object]:
        pool = self.db.pool
        slot = await pool.acquire()
        try:
            yield slot
        finally:
            pool.release(slot)

    async def one(self) -> object:
        return await self.db.fetchrow(data.ONE, data.ID)

    async def loan(self) -> object:
        async with self.db.connection() as connection:
            return await connection.fetchrow(data.ONE, data.ID)

    async def nap(self, seconds: float) -> None:
        await self.db.fetch(data.NAP.format(seconds=seconds))

    async def nap_in_session(self, seconds: float) -> None:
        """`nap` under an AsyncSession."""
        async with self.db.session() as session:
            await session.execute(text("select pg_sleep(:seconds)"), {"seconds": seconds})

    async def read(self) -> object:
        """One row, on `db.read()`."""
        async with self.db.read() as session:
            return (await session.execute(data.ONE_TEXT, {"id": data.ID})).one()

    async def read_in_session(self) -> object:
        """The same on `db.session()`."""
        async with self.db.session() as session:
            return (await session.execute(data.ONE_TEXT, {"id": data.ID})).one()

    async def load(self) -> object:
        """One object of the ORM's by a query, on `db.read()`."""
        async with self.db.read() as session:
            return (await session.scalars(data.whole())).one()

    async def load_in_session(self) -> object:
        """The same on `db.session()`."""
        async with self.db.session() as session:
            return (await session.scalars(data.whole())).one()

    async def write(self) -> None:
        """One update in a transaction."""
        async with self.db.session() as session:
            await session.execute(data.increment())

    async def some(self, rows: int) -> object:
        """The first `rows` rows, by a Core statement on the direct lane."""
        return await self.db.fetch(data.some(rows))
