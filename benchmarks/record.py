"""The figures as JSON, every round of them, and the machine they come from."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.aims import Verdict
from benchmarks.measure import Table
from benchmarks.proxy import ROOT

WHOLE, PARTIAL = ROOT / ".pulsepool/bench.json", ROOT / ".pulsepool/bench-quick.json"
"""Of a whole run, and of any other; beside what else is made here and not kept in the repository."""

LIBRARIES = ("asyncpg", "psycopg", "psycopg-pool", "SQLAlchemy", "fastapi", "uvicorn", "uvloop")


def machine(postgresql: str) -> dict[str, str]:
    """What it ran on and what of: processor, cores, versions by name, and the commit where there is one."""
    here = commit(ROOT)
    return {
        **({"commit": here} if here else {}),
        "CPU": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "Python": platform.python_version(),
        "PostgreSQL": postgresql,
        **{name: version(name) for name in LIBRARIES},
    }


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The model's name as Linux has it; elsewhere the architecture."""
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()


def commit(folder: Path) -> str:
    """The commit of a git checkout, with a + when something in it differs from that; empty where there is none."""
    git = shutil.which("git")
    if git is None:
        return ""

    def said(*arguments: str) -> str:
        done = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        return done.stdout.strip()

    head = said("rev-parse", "--short", "HEAD")
    return f"{head}+" if head and said("status", "--porcelain") else head


def write(tables: Sequence[Table], verdicts: Sequence[Verdict], machine: dict[str, str], path: Path) -> Path:
    """Write it all down; gives the path, from the repository's root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "machine": machine,
        "tables": [asdict(table) for table in tables],
        "aims": [asdict(verdict) for verdict in verdicts],
    }
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return path.relative_to(ROOT)
