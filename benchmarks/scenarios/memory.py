"""Memory of an idle connection and of a caller who waits, each peer in a process of its own.

`python -m benchmarks.scenarios.memory NAME` with the address in its stdin prints both, in bytes.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks.bench import ALL, Bench
from benchmarks.measure import Several, Table, interleave_several
from benchmarks.peers.alchemy import Prp27
from benchmarks.peers.base import ASYNCPG, SIZE
from benchmarks.proxy import ROOT

CONNECTIONS = 100
WAITERS = 10_000


async def memory(bench: Bench) -> AsyncIterator[Table]:
    """What the client's process grows by; what the server spends on a connection is the same for all.

    PRP-27's engine is SQLAlchemy's, and can have no hundred connections.
    """
    lines = {kind.name: _weighing(kind.name, bench.url) for kind in ALL if kind is not Prp27}
    idle, waits = await interleave_several(lines, min(bench.effort.rounds, 2), figures=2)
    yield Table("memory/connection", "memory of an idle connection", "KiB", "less", ASYNCPG, idle)
    yield Table("memory/waiter", "memory of a waiting caller, its task included", "KiB", "less", ASYNCPG, waits)


def _weighing(name: str, url: str) -> Several:
    async def measure() -> tuple[float, ...]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.scenarios.memory", name),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(url.encode())
        if process.returncode:
            raise RuntimeError(err.decode().strip().rpartition("\n")[2])
        return tuple(size / 1024 for size in json.loads(out))

    return measure


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def weigh(name: str, url: str) -> tuple[float, float]:
    """Bytes of a connection that has been used and is idle, and of a caller who waits for one."""
    kind = {kind.name: kind for kind in ALL}[name]
    async with kind(url, 1):  # what is imported and cached with the first connection is nobody's
        pass
    before = _resident()
    async with kind(url, CONNECTIONS) as peer:
        await asyncio.gather(*(peer.one() for _ in range(CONNECTIONS)))
        idle = (_resident() - before) / CONNECTIONS
    async with kind(url) as peer, AsyncExitStack() as held:
        for _ in range(SIZE):
            await held.enter_async_context(peer.hold())
        before = _resident()
        tasks = [asyncio.create_task(peer.churn(1)) for _ in range(WAITERS)]
        await asyncio.sleep(0.1)
        waiter = (_resident() - before) / WAITERS
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return idle, waiter


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(weigh(sys.argv[1], sys.stdin.read()))))
