"""One embedded server: start, stop, kill, databases."""

import atexit
import logging
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from pydantic import SecretStr

from pulsepool.embedded import binaries, sql
from pulsepool.embedded.account import Account
from pulsepool.embedded.errors import EmbeddedServerError
from pulsepool.embedded.home import Home
from pulsepool.embedded.launch import HOST, START_LIMIT, decided_here, launch
from pulsepool.embedded.processes import TICK, Leashed, Postmaster, exclusive
from pulsepool.errors import ConfigurationError

STOP_LIMIT = 30.0

Mode = Literal["smart", "fast", "immediate"]

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_EXISTS = ("42P04", "23505")  # duplicate_database; unique_violation when two create it at the same time
_log = logging.getLogger("pulsepool.embedded")


class EmbeddedPostgres:
    """A PostgreSQL of your own; nothing happens before `start()`.

    `data`: its folder (see `home`), made if it is missing; a later start finds the databases there again. `password`:
    of the superuser `user`, asked of every connection, over TCP and the socket alike; None: a random one, which the
    folder keeps. `port`: on 127.0.0.1; None takes a free one. Either way it stays the same for the life of this object.
    `durable`: False for tests, faster: then a
    crash of the machine loses the data, though a `kill()` of the server loses nothing that was committed. `settings`:
    of postgresql.conf, `{"max_connections": "200"}`; they can be read in the list of processes, so no secrets.

    When another process already serves the folder, `start()` attaches: `attached` is True, and that server is neither
    stopped, restarted nor killed from here. A server started here ends with this process, even one killed with -9.
    Started by root it runs as `postgres` or `nobody` (see `account`). Safe to use from several threads.

    Raises `ConfigurationError` for a bad argument.
    """

    def __init__(
        self,
        data: Path,
        *,
        password: str | None,
        user: str = "postgres",
        port: int | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if password is not None and (not password or set(password) & set("\0\r\n")):
            raise ConfigurationError("password is empty or has a line break or a 0 in it", hint="give one that has not")
        if port is not None and not 1 <= port <= 65535:
            raise ConfigurationError(f"port is {port}", hint="1 to 65535, or None for a free one")
        if ours := sorted(decided_here(Path(), 0).keys() & {name.lower() for name in settings or {}}):
            raise ConfigurationError(
                f"settings has {', '.join(ours)}, which is not free to choose",
                hint="there are `port` and `data` for it",
            )
        sql.identifier(user)
        self.data = data
        self.user = user
        self._secret = None if password is None else SecretStr(password)
        self._durable = durable
        fast = {} if durable else {"fsync": "off", "full_page_writes": "off"}
        self._settings = {"timezone": "UTC", "log_timezone": "UTC", **fast, **(settings or {})}
        self._port = port
        self._home: Home | None = None
        self._at: Postmaster | None = None  # the last one, kept for its address when it has ended
        self._server: Leashed | None = None
        self._attached = False
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = f"{'attached' if self.attached else 'running'}, pid {self.pid}" if self.running else "stopped"
        return f"<EmbeddedPostgres {self.data}: {state}{f', port {self._port}' if self._port else ''}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server is there, started here or attached to."""
        if server := self._server:
            return server.running
        return self._attached and bool(self._home and self._at and self._at.serves(self._home.cluster))

    @property
    def attached(self) -> bool:
        """Whether the server is one that another process, or another object, started."""
        return self._attached

    @property
    def pid(self) -> int | None:
        """Of the postmaster; None when it does not run."""
        return self._at.pid if self._at and self.running else None

    @property
    def port(self) -> int:
        """The port asked for, else the one that the first start took; `EmbeddedServerError` before that."""
        return self._port or self._last().port

    def url(self, database: str = "postgres") -> str:
        """The address over TCP, password included; good also while the server is down. Raises as `port` does."""
        return f"postgresql://{self._login()}@{HOST}:{self.port}/{quote(database, safe='')}"

    def socket_url(self, database: str = "postgres") -> str:
        """The address through the unix socket, password included; `EmbeddedServerError` before the first start.

        As the socket is in the data folder, only root and the server's own user reach it.
        """
        at = self._last()
        where = f"host={quote(str(at.socket_folder), safe='')}&port={at.port}"
        return f"postgresql://{self._login()}@/{quote(database, safe='')}?{where}"

    def start(self) -> None:
        """Start the server, or attach to the one that serves the folder already; makes the folder on first use.

        Returns when it takes connections: some 0.1 s, and 0.4 s with a new folder. No more than START_LIMIT for each
        step: another process starting here, an attached server getting ready, our own with its crash recovery.

        Raises `ConfigurationError` (no wheel, a folder of another version, another password) and `EmbeddedServerError`.
        """
        with self._lock:
            if self.running:
                return
            self.stop()
            account, programs = Account.of_server(), binaries.locate()
            try:
                home = self._home = Home.make(self.data, account)
                self.data = home.path
                with exclusive(home.lock, START_LIMIT):
                    if self._secret is None:
                        self._secret = SecretStr(home.password())
                    if found := self._find(home):
                        self._attach(found)
                    else:
                        programs = binaries.reachable(programs, account)
                        home.initialise(programs, user=self.user, password=self._password(), durable=self._durable)
                        self._launch(home, programs / "postgres")
            except OSError as error:
                raise EmbeddedServerError(
                    f"cannot serve {self.data}: {error}", hint="it must be a folder of yours, on a disk with some room"
                ) from error

    def stop(self, mode: Mode = "fast", *, timeout: float = STOP_LIMIT) -> None:
        """Stop the server, or let go of one that is attached, which goes on. Nothing to do if it does not run.

        `smart` waits for the clients to leave, `fast` cuts them off, `immediate` also leaves the work of writing all
        down to the next start. After `timeout` seconds a server that was to stop `fast` or `immediate` is killed
        (losing nothing); a `smart` stop raises `EmbeddedServerError`, and the server, still running, takes no more
        clients.
        """
        if mode not in _SIGNALS:
            raise ConfigurationError(f"mode is {mode!r}", hint=f"one of {', '.join(_SIGNALS)}")
        with self._lock:
            if self._server and self._server.running:
                self._server.send(_SIGNALS[mode])
                if not self._server.ends(timeout):
                    if mode == "smart":
                        raise EmbeddedServerError(
                            f"clients of {self!r} have not left within {timeout:g} s",
                            hint='close them, or stop("fast")',
                        )
                    _log.warning("%r has not stopped within %g s and is killed", self, timeout)
                    self._server.kill()
            self._server = None
            self._attached = False
            atexit.unregister(self.stop)

    def restart(self, mode: Mode = "fast") -> None:
        """`stop(mode)`, then `start()`, on the same port. Raises as these do, and when attached."""
        with self._lock:
            self._refuse_if_attached("restarted")
            self.stop(mode)
            self.start()

    def kill(self) -> None:
        """End the server as a power cut would, with SIGKILL to all its processes; `start()` then recovers.

        Returns when all are gone. Nothing to do if it does not run. Raises `EmbeddedServerError` when attached.
        """
        with self._lock:
            self._refuse_if_attached("killed")
            if self._server and self._server.running:
                self._server.kill()

    def create_database(self, name: str, *, template: str | None = None, exist_ok: bool = False) -> None:
        """Create a database, a copy of `template` if given (some 20 ms). With `exist_ok`, leave alone one that exists.

        Raises `ConfigurationError` for a name that PostgreSQL does not take, else `EmbeddedServerError`: the name is
        there already, or the template is in use by others.
        """
        copied = f" TEMPLATE {sql.identifier(template)}" if template is not None else ""
        try:
            self._run(f"CREATE DATABASE {sql.identifier(name)}{copied}")
        except sql.StatementError as refused:
            if not (exist_ok and refused.sqlstate in _EXISTS):
                raise

    def drop_database(self, name: str, *, force: bool = False) -> None:
        """Drop a database; with `force`, its clients are cut off first. Raises as `create_database` does."""
        self._run(f"DROP DATABASE {sql.identifier(name)}{' WITH (FORCE)' if force else ''}")

    def _find(self, home: Home) -> Postmaster | None:
        """The server at work in `home`, when there is one that answers; one just starting or ending is waited for."""
        deadline = time.monotonic() + START_LIMIT
        while (found := Postmaster.read(home.cluster)) and found.serves(home.cluster):
            if found.ready:
                try:
                    self._greet(found)
                except (ConfigurationError, EmbeddedServerError):
                    if Postmaster.read(home.cluster) == found:
                        raise  # else it was just ending
                else:
                    return found
            if time.monotonic() >= deadline:
                raise EmbeddedServerError(
                    f"process {found.pid} in {home.path} is neither ready nor gone after {START_LIMIT:g} s",
                    hint="stop it",
                    log=home.said(),
                )
            time.sleep(TICK)
        if found:
            home.forget(found)
        return None

    def _attach(self, found: Postmaster) -> None:
        if self._port not in (None, found.port):
            raise EmbeddedServerError(
                f"{self.data} is served already, on port {found.port} and not on {self._port}",
                hint=f"use that port, or stop the process {found.pid} first",
            )
        self._at, self._port, self._attached = found, found.port, True

    def _launch(self, home: Home, postgres: Path) -> None:
        self._server, self._at = launch(home, postgres, port=self._port, settings=self._settings)
        self._port = self._at.port
        atexit.register(self.stop)  # in a child forked off this process it finds no child of its own, and does nothing
        try:
            self._greet(self._at)
        except BaseException:
            self.stop()
            raise

    def _greet(self, at: Postmaster) -> None:
        """Ask the server one question, so that a wrong password shows here and not in the first test."""
        try:
            sql.run("SELECT 1", at, user=self.user, password=self._password())
        except sql.StatementError as refused:
            if "authentication failed" not in refused.log:
                raise
            raise ConfigurationError(
                f"{self.data} was made with another password, or another user than {self.user!r}",
                hint="give those that it was made with, or remove the folder if it can be lost",
            ) from refused

    def _run(self, statement: str) -> None:
        sql.run(statement, self._last(), user=self.user, password=self._password())

    def _last(self) -> Postmaster:
        if self._at is None:
            raise EmbeddedServerError(f"the server in {self.data} has not been started yet", hint="start() it first")
        return self._at

    def _login(self) -> str:
        return f"{quote(self.user, safe='')}:{quote(self._password(), safe='')}"

    def _password(self) -> str:
        if self._secret is None:
            raise EmbeddedServerError(
                "a password that the folder keeps is not known yet", hint="start the server first"
            )
        return self._secret.get_secret_value()

    def _refuse_if_attached(self, what: str) -> None:
        if self.attached:
            raise EmbeddedServerError(
                f"{self!r} was started elsewhere, so it is not {what} from here", hint="do it where it was started"
            )
