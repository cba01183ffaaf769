"""What every peer can be asked, by the name that the tables have for it."""

from contextlib import AbstractAsyncContextManager
from typing import Self

SIZE = 10
WAIT = 30.0
"""Seconds that a caller waits for a connection at most: psycopg_pool's and SQLAlchemy's default, so everybody's."""

BARE, ASYNCPG, PSYCOPG = "bare asyncpg", "asyncpg.Pool", "psycopg_pool"
SQLALCHEMY, PRP27, PULSEPOOL = "SQLAlchemy", "PRP-27", "pulsepool"
READ, SESSION = "pulsepool read()", "pulsepool session()"
BIND_EXECUTE, NO_RESET = "bare asyncpg, bind_execute", "asyncpg.Pool, no reset"
AUTOCOMMIT = "SQLAlchemy, autocommit"


class Peer:
    """One way to the database: `least` connections from the start, `most` at most. An async context manager."""

    name = "?"

    def __init__(self, url: str, most: int = SIZE, least: int | None = None) -> None:
        self.url = url
        self.most = most
        self.least = most if least is None else least

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def churn(self, times: int) -> None:
        """Acquire and release a connection `times` times, with nothing of ours in between."""
        raise NotImplementedError  # shown as not available

    def hold(self) -> AbstractAsyncContextManager[object]:
        """One connection, for as long as the block lasts."""
        raise NotImplementedError  # shown as not available

    async def one(self) -> object:
        """One row by its key, from acquire to release."""
        raise NotImplementedError  # shown as not available

    async def loan(self) -> object:
        """One row by its key, on a connection that was lent in public and is whole again for whoever has it next."""
        raise NotImplementedError  # shown as not available

    async def nap(self, seconds: float) -> None:
        """A query that takes the server `seconds`."""
        raise NotImplementedError  # shown as not available
