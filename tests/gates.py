"""`make gates`: PRP-27's six validation gates, as written there but for the project's path and the quotes in gate 1.

The server is on port 5432, where the document expects it, when that is free; else on another, and it says so.
"""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from pulsepool.embedded import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
GATES = {
    "1. Dependency installation": """
# Install async database dependencies
pip install 'asyncpg>=0.29.0' 'sqlalchemy[asyncio]>=2.0.25'
""",
    "2. Syntax and type checking": """
# Verify code quality
ruff check src/models/async_database.py
mypy src/models/async_database.py
""",
    "3. Unit tests": """
# Run async database unit tests
PYTHONPATH={root} python3 -m pytest tests/unit/test_async_database.py -v --asyncio-mode=auto
""",
    "4. Integration tests": """
# Test real database connectivity
PYTHONPATH={root} python3 -m pytest tests/integration/test_async_database_integration.py -v --asyncio-mode=auto
""",
    "5. Health check validation": """
# Verify health monitoring works
DATABASE_URL=postgresql://postgres:postgres@localhost:{port}/edbotv8 \\
PYTHONPATH={root} python3 -c "
import asyncio
from src.observability.health import HealthMonitor
from src.config.settings import Settings

async def test_health():
    settings = Settings()
    monitor = HealthMonitor(settings)
    result = await monitor.check_database_health()
    print(f'Database Health: {{result.status.value}} ({{result.response_time_ms:.0f}}ms)')
    print(f'Message: {{result.message}}')

asyncio.run(test_health())
"
""",
    "6. End-to-end system health": """
# Verify overall system health improves
make health
# Should show healthy status and improved response times
""",
}
MUST_SAY = {"5. Health check validation": "Database Health: healthy", "6. End-to-end system health": "healthy"}


def main() -> int:
    """Run each gate in a shell; print what it printed and how it ended; give 0 when all passed."""
    port = None if _taken(5432) else 5432
    with EmbeddedPostgres(ROOT / ".pulsepool/gates", password="postgres", port=port) as server:
        server.create_database("edbotv8", exist_ok=True)
        if server.port != 5432:
            print(f"Port 5432 is taken by somebody else: the gates use {server.port} instead.")
        results = {name: _passes(name, command, server) for name, command in GATES.items()}
    print("\nPRP-27's validation gates:")
    for name, passed in results.items():
        print(f"  {'passed' if passed else 'FAILED'}  {name}")
    return 0 if all(results.values()) else 1


def _passes(name: str, command: str, server: EmbeddedPostgres) -> bool:
    print(f"\n--- {name} {'-' * (70 - len(name))}", flush=True)
    url = server.url("edbotv8")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DATABASE_URL": url,
        "PORT": "0",  # gate 6 looks for itself: a service that happens to run here is not what the gates are about
        "PULSEPOOL_GATES_URL": url,
    }
    done = subprocess.run(
        ["bash", "-euc", command.format(root=shlex.quote(str(ROOT)), port=server.port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    print(done.stdout, end="")
    return done.returncode == 0 and MUST_SAY.get(name, "") in done.stdout


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
