"""The service as a process of its own."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """`python -m src` in a folder without a `.env`; `said` is all that it has printed so far."""

    def __init__(self, url: str, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "PG"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "src", "--port", str(self.port), *arguments],
            env={**kept, "DATABASE_URL": url, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said += line
                self._lines.put(line)

    def wait_for(self, words: str, limit: float = 20) -> None:
        """Return once a line with `words` has been printed."""
        ends = time.monotonic() + limit
        while True:
            try:
                if words in self._lines.get(timeout=max(ends - time.monotonic(), 0.01)):
                    return
            except queue.Empty:
                pytest.fail(f"the service has not said {words!r} within {limit} s:\n{self.said}")

    def wait_until_it_listens(self) -> None:
        """Return once it takes requests; "Application startup complete" is said before that."""
        self.wait_for("Uvicorn running on")

    def ends(self, limit: float = 20) -> int:
        """Its exit code."""
        code = self.process.wait(limit)
        self._reader.join(limit)
        return code

    def stop(self) -> None:
        """Ctrl-C, and the end."""
        if self.process.poll() is None:
            self.process.terminate()
        self.ends()
