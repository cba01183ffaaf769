"""The figures as JSON, every round of them, and the machine they come from."""

import json
import os
import platform
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
    """Cores, and versions by name."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "Python": platform.python_version(),
        "PostgreSQL": postgresql,
        **{name: version(name) for name in LIBRARIES},
    }


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
