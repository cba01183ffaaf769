"""One FastAPI application for each way to the database, in a process of its own: `python -m benchmarks.web LINE`.

The address comes by the environment's `DATABASE_URL`; it prints its port when it listens, and ends with its stdin.
"""

import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from benchmarks import data
from benchmarks.peers.alchemy import Prp27
from benchmarks.peers.base import Peer
from benchmarks.peers.drivers import AsyncpgPool
from benchmarks.peers.pulse import PulsePool
from pulsepool import Database
from pulsepool.dsn import Dsn
from pulsepool.fastapi import SessionDep, install

HOST = "127.0.0.1"


def nothing(_: str) -> FastAPI:
    """No database at all: what FastAPI and uvicorn can do."""
    app = FastAPI()

    @app.get("/item")
    async def item() -> dict[str, Any]:
        return {"id": data.ID, "title": f"item {data.ID}", "stock": 0}

    return app


def _with(peer: Peer) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with peer:
            yield

    return FastAPI(lifespan=lifespan)


def asyncpg_pool(url: str) -> FastAPI:
    """asyncpg.Pool, asked directly."""
    peer = AsyncpgPool(url)
    app = _with(peer)

    @app.get("/item")
    async def item() -> dict[str, Any]:
        (row,) = await peer.pool.fetch(data.ONE, data.ID)
        return {"id": row["id"], "title": row["title"], "stock": row["stock"]}

    return app


def direct(url: str) -> FastAPI:
    """The direct lane."""
    peer = PulsePool(url)
    app = _with(peer)

    @app.get("/item")
    async def item() -> dict[str, Any]:
        (row,) = await peer.db.fetch(data.ONE, data.ID)
        return {"id": row["id"], "title": row["title"], "stock": row["stock"]}

    return app


def session_dep(url: str) -> FastAPI:
    """`SessionDep`."""
    app = FastAPI()
    install(app, Database(url, min_size=10, max_size=10))

    @app.get("/item")
    async def item(session: SessionDep) -> dict[str, Any]:
        row = (await session.execute(data.ONE_TEXT, {"id": data.ID})).one()
        return {"id": row.id, "title": row.title, "stock": row.stock}

    return app


def prp27(url: str) -> FastAPI:
    """PRP-27's `get_async_db`, as it was meant: `async with` on its session generator would raise."""
    peer = Prp27(url)
    app = _with(peer)

    async def get_async_db() -> AsyncIterator[AsyncSession]:
        async with peer.session() as session:
            yield session

    @app.get("/item")
    async def item(session: Annotated[AsyncSession, Depends(get_async_db)]) -> dict[str, Any]:
        row = (await session.execute(data.ONE_TEXT, {"id": data.ID})).one()
        return {"id": row.id, "title": row.title, "stock": row.stock}

    return app


def _get_db(url: str) -> Callable[[], Iterator[Session]]:
    dsn = Dsn.parse(url)
    engine = create_engine(dsn.sqlalchemy_url("psycopg2"), connect_args=dsn.connect_args("psycopg2"))
    sessions = sessionmaker(engine, autoflush=False)

    def get_db() -> Iterator[Session]:
        with sessions() as session:
            yield session

    return get_db


def sync_in_threads(url: str) -> FastAPI:
    """A synchronous session in `def` endpoints, as FastAPI's tutorial has it: 5 connections and 10 of overflow."""
    app = FastAPI()

    @app.get("/item")
    def item(session: Annotated[Session, Depends(_get_db(url))]) -> dict[str, Any]:
        row = session.execute(data.ONE_TEXT, {"id": data.ID}).one()
        return {"id": row.id, "title": row.title, "stock": row.stock}

    return app


def sync_on_the_loop(url: str) -> FastAPI:
    """The same in `async def`: each query stops the event loop."""
    app = FastAPI()

    @app.get("/item")
    async def item(session: Annotated[Session, Depends(_get_db(url))]) -> dict[str, Any]:
        row = session.execute(data.ONE_TEXT, {"id": data.ID}).one()
        return {"id": row.id, "title": row.title, "stock": row.stock}

    return app


LINES: dict[str, Callable[[str], FastAPI]] = {
    "no database": nothing,
    "asyncpg.Pool": asyncpg_pool,
    "pulsepool": direct,
    "pulsepool session()": session_dep,
    "PRP-27": prp27,
    "sync in threads": sync_in_threads,
    "sync on the loop": sync_on_the_loop,
}


class Announcing(uvicorn.Server):
    """Says where it listens once it does, and ends at once with its stdin, whatever is under way."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        sys.stdout.write(f"{self.servers[0].sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)  # its loop may be stopped by what is measured


def main() -> None:
    """Serve one line."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    app = LINES[sys.argv[1]](os.environ["DATABASE_URL"])
    config = uvicorn.Config(
        app, host=HOST, port=0, loop="uvloop", http="httptools", log_level="critical", access_log=False
    )
    Announcing(config).run()


if __name__ == "__main__":
    main()
