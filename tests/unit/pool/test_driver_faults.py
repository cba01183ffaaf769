"""A driver that raises, and a loop that ends, wherever the pool stands."""

import asyncio
import contextlib

import pytest

from pulsepool.errors import DatabaseUnavailable, NotHeld, PoolTimeout
from pulsepool.pool import PoolStats
from tests.unit.pool.scripted import NEVER, Refused


async def asked(pool, limit=None):
    """One who waits in the line."""
    task = asyncio.create_task(pool.acquire(limit))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("callback", ["is_closed", "is_clean", "ping", "restore", "close", "terminate", "is_final"])
async def test_a_driver_that_raises_in_any_callback_leaves_the_pool_consistent(make, driver, callback, caplog):
    pool = make(max_size=2, acquire_timeout=5.0)
    driver.broken_sqlstate = callback == "is_final"
    slot = await pool.acquire()
    slot.connection.trouble[callback] = ZeroDivisionError(callback)
    slot.changed = callback in ("restore", "terminate")
    if callback == "terminate":
        slot.connection.trouble["restore"] = ZeroDivisionError()
    pool.release(slot)
    await asyncio.sleep(3)
    driver.script.append(Refused("once"))
    slots = [await pool.acquire() for _ in range(2)]
    for slot in slots:
        pool.release(slot)
    pool.drain()
    await asyncio.sleep(3)
    stats = pool.stats()
    assert (stats.size, stats.in_use, stats.kept, stats.connecting, stats.waiting) == (0, 0, 0, 0, 0)
    assert not driver.open
    with contextlib.suppress(PoolTimeout):
        pool.release(await pool.acquire())
    await pool.stop()
    assert stats.counters.connects == stats.counters.lost + stats.counters.retired


async def test_a_driver_whose_coroutines_are_no_coroutines_leaves_the_pool_consistent(make, driver):
    def refuses(*_, **__):
        raise ZeroDivisionError("at the call itself")

    pool = make(max_size=2, acquire_timeout=0.5)
    slot = await pool.acquire()
    driver.restore = driver.connect = refuses
    slot.connection.clean = False
    pool.release(slot)
    with pytest.raises(DatabaseUnavailable):
        await pool.acquire()
    stats = pool.stats()
    assert (stats.size, stats.kept, stats.connecting, stats.waiting) == (0, 0, 0, 0)
    await pool.stop()


async def test_a_loop_that_cancels_all_its_tasks_finds_none_begun_anew(make, driver):
    pool = make(max_size=4)
    slot, held = await pool.acquire(), await pool.acquire()
    slot.connection.clean = False
    slot.connection.trouble["restore"] = 1.0
    driver.script.append(NEVER)
    pool.release(slot)
    task = await asked(pool)
    other = await asked(pool)
    await asyncio.sleep(0.001)
    for each in asyncio.all_tasks() - {asyncio.current_task()}:
        each.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.cancelled()
    assert other.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert pool.stats() == PoolStats(size=1, in_use=1)
    again = await pool.acquire()  # by a loop that lives on after all
    pool.release(again)
    pool.release(held)
    await pool.stop()


async def test_a_loop_that_ends_while_one_is_mended_finds_no_connect_begun_in_its_place(make, driver):
    pool = make(min_size=1)
    slot = await pool.acquire()
    slot.connection.clean = False
    slot.connection.trouble["restore"] = 1.0
    pool.release(slot)
    await asyncio.sleep(0.001)
    for each in asyncio.all_tasks() - {asyncio.current_task()}:
        each.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not driver.open
    await asyncio.sleep(0.1)
    assert pool.stats() == PoolStats(size=1, idle=1)
    await pool.stop()


async def test_one_that_dies_as_soon_as_it_was_mended_is_not_lent(make, driver):
    async def restore(connection, *, full):
        connection.clean = connection.dead = True

    pool = make(max_size=1)
    driver.restore = restore
    slot = await pool.acquire()
    slot.connection.clean = False
    pool.release(slot)
    fresh = await pool.acquire()
    assert fresh.connection.number == 2
    pool.release(fresh)
    await pool.stop()


async def test_one_that_is_kept_by_its_holder_leaves_room_for_another(make, driver):
    pool = make(max_size=1)
    slot = await pool.acquire()
    task = await asked(pool)
    pool.give_up(slot)
    assert (await task).connection.number == 2
    with pytest.raises(NotHeld):
        pool.release(slot)
    pool.release(task.result())
    await pool.stop()
