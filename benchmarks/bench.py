"""What every scenario is given: the server, how much effort to make, and peers by the dozen."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Effort, Table
from benchmarks.peers.alchemy import Prp27, SqlAlchemy, SqlAlchemyAutocommit
from benchmarks.peers.base import SIZE, Peer
from benchmarks.peers.drivers import AsyncpgPool, AsyncpgPoolNoReset, Bare, BareBindExecute, PsycopgPool
from benchmarks.peers.pulse import PulsePool
from benchmarks.proxy import Proxy
from pulsepool.dsn import Dsn
from pulsepool.embedded import EmbeddedPostgres

POOLS: tuple[type[Peer], ...] = (AsyncpgPool, PsycopgPool, SqlAlchemy, Prp27, PulsePool)
ALL: tuple[type[Peer], ...] = (Bare, *POOLS)
ASKED: tuple[type[Peer], ...] = (
    *(Bare, BareBindExecute, AsyncpgPool, AsyncpgPoolNoReset, PsycopgPool),
    *(SqlAlchemy, SqlAlchemyAutocommit, Prp27, PulsePool),
)
"""For one query, also what asyncpg.Pool and SQLAlchemy can be set to, and the driver past its public methods."""

DATABASE = "bench"


@dataclass(frozen=True, slots=True)
class Bench:
    """One run's server and effort."""

    server: EmbeddedPostgres
    effort: Effort

    @property
    def url(self) -> str:
        """The address through the unix socket."""
        return self.server.socket_url(DATABASE)

    def through(self, proxy: Proxy) -> str:
        """The address through the proxy."""
        return Dsn.parse(self.server.url(DATABASE)).replace(port=proxy.port).render(hide_password=False)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A group of tables that are measured together. `quick`: part of the short run."""

    name: str
    run: Callable[[Bench], AsyncIterator[Table]]
    quick: bool = True


@contextmanager
def own_server(**settings: str) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this run's own. It does not wait for the disk, which would be the same for all and drown them."""
    with TemporaryDirectory(prefix="pulsepool-bench-") as folder:
        Path(folder).chmod(0o711)  # as root, the server runs as another user, who has to pass through
        server = EmbeddedPostgres(Path(folder) / "pg", password="bench", durable=False, settings=settings)  # noqa: S106
        server.start()
        try:
            server.create_database(DATABASE)
            yield server
        finally:
            server.stop("immediate")


@asynccontextmanager
async def opened(
    kinds: Sequence[type[Peer]], url: str, *, most: int = SIZE, least: int | None = None
) -> AsyncIterator[Mapping[str, Peer]]:
    """All these peers at once, by name."""
    async with AsyncExitStack() as stack:
        yield {kind.name: await stack.enter_async_context(kind(url, most, least)) for kind in kinds}
