"""The folder of one server, and all that lies in it.

    pgdata/      PostgreSQL's own, of the user that it runs as
    server.log   what initdb and the server say, appended to
    password     only if the folder was asked to keep one: a random one, which nobody but us can read
    lock         held by whoever is just starting a server here

Only we can write in the folder itself: the server's user has `pgdata/` and nothing else.
"""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pulsepool.embedded.account import Account
from pulsepool.embedded.binaries import major_version
from pulsepool.embedded.errors import EmbeddedServerError
from pulsepool.embedded.processes import Postmaster
from pulsepool.errors import ConfigurationError

INIT_LIMIT = 60.0

_log = logging.getLogger("pulsepool.embedded")
_LOG_LINES = 12
_SOCKET_PATH_LIMIT = 107  # bytes: `sun_path` of unix(7) without its final 0
_LONGEST_SOCKET = ".s.PGSQL.65535"


@dataclass(frozen=True, slots=True)
class Home:
    """Where a server of `account` lives."""

    path: Path
    account: Account

    @classmethod
    def make(cls, asked: Path, account: Account) -> "Home":
        """The folder `asked`, made if it is missing.

        When `account` cannot reach it (root's home, mostly), another one, always the same for one `asked`; a warning
        in the log says which.
        """
        path = asked.expanduser().resolve()
        if not account.reaches(path):
            path = account.shelter("data", str(path))
            _log.warning("the server's user cannot reach %s, so its data is in %s", asked, path)
        account.make_passable(path)
        return cls(path, account)

    def password(self) -> str:
        """The one that the folder keeps, made with the first call; the caller holds `lock`."""
        file = self.path / "password"
        if not file.exists():
            new = file.with_suffix(".new")
            new.unlink(missing_ok=True)
            new.touch(0o600)
            new.write_text(secrets.token_urlsafe(24))
            new.rename(file)  # there whole or not at all
        return file.read_text()

    @property
    def cluster(self) -> Path:
        """What PostgreSQL calls its data directory."""
        return self.path / "pgdata"

    @property
    def lock(self) -> Path:
        """The file to lock while starting."""
        return self.path / "lock"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.path / "server.log"

    def open_log(self) -> IO[bytes]:
        """The log, to append to; only we can read it."""
        return os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")

    def said(self, since: int = 0) -> str:
        """The last lines of the log, of what came after its first `since` bytes."""
        with self.log.open("rb") as file:
            file.seek(since)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def socket_folder(self) -> Path:
        """Where the server's socket is: `pgdata/`, or a short folder if the path would not do as an address.

        It would not when it is longer than the system allows, nor with a comma (clients take that for several hosts)
        or a quote (the server takes that for its own).
        """
        address = os.fsencode(self.cluster / _LONGEST_SOCKET)
        if len(address) <= _SOCKET_PATH_LIMIT and not set(address) & set(b',"'):
            return self.cluster
        return self.account.make_private(self.account.shelter("socket", str(self.path)) / "s")

    def forget(self, gone: Postmaster) -> None:
        """Remove the lock files of a server that was killed, if its number is another program's by now.

        PostgreSQL sees to the others; these it would take for those of a live server, and refuse to start.
        """
        if Path(f"/proc/{gone.pid}").exists():
            (self.socket_folder() / f".s.PGSQL.{gone.port}.lock").unlink(missing_ok=True)
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def initialise(self, programs: Path, *, user: str, password: str, durable: bool) -> None:
        """Make `pgdata/` if it is missing: UTF-8, the collation of code points, SCRAM passwords for all connections.

        Raises `ConfigurationError` when it is there and of another major version of PostgreSQL.
        """
        version = self.cluster / "PG_VERSION"
        if version.exists():
            has, needs = version.read_text().strip(), major_version(programs)
            if has != needs:
                raise ConfigurationError(
                    f"{self.cluster} was made by PostgreSQL {has}, and the programs at hand are version {needs}",
                    hint=f"dump it with PostgreSQL {has} and load it into a new folder, or remove it if it can be lost",
                )
            return
        for cut_short in self.path.glob("init-*"):
            shutil.rmtree(cut_short)
        with tempfile.TemporaryDirectory(prefix="init-", dir=self.path) as made:
            draft = Path(made)
            secret = draft / "password"
            secret.touch(0o600)
            secret.write_text(f"{password}\n", encoding="utf-8")
            self.account.give(secret)
            self.account.give(draft)
            self._initdb(
                programs / "initdb",
                f"--pgdata={draft / 'pgdata'}",
                f"--username={user}",
                f"--pwfile={secret}",
                "--auth-host=scram-sha-256",
                "--auth-local=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",  # with the builtin provider: the same on a system without any locale
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                *(() if durable else ("--no-sync",)),
            )
            (draft / "pgdata").rename(self.cluster)  # so it is there whole or not at all

    def _initdb(self, *command: str | Path) -> None:
        with self.open_log() as log:
            process = self.account.spawn(*command, output=log)
        try:
            code = process.wait(INIT_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise EmbeddedServerError(
                f"initdb has not finished in {self.path} within {INIT_LIMIT:g} s", log=self.said()
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            raise EmbeddedServerError(
                f"initdb failed in {self.path} with exit code {code}", hint="its last lines tell why", log=self.said()
            )
