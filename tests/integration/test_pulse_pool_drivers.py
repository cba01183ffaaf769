"""PulsePool on drivers of other databases: SQLite by aiosqlite, MySQL and MariaDB by asyncmy."""

import asyncio
import gc
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, StaticPool

from pulsepool import ConfigurationError, PulsePool


@pytest.fixture
def sqlite(tmp_path):
    pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
    return f"sqlite+aiosqlite:///{tmp_path}/file.db"


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory):
    """A MariaDB of this run's own."""
    pytest.importorskip("asyncmy", reason="asyncmy is not installed")
    if None in map(shutil.which, ("mariadbd", "mariadb-install-db", "mariadb")):
        pytest.skip("no MariaDB server is installed (mariadbd)")
    user = ["--user=root"] if os.geteuid() == 0 else []
    folder: Path = tmp_path_factory.mktemp("mariadb")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", "--skip-test-db", *user]
    subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True, timeout=50)
    serve = ["mariadbd", "--no-defaults", f"--datadir={folder}/data", f"--socket={folder}/s", f"--port={port}", *user]
    server = subprocess.Popen([*serve, "--bind-address=127.0.0.1"], stderr=subprocess.DEVNULL)
    try:
        ask = ["mariadb", "--no-defaults", f"--socket={folder}/s", "-uroot", "-e"]
        ends = time.monotonic() + 20
        while subprocess.run([*ask, "select 1"], capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < ends, "MariaDB does not answer"
            time.sleep(0.05)
        account = "pulse@'127.0.0.1'"
        make = f"create database pulse; create user {account} identified by 'p'; grant all on *.* to {account}"
        subprocess.run([*ask, make], check=True, timeout=10)
        yield f"mysql+asyncmy://pulse:p@127.0.0.1:{port}/pulse"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(params=["sqlite", "mariadb"])
def url(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def unraisable(monkeypatch):
    heard: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: heard.append(f"{said.exc_value!r}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield heard


@pytest.fixture
async def engine(url):
    engine = create_async_engine(url + "?plugin=pulsepool", pool_size=2, max_overflow=1, pool_timeout=2)
    yield engine
    await engine.dispose()


async def test_the_plugin_lends_writes_and_reads(engine):
    assert type(engine.pool) is PulsePool
    async with engine.begin() as c:
        await c.execute(text("create table t (i integer)"))
    async with AsyncSession(engine) as s, s.begin():
        await s.execute(text("insert into t values (7)"))
    async with engine.connect() as c:
        assert await c.scalar(text("select i from t")) == 7
        assert (engine.pool.size(), engine.pool.overflow(), engine.pool.checkedout()) == (2, -1, 1)
    async with engine.begin() as c:
        await c.execute(text("drop table t"))


async def test_the_same_connection_is_lent_again_and_every_event_fires(engine):
    log: list[str] = []
    for name in ("first_connect", "connect", "checkout", "reset", "checkin", "close"):
        event.listen(engine.sync_engine, name, lambda *_, name=name: log.append(name))
    for _ in range(2):
        async with engine.connect() as c:
            await c.execute(text("select 1"))
    await engine.dispose()
    lent = ["checkout", "reset", "checkin"]
    assert log == ["first_connect", "connect", *lent, *lent, "close"]


async def test_what_was_left_open_is_rolled_back(engine):
    async with engine.begin() as c:
        await c.execute(text("create table left_open (i integer)"))
    async with engine.connect() as c:
        await c.execute(text("insert into left_open values (1)"))
    async with engine.begin() as c:
        assert await c.scalar(text("select count(*) from left_open")) == 0
        await c.execute(text("drop table left_open"))


async def test_a_full_pool_and_many_at_once(engine):
    async def ask() -> int:
        async with engine.connect() as c:
            return await c.scalar(text("select 1"))

    assert await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(30))), 10) == [1] * 30
    held = [await engine.connect() for _ in range(3)]
    with pytest.raises(exc.TimeoutError):
        await engine.connect()
    for connection in held:
        await connection.close()
    assert engine.pool.checkedout() == 0


async def test_a_connection_that_idled_is_asked_before_its_next_use(url):
    engine = create_async_engine(url, poolclass=PulsePool, pool_size=1, max_overflow=0, pool_pre_ping=True)
    for _ in range(3):
        async with engine.connect() as c:
            assert await c.scalar(text("select 1")) == 1
    assert engine.pool.core.counters.connects == 1
    await engine.dispose()


async def test_a_cancelled_statement_costs_no_place(engine, url):
    slow = {
        "sqlite": "with recursive n(i) as (select 1 union select i + 1 from n where i < 1000000) select max(i) from n",
        "mysql": "select sleep(1)",
    }[url.split("+")[0]]
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02), AsyncSession(engine) as s:
                await s.execute(text(slow))
        async with asyncio.timeout(5), engine.connect() as c:
            assert await c.scalar(text("select 1")) == 1
    assert engine.pool.checkedout() == 0


async def test_invalidated_and_detached_connections_leave_their_places(engine):
    for part in ("invalidate", "detach"):
        connection = await engine.connect()
        raw = await connection.get_raw_connection()
        if part == "invalidate":
            await connection.invalidate()
        else:
            raw.detach()
        await connection.close()
        assert engine.pool.checkedout() == 0
        async with engine.connect() as c:
            assert await c.scalar(text("select 1")) == 1


def on_a_bare_loop(work):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


@pytest.mark.parametrize("run", [asyncio.run, on_a_bare_loop])
def test_one_engine_over_fifty_short_loops_leaves_nothing_behind(url, unraisable, run):
    if run is on_a_bare_loop and url.startswith("mysql"):
        pytest.skip("asyncmy has its socket where nobody can reach it, so that a bare loop leaves it to the collector")
    engine = create_async_engine(url, poolclass=PulsePool)

    async def ask() -> int:
        async with engine.connect() as c, engine.connect():
            return await c.scalar(text("select 1"))

    threads = threading.active_count()
    assert [run(ask()) for _ in range(50)] == [1] * 50
    asyncio.run(engine.dispose())
    gc.collect()
    assert unraisable == []
    ends = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < ends:
        time.sleep(0.01)
    assert threading.active_count() == threads


async def test_a_wrong_password_is_the_drivers_own_error(mariadb):
    wrong = mariadb.replace("pulse:p@", "pulse:no@")
    raised = []
    for pool in (AsyncAdaptedQueuePool, PulsePool):
        engine = create_async_engine(wrong, poolclass=pool)
        with pytest.raises(exc.OperationalError) as caught:
            await engine.connect()
        raised.append((type(caught.value), type(caught.value.orig), str(caught.value.orig)))
        await engine.dispose()
    assert raised[0] == raised[1]


@pytest.mark.parametrize("address", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
async def test_in_memory_sqlite_keeps_the_pool_that_it_has_without_us(address):
    pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
    usual = create_async_engine(address)
    engine = create_async_engine(address + "?plugin=pulsepool")
    assert type(engine.pool) is type(usual.pool) is StaticPool
    async with engine.begin() as c:
        await c.execute(text("create table t (i integer)"))
    async with engine.connect() as c:  # on the same, or there would be no table
        assert await c.scalar(text("select count(*) from t")) == 0
    await engine.dispose()


async def test_a_poolclass_wins(sqlite):
    engine = create_async_engine(sqlite + "?plugin=pulsepool", poolclass=NullPool)
    assert type(engine.pool) is NullPool
    await engine.dispose()


async def test_our_own_arguments_pass_and_wrong_ones_are_refused_by_name(sqlite):
    engine = create_async_engine(sqlite + "?plugin=pulsepool", min_size=1, max_idle=60, leak_after=5)
    assert (engine.pool.limits.min_size, engine.pool.limits.max_idle, engine.pool.limits.leak_after) == (1, 60, 5)
    await engine.dispose()
    with pytest.raises(ConfigurationError, match="max_idle=-1"):
        create_async_engine(sqlite + "?plugin=pulsepool", max_idle=-1)
