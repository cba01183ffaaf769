"""One real PostgreSQL for the whole run, and a fresh database for each test that asks for one.

The service's modules read their address when they are imported, so it is set before anything is collected. It is
always an embedded server's, whatever the environment says: the tests never touch a server that they did not start.
(`PULSEPOOL_GATES_URL` is how `make gates` hands over the server that it started itself.)
"""

import contextlib
import itertools
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pulsepool.embedded import EmbeddedPostgres
from tests.planted import PLANTED

_folder = Path(tempfile.mkdtemp(prefix="pulsepool-tests-"))
_folder.chmod(0o711)  # as root, the server runs as another user, who has to pass through
_server = EmbeddedPostgres(
    _folder / "main",
    password=PLANTED,
    durable=False,
    settings={"max_connections": "200", "log_min_messages": "warning"},
)
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server, unless only unit tests are asked for, which need none.

    Whatever the environment or a `.env` of this folder says is of no account: all run from an empty folder.
    """
    os.environ["PYTHONPATH"] = str(config.rootpath)  # for the service, when it is a process of its own
    empty = _folder / "empty"
    empty.mkdir()
    os.chdir(empty)
    named = ("DB_", "PG", "DATABASE_URL", "REDIS_URL", "LLM_URL", "ENVIRONMENT", "LOG_LEVEL")
    for name in [name for name in os.environ if name.upper().startswith(named)]:
        del os.environ[name]
    if all("tests/unit" in argument for argument in config.args):
        return
    _server.start()
    _server.create_database("edbotv8")
    os.environ["DATABASE_URL"] = os.environ.get("PULSEPOOL_GATES_URL") or _server.url("edbotv8")


def pytest_unconfigure() -> None:
    """Stop the server and remove all of it."""
    _server.stop("immediate")
    os.chdir(tempfile.gettempdir())
    shutil.rmtree(_folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    """The service sets the root logger up when it starts; the next test must not notice."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.setLevel(level)
    for handler in root.handlers:
        if handler not in handlers:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def pg_server() -> EmbeddedPostgres:
    """A server that stays up; tests that stop, freeze or kill one start their own."""
    return _server


@pytest.fixture
def pg_url(pg_server: EmbeddedPostgres) -> Iterator[str]:
    """The address, password and all, of an empty database that is this test's own."""
    name = f"test_{next(_numbers)}"
    pg_server.create_database(name)
    yield pg_server.url(name)
    pg_server.drop_database(name, force=True)


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that this test may kill."""
    with EmbeddedPostgres(_folder / f"own_{next(_numbers)}", password="own", durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def mortal() -> Iterator[EmbeddedPostgres]:
    """A server that this module may freeze, kill and start again."""
    with EmbeddedPostgres(_folder / f"mortal_{next(_numbers)}", password=PLANTED, durable=False) as server:
        yield server


@pytest.fixture
def frozen() -> Callable[[EmbeddedPostgres], AbstractContextManager[None]]:
    """`with frozen(server):` stops all of a server's processes where they stand: it accepts and answers nothing."""

    @contextlib.contextmanager
    def freeze(server: EmbeddedPostgres) -> Iterator[None]:
        postmaster = server.pid
        assert postmaster is not None
        os.kill(postmaster, signal.SIGSTOP)  # first, so that it starts no other meanwhile
        stopped = [postmaster, *_children(postmaster)]
        for pid in stopped[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(stopped):
                os.kill(pid, signal.SIGCONT)

    return freeze


@pytest.fixture
def frozen_backend() -> Callable[[int], AbstractContextManager[None]]:
    """`with frozen_backend(pid):` stops one backend alone where it stands."""

    @contextlib.contextmanager
    def freeze(pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    return freeze


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
