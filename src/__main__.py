"""`python -m src`: the whole service with one command; it brings its own PostgreSQL when no address is set."""

import argparse
import asyncio
import socket
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pulsepool import ConfigurationError, Database, PulsePoolError
from src.address import address

PORT = 8001
console = Console(stderr=True, highlight=False)


def main() -> int:
    """Bring up database, tables, corpus and service; give the exit code."""
    options = _options()
    try:
        _require_free(options.host, options.port)
        with address() as where:
            console.print(f"PostgreSQL  {escape(where)}", soft_wrap=True)
            return _serve(options.host, options.port)
    except PulsePoolError as error:
        if options.debug:
            raise
        console.print(f"[bold red]{type(error).__name__}:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m src", description="Run EDBotv8.")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=PORT, help="where to listen (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args()


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65_536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; 1 to 65535")


def _require_free(host: str, port: int) -> None:
    """Say that the port is taken before a database is started for nothing."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} ({error.strerror})", hint=f"ports from 1024 on are free: PORT={PORT}"
            ) from error
        except OSError as error:
            other = port + 1 if port < 65_535 else PORT
            raise ConfigurationError(
                f"cannot listen on {host}:{port} ({error.strerror})",
                hint=f"another service may have it; choose one that is free: make run PORT={other}",
            ) from error


def _serve(host: str, port: int) -> int:
    """Check the address, bring tables and corpus up to date, and serve until somebody ends it."""
    # ruff: noqa: PLC0415 - imported here, as `src.config` reads the environment once, when it is imported
    import uvicorn

    from src.api.app import app
    from src.config import settings
    from src.models.database import SessionLocal, database
    from src.models.migrate import upgrade
    from src.observability.logs import setup_logging
    from src.pipeline.seed import load_corpus, seed

    setup_logging(settings.log_level)
    asyncio.run(_require_reachable(database))
    upgrade(database.sync_engine)
    with _progress() as progress, SessionLocal.begin() as session:
        task = progress.add_task("Corpus", total=None)
        seeded = seed(session, load_corpus(), lambda done, total: progress.update(task, completed=done, total=total))
    if seeded.left_out:
        console.print(f"{len(seeded.left_out)} samples were left out, as rows of your own bear their names")
    shown = f"[{host}]" if ":" in host else host
    console.print(f"EDBotv8     [bold]{escape(f'http://{shown}:{port}')}[/]  (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, log_config=None, timeout_graceful_shutdown=10)
    return 0


async def _require_reachable(database: Database) -> None:
    """Say what is wrong with the address before anything else is tried with it."""
    async with database:
        pass
    database.open()


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}     "), BarColumn(), MofNCompleteColumn(), console=console)


if __name__ == "__main__":
    sys.exit(main())
