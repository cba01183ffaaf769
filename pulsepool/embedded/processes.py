"""What runs: reads postmaster.pid and /proc, waits within bounds, ends whole families of processes."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pulsepool.embedded.account import Account
from pulsepool.embedded.errors import EmbeddedServerError

KILL_LIMIT = 10.0
TICK = 0.005
_LINES = 8
_READY = ("ready", "standby")

_LEASH = 'read -r _; kill -s INT "$1"'  # INT: a fast shutdown


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a server wrote into postmaster.pid (its lines: `src/include/utils/pidfile.h`)."""

    pid: int
    port: int
    socket_folder: Path
    ready: bool

    @classmethod
    def read(cls, cluster: Path) -> "Postmaster | None":
        """The one of `cluster`; None when no file tells of one. Not `ready` while the file is being written."""
        try:
            lines = (cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].isdecimal():
            return None
        if len(lines) < _LINES:
            return cls(int(lines[0]), 0, Path(), ready=False)
        return cls(int(lines[0]), int(lines[3]), Path(lines[4]), ready=lines[7].strip() in _READY)

    def serves(self, cluster: Path) -> bool:
        """Whether its pid is, now, a postgres at work in `cluster`, and not a number that another program got since."""
        process = Path(f"/proc/{self.pid}")
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # PermissionError: another user's
            return (process / "comm").read_text() == "postgres\n" and (process / "cwd").samefile(cluster)
        return False


def until(happened: Callable[[], bool], limit: float) -> bool:
    """Wait for `happened()`, at most `limit` seconds; whether it did."""
    deadline = time.monotonic() + limit
    while not happened():
        if time.monotonic() >= deadline:
            return False
        time.sleep(TICK)
    return True


@contextmanager
def exclusive(file: Path, limit: float) -> Iterator[None]:
    """Hold the lock on `file` against every other process and thread; `EmbeddedServerError` after `limit` seconds."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def locked() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        if not until(locked, limit):
            raise EmbeddedServerError(
                f"another process has held {file} for {limit:g} s",
                hint="it is starting a server there and does not finish; see its log",
            )
        yield
    finally:
        os.close(handle)


class Leashed:
    """A postmaster, child of this process, that does not outlive it.

    A shell reads a pipe whose other end is ours alone, and stops the postmaster when the pipe ends, which the kernel
    sees to even if we are killed with -9. The postmaster's number is not another program's by then: it stays taken
    until we have reaped it, and with that the shell is let go.
    """

    def __init__(self, account: Account, *argv: str | Path, output: IO[bytes]) -> None:
        self._server = account.spawn(*argv, output=output)
        self.pid = self._server.pid
        self._leash = account.spawn(
            "/bin/sh", "-c", _LEASH, "sh", str(self.pid), stdin=subprocess.PIPE, output=subprocess.DEVNULL
        )

    @property
    def running(self) -> bool:
        """Whether the postmaster has not ended."""
        if self._server.poll() is None:
            return True
        self._let_go()
        return False

    @property
    def exit_code(self) -> int | None:
        """As `subprocess.Popen.returncode`."""
        return self._server.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster, if it is still there."""
        self._server.send_signal(number)

    def ends(self, limit: float) -> bool:
        """Wait for the end, at most `limit` seconds; whether it came."""
        return until(lambda: not self.running, limit)

    def kill(self) -> None:
        """End the postmaster and all its children with SIGKILL, and return when all are gone.

        It is stopped first: a stopped parent makes no more children, and does not reap those it has, so that none of
        their numbers can become another program's between looking and killing.
        """
        self.send(signal.SIGSTOP)
        until(lambda: _state(self.pid) in "TtZX", KILL_LIMIT)
        everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        children = [pid for pid in everyone if _parent(pid) == self.pid]
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(_state(pid) in "ZX" for pid in children), KILL_LIMIT)
        self.send(signal.SIGKILL)
        if not self.ends(KILL_LIMIT):
            raise EmbeddedServerError(f"process {self.pid} is still there {KILL_LIMIT:g} s after SIGKILL")

    def _let_go(self) -> None:
        self._leash.kill()  # before its pipe ends, or it would act
        self._leash.wait(KILL_LIMIT)
        if self._leash.stdin:
            self._leash.stdin.close()


def _state(pid: int) -> str:
    """The process's letter in /proc (T: stopped, Z: ended, not reaped); X when there is none."""
    return _status(pid)[0]


def _parent(pid: int) -> int:
    return int(_status(pid)[1])


def _status(pid: int) -> list[str]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return ["X", "0"]
