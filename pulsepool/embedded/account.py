"""Whom the server runs as, and which folders that user can reach.

PostgreSQL refuses to run as root. Started by root, its processes change to the user `postgres` where there is one, else
to `nobody`; no user is created. (A number without a name would be more private than the shared `nobody`, but initdb
insists on a name.) No folder that was there before is ever chmod-ed: what the user cannot reach is given another place,
in a folder that belongs to us and that nobody else can write in.
"""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from pulsepool.embedded.errors import EmbeddedServerError
from pulsepool.errors import ConfigurationError

_ACCOUNTS = ("postgres", "nobody")
_LASTING = Path("/var/tmp")  # noqa: S108 - see `claim`
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group of the server's processes; both None when they are simply ours."""

    user: int | None
    group: int | None

    @classmethod
    def of_server(cls) -> "Account":
        """Ours; when we are root, that of `postgres` or `nobody`. Raises `ConfigurationError` when neither exists."""
        if os.geteuid() != 0:
            return cls(None, None)
        for name in _ACCOUNTS:
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root, and this system has none of the users {', '.join(_ACCOUNTS)}",
            hint="run as an ordinary user, or create one of those",
        )

    def spawn(
        self, *argv: str | Path, stdin: int = subprocess.DEVNULL, output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Start a program as this user, with both its outputs in `output`.

        Its environment holds nothing of ours (no DATABASE_URL can leak to that user) and its messages are English.
        It is a session of its own, so that Ctrl-C reaches it through its owner only.
        """
        try:
            return subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                argv,
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else (),
            )
        except OSError as error:
            raise EmbeddedServerError(f"cannot run {argv[0]}: {error}") from error

    def reaches(self, path: Path) -> bool:
        """Whether the user may pass through every folder down to `path`, so far as these exist.

        Reads mode bits only: a permission that comes from an access list is not seen.
        """
        return self.user is None or all(self._may_pass(place) for place in (path, *path.parents) if place.is_dir())

    def _may_pass(self, place: Path) -> bool:
        status = place.stat()
        user, group = status.st_uid == self.user, status.st_gid == self.group
        return bool(status.st_mode & (stat.S_IXUSR if user else stat.S_IXGRP if group else stat.S_IXOTH))

    def give(self, place: Path) -> None:
        """Make the user the owner of `place`, which lies in a folder that only we can write in."""
        if self.user is not None and self.group is not None:
            os.chown(place, self.user, self.group, follow_symlinks=False)

    def make_passable(self, folder: Path) -> None:
        """Make `folder` and what is missing above it so that this user may pass; leaves alone what is there already."""
        for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
            missing.mkdir(exist_ok=True)
            if self.user is not None:
                missing.chmod(0o755)

    def make_private(self, folder: Path) -> Path:
        """Make `folder` if it is missing, the user's own and closed to all others. Only we can write in its parent."""
        with suppress(FileExistsError):
            folder.mkdir(0o700)
            self.give(folder)
        return folder

    def shelter(self, purpose: str, key: str) -> Path:
        """The path of a folder for `purpose` in a place that every user can reach, always the same for one `key`.

        /var/tmp if it can be, as what it holds outlives a reboot.
        """
        places = (_LASTING, Path(tempfile.gettempdir()))
        for place in places:
            if place.is_dir() and self.reaches(place):
                name = f"pulsepool-{purpose}-{os.geteuid()}-{sha256(os.fsencode(key)).hexdigest()[:16]}"
                return claim(place / name)
        raise ConfigurationError(
            f"the user with id {self.user} reaches none of {', '.join(map(str, places))}",
            hint="set TMPDIR to a folder that every user can pass through",
        )


def claim(folder: Path) -> Path:
    """Make `folder`, or take it when it is ours already.

    Its name can be guessed and all users can write next to it, so one that another user put there, a link, or one that
    others can write in raises `ConfigurationError`.
    """
    with suppress(FileExistsError):
        folder.mkdir(0o755)
        folder.chmod(0o755)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
        raise ConfigurationError(
            f"{folder} is not a folder that belongs to the user with id {os.geteuid()} and to none other",
            hint="somebody else put it there; remove it",
        )
    return folder


def copy_for_all(source: Path, target: Path, *, without: tuple[str, ...] = ()) -> None:
    """Copy the folder `source` to `target`, whole or not at all, readable and executable by every user.

    Several processes may do it at once: the first to finish wins, and the others' copies are dropped.
    """
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(*without), dirs_exist_ok=True)
        for place in (draft, *draft.rglob("*")):
            place.chmod(0o755)
        with suppress(OSError):  # ENOTEMPTY: another process was first
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
