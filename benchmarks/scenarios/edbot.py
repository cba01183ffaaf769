"""EDBotv8's endpoints and their synchronous twins: what PRP-27 promised of going async."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from benchmarks.bench import Bench
from benchmarks.load import HOST, loaded
from benchmarks.measure import Several, Table, interleave_several
from benchmarks.proxy import ROOT
from benchmarks.report import counted

DATABASE = "edbot"
SYNC, ASYNC = "sync twin", "async"
STARTING = 30.0
REQUESTS = {
    "document": ("one document", "GET", "documents/1", ""),
    "query": ("one question", "POST", "query", '{"query": "what is the ED STEMI protocol"}'),
}
ALONE, FEW, MANY = 1, 32, 200
"""Clients: alone, for the response time; few and many, for the throughput."""


async def edbot(bench: Bench) -> AsyncIterator[Table]:
    """Response time alone, and throughput with many, of the same endpoint twice."""
    bench.server.create_database(DATABASE, exist_ok=True)
    async with _serving(bench.server.socket_url(DATABASE)) as port:
        for name, (title, method, path, body) in REQUESTS.items():
            requests = {
                SYNC: f"{method} /api/v1/sync/{path} {body}".rstrip(),
                ASYNC: f"{method} /api/v1/{path} {body}".rstrip(),
            }
            for clients in (ALONE, FEW, MANY):
                lines = {
                    line: _asking(port, clients, 4 * bench.effort.seconds, request)
                    for line, request in requests.items()
                }
                rates, halves, errors = await interleave_several(lines, bench.effort.fewer, figures=3)
                what = f"EDBotv8, {title}, {counted(clients, 'client')}"
                if clients == ALONE:
                    yield Table(f"edbot/{name}/time", f"{what}, response time", "ms", "less", SYNC, halves)
                else:
                    yield Table(f"edbot/{name}/{clients}", what, "req/s", "more", SYNC, rates)
                    if any(series.values and series.high for series in errors.values()):
                        yield Table(f"edbot/{name}/{clients}/failed", f"{what}, failed", "req/s", "less", SYNC, errors)


def _asking(port: int, clients: int, seconds: float, request: str) -> Several:
    async def measure() -> tuple[float, float, float]:
        load = await loaded(port, clients, seconds, request)
        return load.rate, load.p50, load.errors

    return measure


@asynccontextmanager
async def _serving(url: str) -> AsyncIterator[int]:
    """The whole service on a port of its own."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "PG"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "src", "--port", str(port)),
        cwd=ROOT,
        env={**kept, "DATABASE_URL": url, "LOG_LEVEL": "WARNING"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(STARTING):
            while not await _listens(port):
                if process.returncode is not None:
                    raise RuntimeError(f"EDBotv8 has ended with code {process.returncode}")
                await asyncio.sleep(0.1)
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True
