"""`make compliance`: SQLAlchemy's dialect compliance suite on both drivers, without and with `?plugin=pulsepool`.

Prints how many tests passed, failed and were skipped, and ends with 1 and the reasons when any test is worse with the
plugin, or the runs prove nothing: see `outcomes.objections`. One to two minutes on two cores. The logs stay in
.pulsepool/compliance.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg
from sqlalchemy import URL, make_url

from pulsepool.embedded import EmbeddedPostgres
from tests.compliance.outcomes import Outcome, Run, objections

ROOT = Path(__file__).parents[2]
LOGS = ROOT / ".pulsepool/compliance"
DRIVERS = ("asyncpg", "psycopg_async")
LIMIT = 600.0
"""Seconds for all the runs, which go at the same time; each test has 30."""


@dataclass(frozen=True, slots=True)
class _Process:
    """The suite at work in a process and a database of its own, as SQLAlchemy's plugin takes all of pytest over."""

    name: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, server: EmbeddedPostgres, driver: str, plugin: str | None) -> Self:
        name = f"{driver}_{'with' if plugin else 'without'}"
        server.create_database(name)
        with psycopg.connect(server.url(name), autocommit=True) as connection:
            connection.execute("CREATE SCHEMA test_schema")
            connection.execute("CREATE SCHEMA test_schema_2")
        url = make_url(server.url(name))
        command = [sys.executable, "-m", "pytest", "-c", "tests/compliance/suite.ini", "tests/compliance/suite.py"]
        command += ["--dburi", _address(url, driver, plugin), "--record", str(LOGS / f"{name}.json")]
        command += ["--engine-plugin", plugin] if plugin else []
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PGPASSWORD": url.password or "",
        }
        with (LOGS / f"{name}.log").open("wb") as log:
            return cls(name, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))

    def result(self, ends: float) -> Run | None:
        """None when it did not come to its end by `ends`, on the monotonic clock."""
        try:
            self.process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return Run.read(LOGS / f"{self.name}.json") if self.process.returncode in (0, 1) else None


def main(plugin: str = "pulsepool") -> int:
    """Run the suite four times at once, compare, print; give 0 when nothing speaks against the plugin."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="pulsepool-compliance-") as folder:
        Path(folder).chmod(0o711)  # as root, the server runs as another user, who has to pass through
        settings = {"max_prepared_transactions": "10"}  # for two-phase commit
        data, password = Path(folder) / "server", secrets.token_urlsafe()
        with EmbeddedPostgres(data, password=password, durable=False, settings=settings) as server:
            ends = time.monotonic() + LIMIT
            pairs = [[_Process.start(server, driver, which) for which in (None, plugin)] for driver in DRIVERS]
            runs = {process.name: process.result(ends) for pair in pairs for process in pair}
    return 0 if _report(runs) else 1


def _address(url: URL, driver: str, plugin: str | None) -> str:
    """Without the password, which would be in the list of processes; both drivers find it in PGPASSWORD."""
    query = {"plugin": plugin} if plugin else {}
    bare = URL.create(f"postgresql+{driver}", url.username, None, url.host, url.port, url.database, query)
    return bare.render_as_string()


def _report(runs: dict[str, Run | None]) -> bool:
    print(f"{'':24}{'passed':>8}{'failed':>8}{'skipped':>8}   pools")
    against = []
    for name, run in runs.items():
        if run is None:
            against.append(f"{name}: did not come to its end, see {LOGS / name}.log")
            continue
        counts = [run.count(outcome) for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)]
        print(f"{name:24}{counts[0]:8}{counts[1]:8}{counts[2]:8}   {', '.join(sorted(run.pools))}")
    for driver in DRIVERS:
        before, now = runs[f"{driver}_without"], runs[f"{driver}_with"]
        if before and now:
            against += [f"{driver}: {line}" for line in objections(before, now)]
    print(*(f"against it: {line}" for line in against), sep="\n", end="\n" if against else "")
    return not against


if __name__ == "__main__":
    sys.exit(main())
