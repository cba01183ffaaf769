"""`python -m src.observability`, and the health check that PRP-27 validates with, as people run them."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from pulsepool.embedded import EmbeddedPostgres
from src.observability import __main__ as command
from tests.listeners import Behaviour, answers, hangs_up, listening, never_answers, trickles

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(mortal: EmbeddedPostgres) -> EmbeddedPostgres:
    return mortal


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "DB_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**clean, "COLUMNS": "100", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


GATE_5 = """
import asyncio
from src.observability.health import HealthMonitor
from src.config.settings import Settings

async def test_health():
    settings = Settings()
    monitor = HealthMonitor(settings)
    result = await monitor.check_database_health()
    print(f'Database Health: {result.status.value} ({result.response_time_ms:.0f}ms)')
    print(f'Message: {result.message}')

asyncio.run(test_health())
"""


async def test_the_health_check_validation_of_the_prp_works_as_written(server: EmbeddedPostgres) -> None:
    status, out, err = await run("-c", GATE_5, DATABASE_URL=server.url(), PYTHONPATH=str(ROOT))
    assert (status, err) == (0, "")
    assert out.startswith("Database Health: healthy (")
    assert out.endswith("ms)\nMessage: Database connection healthy\n")


async def test_an_address_that_cannot_be_read_is_an_unhealthy_database_and_not_a_traceback() -> None:
    status, out, err = await run("-c", GATE_5, DATABASE_URL="postgresql://u:hunter2@h:port/x")
    assert (status, err) == (0, "")
    assert out.startswith("Database Health: unhealthy (")
    assert "hunter2" not in out


async def test_the_table_of_a_healthy_system_ends_with_status_0(server: EmbeddedPostgres) -> None:
    status, out, err = await run("-m", "src.observability", DATABASE_URL=server.url())
    assert (status, err) == (0, "")
    assert out.split()[:4] == ["component", "status", "ms", "message"]
    assert "Database connection healthy" in out
    assert out.splitlines()[-1] == "healthy (score: 1.000)"
    assert "\x1b" not in out


@pytest.mark.parametrize("columns", ["100", "30"])
async def test_the_table_of_a_dead_database_ends_with_status_1_and_no_traceback(
    columns: str, unused_tcp_port: int
) -> None:
    dead = f"postgresql://u:hunter2@127.0.0.1:{unused_tcp_port}/x"
    status, out, err = await run("-m", "src.observability", DATABASE_URL=dead, COLUMNS=columns)
    assert (status, err) == (1, "")
    assert "unhealthy" in out
    assert out.splitlines()[-1] == "unhealthy (score: 0.000)"
    assert max(len(line) for line in out.splitlines()) <= int(columns)
    assert "hunter2" not in out


async def test_the_table_tells_of_settings_that_are_wrong() -> None:
    status, out, err = await run("-m", "src.observability", DB_PORT="many")
    assert (status, err) == (1, "")
    assert "settings" in out
    assert "DB_PORT" in out
    status, out, err = await run("-m", "src.observability", DATABASE_URL="nonsense")
    assert (status, err) == (1, "")
    assert "settings" in out


async def ask_service(behaviour: Behaviour, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    async with listening(behaviour) as port:
        status = await asyncio.to_thread(command.main, ["--url", f"http://127.0.0.1:{port}/"])
    out, err = capsys.readouterr()
    assert err == ""
    return status, out


def body(status: str, score: float, message: str = "fine") -> bytes:
    row = {"component": "database", "status": status, "response_time_ms": 12.3, "message": message, "details": {}}
    return json.dumps({"status": status, "health_score": score, "timestamp": "", "components": [row]}).encode()


@pytest.mark.parametrize(
    ("score", "status"), [(1.0, 0), (0.801, 0), (0.8, 1), (0.0, 1)], ids=["well", "above", "not above", "ill"]
)
async def test_a_running_service_is_asked_and_its_score_decides(
    score: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out = await ask_service(answers("200 OK", body("degraded", score)), capsys)
    assert found == status
    assert "12.3" in out
    assert out.splitlines()[-1] == f"degraded (score: {score:.3f})"


async def test_the_report_of_an_unhealthy_service_is_shown_although_it_comes_with_503(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out = await ask_service(answers("503 Service Unavailable", body("unhealthy", 0.0, "it is down")), capsys)
    assert status == 1
    assert "it is down" in out


async def test_a_message_can_neither_command_the_terminal_nor_style_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out = await ask_service(answers("200 OK", body("healthy", 1.0, "[red]a\x1b[2Jb\nc")), capsys)
    assert "[red]a [2Jb c" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (answers("404 Not Found", b"<html>"), "status 404, and no health report with it"),
        (answers("200 OK", b'{"status": "healthy"}'), "status 200, and no health report with it"),
        (hangs_up, "nothing answers at this address (RemoteProtocolError)"),
        (never_answers, "no answer within 0.3 s"),
        (answers("200 OK", b"{", length=100), "no answer within 0.3 s"),
        (trickles, "no answer within 0.3 s"),
    ],
    ids=["html", "another shape", "hangs up", "silent", "stops halfway", "trickles"],
)
async def test_a_service_without_a_report_is_a_row_of_its_own(
    behaviour: Behaviour, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PATIENCE", 0.3)
    status, out = await ask_service(behaviour, capsys)
    assert status == 1
    assert "service" in out
    assert told in " ".join(out.split())
    assert out.splitlines()[-1] == "unhealthy (score: 0.000)"


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "http://127.0.0.1:99999", "http://u:hunter2@[", "ftp://x"])
def test_an_address_that_is_none_is_told_and_not_repeated(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--url", url]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "no address of a service" in out
    assert "hunter2" not in out
