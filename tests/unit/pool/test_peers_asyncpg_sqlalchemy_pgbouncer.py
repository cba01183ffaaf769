"""The cases that asyncpg, SQLAlchemy and PgBouncer test, by their names, as far as no server is needed."""

import asyncio

import pytest

from tests.unit.pool.scripted import NEVER


async def asked(pool, limit=None):
    """One who waits in the line."""
    task = asyncio.create_task(pool.acquire(limit))
    await asyncio.sleep(0)
    return task


class TestAsyncpg:
    async def test_abrupt_connection_loss(self, make, driver):
        """Noticed for nothing when it comes home, and nobody gets it."""
        pool = make(max_size=1)
        slot = await pool.acquire()
        task = await asked(pool)
        slot.connection.dead = True
        pool.release(slot)
        assert (await task).connection.number == 2
        assert pool.counters.lost == 1
        assert driver.calls["restore"] == 0
        pool.release(task.result())
        await pool.stop()

    async def test_release_that_times_out(self, make, driver):
        pool = make(max_size=1, acquire_timeout=5.0)
        slot = await pool.acquire()
        slot.connection.clean = False
        slot.connection.trouble["restore"] = NEVER
        began = pool.loop.time()
        pool.release(slot)
        assert pool.loop.time() == began  # who releases waits for nothing
        fresh = await pool.acquire()
        assert fresh.connection.number == 2
        assert pool.loop.time() - began == pytest.approx(2.01, abs=0.01)
        assert not slot.connection.open
        pool.release(fresh)
        await pool.stop()

    async def test_raw_loan_is_reset_in_full_by_the_keeper(self, make, driver):
        pool = make()
        slot = await pool.acquire()
        slot.changed, slot.mode = True, "read"
        pool.release(slot)
        assert (await pool.acquire()) is slot
        assert slot.connection.full_resets == 1
        assert not slot.changed
        assert slot.mode == ""
        pool.release(slot)
        assert driver.calls["restore"] == 1
        await pool.stop()

    async def test_full_reconnect_when_a_node_changes_role(self, make, driver):
        pool = make(min_size=2, max_size=4)
        await pool.start()
        held = await pool.acquire()
        pool.drain()
        assert pool.take() is None
        fresh = await pool.acquire()
        assert fresh.connection.number > 2
        pool.release(held)
        pool.release(fresh)
        await asyncio.sleep(2)
        assert all(connection.number > 2 for connection in driver.open)
        assert len(driver.open) >= 2
        await pool.stop()


class TestSqlalchemy:
    async def test_timeout_race(self, make, driver):
        """A connection that comes home in the very moment in which the limit is over goes to one or the other."""
        pool = make(max_size=1, acquire_timeout=1.0)
        slot = await pool.acquire()
        tasks = [await asked(pool), await asked(pool, 1.0)]
        pool.loop.call_at(pool.loop.time() + 1.0, pool.release, slot)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        served = [result for result in results if result is slot]
        assert len(served) + pool.counters.timeouts == 2
        for _ in served:
            pool.release(slot)
        assert pool.stats().idle == 1
        await pool.stop()

    async def test_waiters_handled(self, make, driver):
        """Nobody overtakes: served in the order of asking, whoever comes while they wait."""
        pool = make(max_size=2)
        held = [await pool.acquire() for _ in range(2)]
        order: list[int] = []

        async def ask(number):
            slot = await pool.acquire()
            order.append(number)
            await asyncio.sleep(0.001)
            pool.release(slot)

        tasks = [asyncio.create_task(ask(number)) for number in range(20)]
        await asyncio.sleep(0.01)
        for slot in held:
            pool.release(slot)
        assert pool.take() is None
        await asyncio.gather(*tasks)
        assert order == list(range(20))
        await pool.stop()

    async def test_one_that_comes_does_not_overtake_one_whose_connection_is_being_asked(self, make, driver):
        pool = make(keepalive=2.0, validate_after=0.5)
        first, second = await pool.acquire(), await pool.acquire()
        pool.release(first)
        await asyncio.sleep(1.5)
        pool.release(second)
        await asyncio.sleep(
            1.0
        )  # `first` was asked meanwhile, so it may be lent unasked; `second`, used later, may not
        slot = await pool.acquire()
        assert slot is first
        assert pool.take() is None
        pool.release(slot)
        await pool.stop()

    async def test_hanging_connect_within_overflow(self, make, driver):
        """One connect that hangs keeps nobody from what others bring back."""
        pool = make(max_size=3, connect_timeout=5.0)
        held = await pool.acquire()
        driver.script.append(NEVER)
        first, second = await asked(pool), await asked(pool)
        slot = await first
        pool.release(held)
        assert (await second) is held
        assert pool.loop.time() - 1000 < 0.2  # what lasts for a tenth of a second is more than a moment's demand
        pool.release(held)
        pool.release(slot)
        await pool.stop()

    async def test_recycle_without_a_race(self, make, driver):
        pool = make(min_size=0, max_size=3, max_lifetime=5.0)
        for _ in range(300):
            slot = await pool.acquire()
            await asyncio.sleep(0.1)
            pool.release(slot)
        assert driver.most <= 2
        assert pool.counters.connects == pool.counters.retired + 1
        await pool.stop()

    async def test_one_dead_connection_does_not_condemn_the_healthy_ones(self, make, driver):
        pool = make(max_size=3, acquire_timeout=5.0)
        for slot in [await pool.acquire() for _ in range(3)]:
            pool.release(slot)
        driver.connections[1].dead = True
        await asyncio.sleep(1.5)
        assert [connection.open for connection in driver.connections] == [True, False, True]
        assert pool.stats().idle == 2
        await pool.stop()


class TestPgbouncer:
    async def test_traffic_dropped_by_the_network_costs_one_ping_and_not_one_for_each_connection(self, make, driver):
        pool = make(max_size=5, acquire_timeout=5.0)
        for slot in [await pool.acquire() for _ in range(5)]:
            pool.release(slot)
        for connection in driver.open:
            connection.trouble["ping"] = NEVER
        await asyncio.sleep(10)
        began = pool.loop.time()
        slot = await pool.acquire()
        assert pool.loop.time() - began == pytest.approx(1.01, abs=0.01)  # the others were asked meanwhile
        assert slot.connection.number == 6
        assert driver.calls["ping"] == 5
        pool.release(slot)
        await pool.stop()
