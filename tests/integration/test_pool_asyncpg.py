"""The pool on asyncpg's own connections and a real server: what comes home is mended, and what is dead is replaced."""

import asyncio
import contextlib
import logging
import signal
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from pulsepool.errors import DatabaseUnavailable, PoolTimeout
from pulsepool.pool import Limits, Pool, PoolStats
from pulsepool.pool.asyncpg import AsyncpgDriver


@contextlib.asynccontextmanager
async def pool_of(url: str, **limits):
    limits = {"min_size": 0, "max_size": 1, **limits}
    pool = Pool(AsyncpgDriver(partial(asyncpg.connect, url, timeout=5)), Limits(**limits))
    try:
        yield pool
    finally:
        await pool.stop(5)


@contextlib.asynccontextmanager
async def lent(pool: Pool, *, raw: bool = False):
    slot = await pool.acquire()
    slot.changed = raw
    try:
        yield slot.connection
    finally:
        pool.release(slot)


async def cancelled(connection, statement: str) -> None:
    """Begin a statement, and cancel it as soon as it is sent."""
    task = asyncio.create_task(connection.execute(statement))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def backends(url: str) -> int:
    """How many connections to this database the server counts beside the one that asks."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "select count(*) - 1 from pg_stat_activity where datname = current_database() and backend_type ~ '^client'"
        )
    finally:
        await connection.close()


async def test_release_inside_a_transaction_is_rolled_back_before_the_next_one_gets_it(pg_url):
    async with pool_of(pg_url) as pool:
        async with lent(pool) as c:
            await c.execute("create table t (a int)")
            pid = c.get_server_pid()
            await c.execute("begin; insert into t values (1)")
        assert pool.stats() == PoolStats(size=1, kept=1)
        async with lent(pool) as c:
            assert c.get_server_pid() == pid
            assert not c.is_in_transaction()
            assert await c.fetchval("select count(*) from t") == 0
        assert pool.counters.restored == 1


async def test_release_inside_a_transaction_that_failed(pg_url):
    async with pool_of(pg_url) as pool:
        async with lent(pool) as c:
            pid = c.get_server_pid()
            with pytest.raises(asyncpg.DivisionByZeroError):
                await c.execute("begin; select 1/0")
        async with lent(pool) as c:
            assert (c.get_server_pid(), await c.fetchval("select 1")) == (pid, 1)


async def test_query_cancelled_keeps_its_connection_and_the_next_caller_waits_for_none_of_it(pg_url):
    async with pool_of(pg_url, max_size=2) as pool:
        async with lent(pool) as c:
            pid = c.get_server_pid()
            await cancelled(c, "select pg_sleep(30)")
        assert pool.stats().kept == 1  # the keeper waits for its end
        async with asyncio.timeout(5), lent(pool):
            pass
        async with asyncio.timeout(5):
            while pool.stats().kept:
                await asyncio.sleep(0.01)
        assert pid in {slot.connection.get_server_pid() for slot in pool.slots}
        assert pool.counters.lost == 0


async def test_a_hundred_cancelled_queries_cost_no_reconnect(pg_url):
    async with pool_of(pg_url) as pool:
        for _ in range(100):
            async with lent(pool) as c:
                await cancelled(c, "select pg_sleep(30)")
        async with lent(pool) as c:
            assert await c.fetchval("select 1") == 1
        assert (pool.counters.connects, pool.counters.lost, pool.counters.restored) == (1, 0, 100)


async def test_a_cancel_that_overtakes_its_statement_is_sent_again(pg_url, frozen_backend):
    async with pool_of(pg_url) as pool:
        async with lent(pool) as c:
            pid = c.get_server_pid()
            with frozen_backend(pid):  # it finds the signal before the statement, and nothing to cancel
                await cancelled(c, "select pg_sleep(30)")
                async with asyncio.timeout(5):
                    while not _interrupt_pending(pid):
                        await asyncio.sleep(0.01)
        async with asyncio.timeout(2), lent(pool) as c:
            assert c.get_server_pid() == pid
        assert pool.counters.lost == 0


def _interrupt_pending(pid: int) -> bool:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(status["ShdPnd"], 16) & 1 << (signal.SIGINT - 1))


async def test_a_begin_that_was_cancelled_is_not_lent_as_an_open_transaction(pg_url):
    async with pool_of(pg_url) as pool:
        for _ in range(20):
            async with lent(pool) as c:
                await cancelled(c, "begin")
            async with lent(pool) as c:
                assert not c.is_in_transaction()
                first = await c.fetchval("select now()")
                assert await c.fetchval("select now()") > first  # in a transaction it would stand still
        assert pool.counters.connects == 1


async def test_a_transaction_block_that_was_cancelled_at_its_begin_leaves_the_next_one_its_own(pg_url):
    async def work(connection):
        async with connection.transaction():
            await connection.execute("select pg_sleep(30)")

    async with pool_of(pg_url) as pool:
        async with lent(pool) as c:
            task = asyncio.create_task(work(c))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with lent(pool) as c, c.transaction():
            assert await c.fetchval("select 1") == 1
        assert pool.counters.connects == 1


async def test_a_cancelled_query_that_cannot_be_ended_in_time_costs_its_connection_alone(pg_url, frozen_backend):
    async with pool_of(pg_url, max_size=2) as pool:
        slot = await pool.acquire()
        pid = slot.connection.get_server_pid()
        with frozen_backend(pid):
            await cancelled(slot.connection, "select 1")
            pool.release(slot)
            async with asyncio.timeout(5), lent(pool) as c:
                assert c.get_server_pid() != pid
            async with asyncio.timeout(5):
                while pool.counters.lost == 0:
                    await asyncio.sleep(0.02)
        assert pool.stats().size == 1


async def test_ping_timeout_on_acquire(pg_url, frozen_backend):
    async with pool_of(pg_url, validate_after=0.0) as pool:
        async with lent(pool) as c:
            pid = c.get_server_pid()
        with frozen_backend(pid):
            async with asyncio.timeout(4), lent(pool) as c:
                assert c.get_server_pid() != pid
        assert pool.counters.lost == 1


async def test_raw_loan_leaves_nothing_behind(pg_url, caplog):
    async with pool_of(pg_url) as pool:
        async with lent(pool, raw=True) as c:
            pid = c.get_server_pid()
            before = await c.fetchval("show search_path")
            await c.execute("create sequence s")
            await c.execute(
                "set search_path to pg_catalog; set application_name to 'mine'; create temp table mine (a int)"
            )
            await c.execute("select pg_advisory_lock(7); select nextval('public.s'); listen jobs")
            await c.execute("begin; set local lock_timeout to 5")
        async with lent(pool) as c:
            assert c.get_server_pid() == pid
            assert await c.fetchval("show search_path") == before
            assert await c.fetchval("show lock_timeout") == "0"
            assert await c.fetchval("show application_name") == ""
            assert await c.fetchval("select to_regclass('pg_temp.mine')") is None
            assert await c.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
            assert await c.fetch("select pg_listening_channels()") == []
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
                await c.fetchval("select currval('s')")
        assert pool.counters.restored == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_abrupt_connection_loss_while_held(pg_url):
    async with pool_of(pg_url) as pool:
        async with lent(pool) as c:
            pid = c.get_server_pid()
            with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
                await c.execute(f"select pg_terminate_backend({pid})")
        async with lent(pool) as c:
            assert c.get_server_pid() != pid
        assert (pool.counters.connects, pool.counters.lost) == (2, 1)


async def test_connections_lost_while_idle_are_noticed_without_a_question(pg_url):
    async with pool_of(pg_url, max_size=4) as pool:
        slots = [await pool.acquire() for _ in range(4)]
        old = [slot.connection.get_server_pid() for slot in slots]
        for slot in slots[1:]:
            pool.release(slot)
        for pid in old[1:]:
            await slots[0].connection.execute("select pg_terminate_backend($1)", pid)
        async with asyncio.timeout(5):
            while not all(slot.connection.is_closed() for slot in slots[1:]):
                await asyncio.sleep(0.01)
        async with lent(pool) as c:
            assert c.get_server_pid() not in old
        pool.release(slots[0])
        assert pool.counters.lost == 3


async def test_a_full_server_is_no_reason_to_stop_while_there_are_connections(pg_url):
    async with pool_of(pg_url, max_size=3, acquire_timeout=0.3) as pool:
        held = await pool.acquire()
        limit = "alter database {} connection limit {}"
        name = await held.connection.fetchval("select current_database()")
        await held.connection.execute("create role modest login password 'm'")
        try:
            await held.connection.execute(limit.format(name, 0))
            modest = partial(asyncpg.connect, pg_url, user="modest", password="m")
            pool.driver = AsyncpgDriver(modest)
            with pytest.raises(PoolTimeout, match="last connect failed: too many connections for database"):
                await pool.acquire()
            assert pool.outage is not None
            assert not pool.outage.final
            await held.connection.execute(limit.format(name, -1))
            slot = await pool.acquire(2.0)
            assert await slot.connection.fetchval("select current_user") == "modest"
            assert pool.outage is None
            pool.release(slot)
            pool.drain()
            async with asyncio.timeout(5):
                while pool.stats().size > 1:
                    await asyncio.sleep(0.01)
        finally:
            await held.connection.execute("drop role modest")
            pool.release(held)


@pytest.mark.parametrize(
    ("wrong", "code"), [({"password": "not this one"}, "28P01"), ({"database": "nowhere"}, "3D000")]
)
async def test_what_trying_again_does_not_mend_is_told_at_once_with_the_servers_code(pg_url, wrong, code):
    pool = Pool(AsyncpgDriver(partial(asyncpg.connect, pg_url, **wrong)), Limits())
    try:
        began = pool.loop.time()
        with pytest.raises(DatabaseUnavailable) as raised:
            await pool.start()
        assert pool.loop.time() - began < 2
        assert raised.value.sqlstate == code
        assert "not this one" not in str(raised.value)
        assert pool.outage is not None
        assert pool.outage.final
    finally:
        await pool.stop(5)


async def test_server_and_pool_agree_after_a_storm(pg_url):
    async def one(pool, number):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001 * (number % 7 + 1)), lent(pool) as c:
                await c.execute("select pg_sleep(0.003)")

    async with pool_of(pg_url, max_size=8) as pool:
        for _ in range(5):
            await asyncio.gather(*(one(pool, number) for number in range(100)))
        async with asyncio.timeout(5):
            while pool.stats().kept or pool.stats().connecting:
                await asyncio.sleep(0.01)
        stats = pool.stats()
        assert stats.in_use == stats.waiting == 0
        assert stats.idle == stats.size <= 8
        assert pool.counters.lost == 0
        assert await backends(pg_url) == stats.size
    assert pool.stats() == PoolStats()


async def test_a_server_that_restarts_is_used_again_without_anybody_asking(own_server):
    own_server.create_database("mine")
    async with pool_of(own_server.url("mine"), min_size=2, max_size=4) as pool:
        await pool.start()
        await asyncio.to_thread(own_server.stop, "immediate")
        async with asyncio.timeout(5):
            while pool.outage is None:
                await asyncio.sleep(0.02)
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(2):
            while pool.stats().idle < 2:
                await asyncio.sleep(0.02)
        async with lent(pool) as c:
            assert await c.fetchval("select 1") == 1
        assert pool.outage is None
