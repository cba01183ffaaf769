"""An HTTP client in a process of its own, that does no more than the protocol needs.

`python -m benchmarks.load PORT CLIENTS SECONDS REQUEST` keeps CLIENTS connections busy and prints what came of it.
REQUEST: `GET /path`, or `POST /path {"json": …}`.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import cast

import uvloop

from benchmarks.measure import percentile
from benchmarks.proxy import ROOT

HOST = "127.0.0.1"
GRACE = 1.0
"""Seconds that answers may be late at the end; what has not come then does not count."""


@dataclass(frozen=True, slots=True)
class Load:
    """Answers of 200 a second, and of others; milliseconds that half and 99 of 100 took; requests without an answer.

    Where nothing was answered, the milliseconds are those that were waited.
    """

    rate: float
    errors: float
    p50: float
    p99: float
    unanswered: int


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes, ends: float, done: Callable[[], None]) -> None:
        self.times: list[float] = []
        self.failed = 0
        self.waits = False
        self._request, self._ends, self._done = request, ends, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self.waits = True
        self._asked = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take an answer with a Content-Length, which is what FastAPI gives, and ask again."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().index(b"content-length:", 0, head) + 15
        length = int(self._buffer[at : self._buffer.index(b"\r\n", at)])
        if len(self._buffer) < head + 4 + length:
            return
        now = perf_counter()
        self.waits = False
        if self._buffer.startswith(b"HTTP/1.1 200"):
            self.times.append(now - self._asked)
        else:
            self.failed += 1
        self._buffer = b""
        if now < self._ends:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Answered for the last time, or given up."""
        self._done()


async def generate(port: int, clients: int, seconds: float, request: bytes) -> Load:
    """Keep the server busy."""
    loop = asyncio.get_running_loop()
    started = perf_counter()
    closed = asyncio.Semaphore(0)
    made = [
        (await loop.create_connection(lambda: Client(request, started + seconds, closed.release), HOST, port))[1]
        for _ in range(clients)
    ]
    try:
        async with asyncio.timeout(seconds + GRACE):
            for _ in range(clients):
                await closed.acquire()
    except TimeoutError:
        pass  # those that wait are told below
    took = perf_counter() - started
    times = [each * 1e3 for client in made for each in client.times] or [took * 1e3]
    answered = sum(len(client.times) for client in made)
    failed = sum(client.failed for client in made)
    return Load(
        rate=answered / took,
        errors=failed / took,
        p50=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        unanswered=sum(client.waits for client in made),
    )


def encode(request: str) -> bytes:
    """The request's bytes."""
    method, path, *body = request.split(" ", 2)
    content = body[0].encode() if body else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def loaded(port: int, clients: int, seconds: float, request: str) -> Load:
    """The same from a process of its own. Raises `RuntimeError` where every answer is an error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", str(port), str(clients), str(seconds), request),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    load = Load(**json.loads(out))
    if load.errors and not load.rate:
        raise RuntimeError("every answer is an error")
    return load


if __name__ == "__main__":
    port, clients, seconds, request = sys.argv[1:]
    result = uvloop.run(generate(int(port), int(clients), float(seconds), encode(request)))
    sys.stdout.write(json.dumps(asdict(result)))
