"""A FastAPI application under one uvicorn worker, each way to the database in a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.bench import Bench
from benchmarks.load import loaded
from benchmarks.measure import Several, Table, interleave_several
from benchmarks.peers.base import PRP27
from benchmarks.proxy import ROOT
from benchmarks.web import LINES

CLIENTS = 32
REQUEST = "GET /item"
STARTING = 20.0


async def http(bench: Bench) -> AsyncIterator[Table]:
    """Requests a second of 32 clients, and how long the slowest of a hundred waits."""
    async with AsyncExitStack() as stack:
        ports = {line: await stack.enter_async_context(_serving(line, bench.url)) for line in LINES}
        lines = {line: _asking(port, 4 * bench.effort.seconds) for line, port in ports.items()}
        rates, tails, lost = await interleave_several(lines, bench.effort.rounds, figures=3)
    yield Table("http/rate", f"one row over HTTP, {CLIENTS} clients", "req/s", "more", PRP27, rates)
    yield Table("http/p99", f"one row over HTTP, {CLIENTS} clients, p99", "ms", "less", PRP27, tails)
    yield Table("http/unanswered", f"requests of {CLIENTS} without an answer at the end", "", "less", PRP27, lost)


def _asking(port: int, seconds: float) -> Several:
    async def measure() -> tuple[float, float, float]:
        load = await loaded(port, CLIENTS, seconds, REQUEST)
        return load.rate, load.p99, load.unanswered

    return measure


@asynccontextmanager
async def _serving(line: str, url: str) -> AsyncIterator[int]:
    """The port of a process that serves this line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.web", line),
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None or process.stdin is None:
        raise RuntimeError("the application has no pipes")
    try:
        said = await asyncio.wait_for(process.stdout.readline(), STARTING)
        if not said:
            raise RuntimeError(f"the application {line!r} has not started")
        yield int(said)
    finally:
        process.stdin.close()
        await process.wait()
