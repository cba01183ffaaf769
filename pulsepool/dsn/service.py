"""libpq's service files: parameters under a name, `service=`, read here so that they mean the same to every driver.

asyncpg, asked for a service that no file has, connects to localhost instead.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pulsepool.errors import ConfigurationError


def look_up(service: str) -> list[tuple[str, str]]:
    """The parameters of `service`: from `PGSERVICEFILE` or `~/.pg_service.conf`, else `PGSYSCONFDIR/pg_service.conf`.

    Raises `ConfigurationError` when no file has it.
    """
    searched = list(_files())
    for file in searched:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the service file {file} cannot be read: {type(error).__name__}") from None
        if (found := _section(lines, service, file)) is not None:
            return found
    names = " or ".join(str(file) for file in searched)
    raise ConfigurationError(
        f"no service {service!r} in {names}", hint="add it, or set PGSERVICEFILE to the file that has it"
    )


def _files() -> Iterator[Path]:
    if own := os.environ.get("PGSERVICEFILE"):
        yield Path(own)
    else:
        yield Path("~/.pg_service.conf").expanduser()
    if system := os.environ.get("PGSYSCONFDIR"):
        yield Path(system, "pg_service.conf")


def _section(lines: list[str], service: str, file: Path) -> list[tuple[str, str]] | None:
    found: list[tuple[str, str]] | None = None
    for number, line in enumerate(map(str.strip, lines), 1):
        if line == f"[{service}]" and found is None:
            found = []
        elif line.startswith("[") and found is not None:
            break
        elif found is not None and line and not line.startswith("#"):
            name, is_pair, value = line.partition("=")
            if not is_pair or name == "service":
                raise ConfigurationError(
                    f"line {number} of {file} is not name=value", hint="libpq allows nothing else here"
                )
            found.append((name, value))
    return found
