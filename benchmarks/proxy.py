"""A TCP proxy before the server, from the outside: it runs in a process of its own, see `relay`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.relay import HOST, Counts

ROOT = Path(__file__).parent.parent


class Proxy:
    """The proxy, from the outside: `port` to connect to, how slow it is, what it counted."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port = port
        self._reader, self._writer = reader, writer

    async def slow(self, *, delay: float = 0.0, connect_delay: float = 0.0) -> None:
        """From now on it is as slow as this, in seconds."""
        await self._say(delay=delay, connect_delay=connect_delay)

    async def counts(self) -> Counts:
        """What it has counted so far."""
        return await self._say()

    async def _say(self, **slowness: float) -> Counts:
        self._writer.write(json.dumps(slowness).encode() + b"\n")
        return Counts(**json.loads(await self._reader.readline()))


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    """A proxy before the server on `port`, for as long as the block lasts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.relay", str(port)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None or process.stdin is None:
        raise RuntimeError("the proxy has no pipes")
    listening, control = map(int, (await process.stdout.readline()).split())
    reader, writer = await asyncio.open_connection(HOST, control)
    try:
        yield Proxy(listening, reader, writer)
    finally:
        writer.close()
        process.stdin.close()
        await process.wait()
