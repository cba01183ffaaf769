"""The cases that puddle and pgxpool, and psycopg_pool, test, by their names."""

import asyncio

import pytest

from pulsepool.errors import DatabaseUnavailable
from tests.unit.pool.scripted import NEVER, Refused


async def asked(pool, limit=None):
    """One who waits in the line."""
    task = asyncio.create_task(pool.acquire(limit))
    await asyncio.sleep(0)
    return task


class TestPuddleAndPgxpool:
    async def test_acquirer_cancelled_while_connecting(self, make, driver):
        """The connect goes on, for the next one."""
        driver.connect_takes = 1.0
        pool = make()
        task = await asked(pool)
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.sleep(0.6)
        assert task.cancelled()
        assert pool.stats().idle == 1
        assert driver.calls["connect cancelled"] == 0
        await pool.stop()

    async def test_waiter_told_when_a_connect_failed(self, make, driver):
        driver.down, driver.sqlstates = Refused("no such database"), {"no such database": "3D000"}
        pool = make(acquire_timeout=5.0)
        tasks = [await asked(pool) for _ in range(3)]
        began = pool.loop.time()
        for task in tasks:
            with pytest.raises(DatabaseUnavailable, match="no such database"):
                await task
        assert pool.loop.time() - began < 0.02
        await pool.stop()

    async def test_a_failed_connect_does_not_leave_a_waiter_asleep(self, make, driver):
        driver.script.append(Refused("once"))
        pool = make(acquire_timeout=5.0)
        slot = await pool.acquire()
        assert pool.loop.time() - 1000 < 0.2
        pool.release(slot)
        await pool.stop()

    async def test_release_inside_a_transaction(self, make, driver):
        """Rolled back by the keeper before the next one gets it."""
        pool = make(max_size=1)
        slot = await pool.acquire()
        slot.connection.clean = False
        task = await asked(pool)
        pool.release(slot)
        assert pool.stats().kept == 1
        assert (await task) is slot
        assert slot.connection.clean
        assert slot.connection.full_resets == 0
        assert pool.counters.restored == 1
        pool.release(slot)
        await pool.stop()

    async def test_ping_timeout_on_acquire(self, make, driver):
        pool = make(acquire_timeout=5.0)
        pool.release(await pool.acquire())
        driver.connections[0].trouble["ping"] = NEVER
        await asyncio.sleep(10)
        began = pool.loop.time()
        slot = await pool.acquire()
        assert slot.connection.number == 2
        assert pool.loop.time() - began == pytest.approx(0.11, abs=0.01)  # not the whole second of the question
        await asyncio.sleep(1)
        assert not driver.connections[0].open
        assert pool.counters.lost == 1
        pool.release(slot)
        await pool.stop()

    async def test_one_used_within_half_a_second_is_lent_unasked(self, make, driver):
        pool = make(validate_after=0.5)
        pool.release(await pool.acquire())
        await asyncio.sleep(0.49)
        pool.release(await pool.acquire())
        assert driver.calls["ping"] == 0
        await asyncio.sleep(0.51)
        pool.release(await pool.acquire())
        assert driver.calls["ping"] == 1
        await pool.stop()


class TestPsycopgPool:
    async def test_spike(self, make, driver):
        """Demand that is gone when the first connects arrive opens no more."""
        driver.connect_takes = 0.15
        pool = make(max_size=50)

        async def work():
            slot = await pool.acquire()
            await asyncio.sleep(0.002)
            pool.release(slot)

        await asyncio.gather(*(work() for _ in range(50)))
        await asyncio.sleep(1)
        assert len(driver.connections) <= 6
        await pool.stop()

    async def test_a_returned_connection_wins_over_a_new_one(self, make, driver):
        pool = make(max_size=2)
        held = await pool.acquire()
        driver.connect_takes = 1.0
        task = await asked(pool)
        pool.release(held)
        assert (await task) is held
        pool.release(held)
        await pool.stop()

    async def test_dead_client_in_the_queue(self, make, driver):
        pool = make(max_size=1)
        held = await pool.acquire()
        gone, patient = await asked(pool), await asked(pool)
        gone.cancel()
        pool.release(held)  # in the same tick: `gone` still stands in the line
        assert (await patient) is held
        assert pool.stats().waiting == 0
        pool.release(held)
        await pool.stop()

    async def test_reconnect_after_a_failed_growth(self, make, driver):
        pool = make(max_size=5, acquire_timeout=5.0)
        held = await pool.acquire()
        driver.script.extend([Refused("full")] * 3)
        slots = [await task for task in [await asked(pool) for _ in range(3)]]
        assert len({slot.connection.number for slot in slots}) == 3
        assert pool.outage is None
        for slot in [held, *slots]:
            pool.release(slot)
        await pool.stop()

    async def test_cancelled_waiters_connection_is_reclaimed(self, make, driver):
        """Served, and cancelled in the same tick, before it ran."""
        pool = make(max_size=1)
        held = await pool.acquire()
        task = await asked(pool)
        pool.release(held)
        assert pool.stats().in_use == 1
        task.cancel()
        await asyncio.sleep(0)
        assert task.cancelled()
        assert pool.stats().idle == 1
        await pool.stop()

    async def test_cancelled_waiters_connection_goes_to_the_next_in_line(self, make, driver):
        pool = make(max_size=1)
        held = await pool.acquire()
        first, second = await asked(pool), await asked(pool)
        pool.release(held)
        first.cancel()
        assert (await second) is held
        pool.release(held)
        await pool.stop()

    async def test_nudged_while_all_who_wait_were_cancelled_in_this_tick_it_does_not_spin(self, make, driver):
        pool = make(max_size=1)
        held = await pool.acquire()
        task = await asked(pool)
        task.cancel()
        pool.release(held)
        pool.resume()  # idle there is, and one counts as waiting until its task has run
        assert pool.stats().idle == 1
        await pool.stop()

    async def test_cancel_during_check(self, make, driver):
        pool = make()
        pool.release(await pool.acquire())
        driver.connections[0].trouble["ping"] = 0.5
        await asyncio.sleep(10)
        task = await asked(pool)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(1)
        assert pool.stats().idle == 1
        assert driver.connections[0].open
        await pool.stop()

    async def test_cancel_during_rollback(self, make, driver):
        pool = make(max_size=1)
        slot = await pool.acquire()
        slot.connection.clean = False
        slot.connection.trouble["restore"] = 0.5
        task, patient = await asked(pool), await asked(pool)
        pool.release(slot)
        await asyncio.sleep(0.1)
        task.cancel()
        assert (await patient) is slot
        pool.release(slot)
        await pool.stop()

    async def test_backoff_on_check(self, make, driver):
        """All are dead, and the server is: it is tried at intervals, not in a loop."""
        pool = make(max_size=3, acquire_timeout=5.0)
        for slot in [await pool.acquire() for _ in range(3)]:
            pool.release(slot)
        await asyncio.sleep(5)
        for connection in driver.open:
            connection.trouble["ping"] = Refused("gone")
        driver.down = Refused("down")
        with pytest.raises(DatabaseUnavailable):
            await pool.acquire()
        assert 3 <= driver.calls["connect"] - 3 <= 12
        with pytest.raises(DatabaseUnavailable):
            await pool.acquire(0.0)
        await pool.stop()

    async def test_drain(self, make, driver):
        pool = make(max_size=3)
        slots = [await pool.acquire() for _ in range(3)]
        pool.release(slots.pop())
        pool.drain()
        waiting = await asked(pool)
        for slot in slots:
            pool.release(slot)
        fresh = await waiting
        assert fresh.connection.number > 3
        await asyncio.sleep(2)
        assert [connection.number for connection in driver.open] == [fresh.connection.number]
        assert driver.most == 3
        pool.release(fresh)
        await pool.stop()

    async def test_drain_while_one_is_mended_connects_anew_without_waiting_for_it(self, make, driver):
        pool = make(max_size=2)
        slot = await pool.acquire()
        slot.connection.clean = False
        slot.connection.trouble["restore"] = 1.5
        pool.release(slot)
        task = await asked(pool)
        pool.drain()
        await task
        assert pool.loop.time() - 1000 < 0.1
        pool.release(task.result())
        await pool.stop()

    async def test_a_server_that_listens_and_never_answers(self, make, driver):
        driver.script.extend([NEVER] * 9)
        pool = make(connect_timeout=2.0, acquire_timeout=5.0)
        began = pool.loop.time()
        with pytest.raises(DatabaseUnavailable, match=r"no connection within connect_timeout=2\.0 s"):
            await pool.acquire()
        assert pool.loop.time() - began == pytest.approx(3.0, abs=0.01)  # the driver's limit and a second
        assert driver.calls["connect cancelled"] == 1
        with pytest.raises(DatabaseUnavailable):
            await pool.acquire()
        assert pool.loop.time() - began == pytest.approx(3.0, abs=0.01)  # known to be down: at once
        await pool.stop()
