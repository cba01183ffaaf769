"""Starting a postmaster: a port, a command line, and the wait until it takes connections."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from pulsepool.embedded.errors import EmbeddedServerError
from pulsepool.embedded.home import Home
from pulsepool.embedded.processes import Leashed, Postmaster, until

HOST = "127.0.0.1"
START_LIMIT = 60.0


def decided_here(socket_folder: Path, port: int) -> dict[str, str]:
    """The settings that are not the user's to choose."""
    return {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": str(socket_folder),
        "logging_collector": "off",
    }


def launch(home: Home, postgres: Path, *, port: int | None, settings: Mapping[str, str]) -> tuple[Leashed, Postmaster]:
    """Start a server in `home`; None as `port` takes a free one, and another if that one is taken meanwhile.

    Raises `EmbeddedServerError` when it ends instead, or does not take connections within START_LIMIT.
    """
    deadline = time.monotonic() + START_LIMIT
    while True:
        server, ready, said = _attempt(home, postgres, port or _free_port(), settings, deadline)
        if ready:
            return server, ready
        port_taken = "Address already in use" in said
        if port_taken and port:
            raise EmbeddedServerError(
                f"port {port} on {HOST} is in use by another program",
                hint="stop that, or give another port; None takes a free one",
                log=said,
            )
        late = time.monotonic() >= deadline
        # The children of a postmaster that was killed hold its shared memory until they notice.
        if late or not (port_taken or "is still in use" in said):
            what = f"is not ready after {START_LIMIT:g} s" if late else f"ended with exit code {server.exit_code}"
            raise EmbeddedServerError(
                f"the server in {home.path}, while starting, {what}", hint="its last lines tell why", log=said
            )


def _attempt(
    home: Home, postgres: Path, port: int, settings: Mapping[str, str], deadline: float
) -> tuple[Leashed, Postmaster | None, str]:
    """One start, awaited until it is ready, has ended, or is killed at the deadline; with what it said."""
    all_settings = {**settings, **decided_here(home.socket_folder(), port)}
    options = [word for name, value in all_settings.items() for word in ("-c", f"{name}={value}")]
    with home.open_log() as log:
        begin = log.seek(0, os.SEEK_END)
        server = Leashed(home.account, postgres, "-D", home.cluster, *options, output=log)

    def ready() -> Postmaster | None:
        found = Postmaster.read(home.cluster)
        return found if found and found.ready and found.pid == server.pid else None

    settled = False
    try:
        settled = until(lambda: ready() is not None or not server.running, deadline - time.monotonic())
    finally:
        if not settled:
            server.kill()
    return server, ready() if server.running else None, home.said(begin)


def _free_port() -> int:
    """A port that is free now; whether it still is, the server finds out."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
