"""SQLAlchemy on top: a session that reads, one that writes, and Core statements."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.bench import Bench
from benchmarks.measure import Operation, Table, interleave, rate_of
from benchmarks.peers.alchemy import Prp27, SqlAlchemy
from benchmarks.peers.base import PRP27, PULSEPOOL, READ, SESSION, SQLALCHEMY
from benchmarks.peers.drivers import AsyncpgPool
from benchmarks.peers.pulse import PulsePool
from benchmarks.report import counted

TASKS = 10


@dataclass(frozen=True, slots=True)
class Sessions:
    """The peers that have sessions, and asyncpg.Pool to show what a session costs."""

    asyncpg: AsyncpgPool
    sqlalchemy: SqlAlchemy
    prp27: Prp27
    pulsepool: PulsePool

    def loads(self) -> dict[str, Operation]:
        """One object of the ORM's."""
        return {
            SQLALCHEMY: self.sqlalchemy.load,
            PRP27: self.prp27.load,
            SESSION: self.pulsepool.load_in_session,
            READ: self.pulsepool.load,
        }

    def reads(self) -> dict[str, Operation]:
        """One row."""
        return {
            SQLALCHEMY: self.sqlalchemy.read,
            PRP27: self.prp27.read,
            SESSION: self.pulsepool.read_in_session,
            READ: self.pulsepool.read,
        }

    def writes(self) -> dict[str, Operation]:
        """One update in a transaction."""
        return {SQLALCHEMY: self.sqlalchemy.write, PRP27: self.prp27.write, SESSION: self.pulsepool.write}

    def cores(self, rows: int) -> dict[str, Operation]:
        """One Core select of `rows` rows; asyncpg.Pool, which knows no Core, has the same as text."""
        peers: Mapping[str, AsyncpgPool | SqlAlchemy | PulsePool] = {
            "asyncpg.Pool (text)": self.asyncpg,
            SQLALCHEMY: self.sqlalchemy,
            PRP27: self.prp27,
            PULSEPOOL: self.pulsepool,
        }
        return {name: partial(peer.some, rows) for name, peer in peers.items()}


@asynccontextmanager
async def sessions(url: str) -> AsyncIterator[Sessions]:
    """All of them, connected."""
    async with AsyncpgPool(url) as first, SqlAlchemy(url) as second, Prp27(url) as third, PulsePool(url) as fourth:
        yield Sessions(first, second, third, fourth)


async def session(bench: Bench) -> AsyncIterator[Table]:
    """A session that reads and one that writes."""
    async with sessions(bench.url) as peers:
        for name, title, lines in (
            ("session/read", "session, one row read", peers.reads()),
            ("session/load", "session, one object of the ORM's loaded", peers.loads()),
            ("session/write", "session, one row updated", peers.writes()),
        ):
            measures = {line: rate_of(operation, TASKS, bench.effort.seconds) for line, operation in lines.items()}
            done = await interleave(measures, bench.effort.rounds)
            yield Table(name, f"{title}, {TASKS} tasks", "op/s", "more", PRP27, done)


async def core(bench: Bench) -> AsyncIterator[Table]:
    """A Core select on the direct lane beside the same on a session."""
    async with sessions(bench.url) as peers:
        for rows in (1, 10, 100) if bench.effort.full else (1, 100):
            measures = {
                line: rate_of(operation, TASKS, bench.effort.seconds) for line, operation in peers.cores(rows).items()
            }
            done = await interleave(measures, bench.effort.rounds)
            title = f"Core select of {counted(rows, 'row')}, {TASKS} tasks"
            yield Table(f"core/{rows}", title, "op/s", "more", SQLALCHEMY, done)
