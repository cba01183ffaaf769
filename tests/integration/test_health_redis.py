"""The health of Redis, against a real redis-server."""

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest
from redis.asyncio import Redis

from src.config.settings import Settings
from src.observability import health
from src.observability.health import ComponentType, HealthCheck, HealthMonitor, HealthStatus

REDIS = shutil.which("redis-server")
PASSWORD = "s3cr3t"

pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed (Debian has it in redis-server)")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A server of our own, as (process, port)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    configuration = tmp_path_factory.mktemp("redis") / "redis.conf"
    settings = f'port {port}\nbind 127.0.0.1\nsave ""\ndir {configuration.parent}\nrequirepass {PASSWORD}\n'
    configuration.write_text(settings)
    yield from serve(configuration, port)


def serve(configuration: Path, port: int) -> Iterator[tuple[int, int]]:
    assert REDIS is not None
    with subprocess.Popen([REDIS, configuration], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("Ready to accept connections" in line for line in process.stdout)
            yield process.pid, port
        finally:
            process.kill()


async def ask(port: int, password: str = PASSWORD, scheme: str = "redis") -> tuple[HealthCheck, float]:
    settings = Settings(_env_file=None, redis_url=f"{scheme}://:{password}@127.0.0.1:{port}/0")
    started = perf_counter()
    return await HealthMonitor(settings).check_redis_health(), perf_counter() - started


async def test_redis_that_answers_is_healthy(redis: tuple[int, int]) -> None:
    check, _ = await ask(redis[1])
    assert (check.component, check.status) == (ComponentType.REDIS, HealthStatus.HEALTHY)
    assert check.message == "Redis connection healthy"
    assert check.response_time_ms > 0


async def test_redis_that_refuses_the_password_is_unhealthy_and_told_without_it(
    redis: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    check, _ = await ask(redis[1], "wrong-hunter2")
    assert check.status is HealthStatus.UNHEALTHY
    assert check.message == "Redis connection failed: it refused the user or the password"
    assert "hunter2" not in repr(check) + caplog.text


async def test_redis_that_is_not_there_is_unhealthy_at_once(unused_tcp_port: int) -> None:
    check, took = await ask(unused_tcp_port)
    assert (check.status, check.message) == (HealthStatus.UNHEALTHY, "Redis connection failed: ConnectionError")
    assert took < 1


async def test_an_address_that_cannot_be_read_shows_no_part_of_its_password() -> None:
    check, _ = await ask(1, "hunter2/rest")
    assert check.status is HealthStatus.UNHEALTHY
    assert "hunter2" not in check.message
    assert check.message == "Redis connection failed: ValueError"


async def test_a_frozen_redis_is_unhealthy_by_the_limit_and_well_again_when_it_thaws(
    redis: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(health.LIMITS, ComponentType.REDIS, 0.3)
    process, port = redis
    os.kill(process, signal.SIGSTOP)
    try:
        check, took = await ask(port)
    finally:
        os.kill(process, signal.SIGCONT)
    assert check.status is HealthStatus.UNHEALTHY
    assert re.fullmatch(r"Redis gave no answer within 0\.[3-7] s", check.message)
    assert took < 0.8
    check, _ = await ask(port)
    assert check.status is HealthStatus.HEALTHY


async def test_a_check_leaves_no_connection_behind(redis: tuple[int, int]) -> None:
    async with Redis(port=redis[1], password=PASSWORD) as client:
        for _ in range(5):
            await ask(redis[1])
        async with asyncio.timeout(2):
            while len(await client.client_list()) > 1:
                await asyncio.sleep(0.01)
        assert len(await client.client_list()) == 1


@pytest.mark.parametrize("reply", [b"-LOADING Redis is loading the dataset in memory\r\n", b"garbage\r\n"])
async def test_a_server_that_is_no_redis_yet_or_never_was_is_unhealthy(reply: bytes) -> None:
    async def parrot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(parrot, "127.0.0.1") as listener:
        check, _ = await ask(listener.sockets[0].getsockname()[1])
    assert check.status is HealthStatus.UNHEALTHY
    assert check.message.startswith("Redis connection failed: ")


async def test_an_answer_to_ping_that_is_not_pong_is_unhealthy() -> None:
    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(4096):
            for command in said.split(b"*")[1:]:
                writer.write(b"%1\r\n+proto\r\n:3\r\n" if b"HELLO" in command else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(impostor, "127.0.0.1") as listener:
        check, _ = await ask(listener.sockets[0].getsockname()[1])
    assert check.status is HealthStatus.UNHEALTHY
    assert check.message == "Redis answered PING with something else than PONG"


async def test_a_connection_that_fails_is_not_tried_again_within_one_check() -> None:
    calls = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1") as listener:
        check, took = await ask(listener.sockets[0].getsockname()[1])
    assert (check.status, calls) == (HealthStatus.UNHEALTHY, 1)
    assert took < 0.5
