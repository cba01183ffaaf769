"""What a pool shows of itself, which connection it lends, and how many there may be."""

import asyncio

import pytest

from pulsepool.errors import ConfigurationError
from pulsepool.pool import Histogram, PoolStats


async def test_a_pool_shows_its_state(make, driver):
    pool = make(name="orders", max_size=3)
    assert repr(pool) == "<Pool orders: 0 idle, 0 in use, 0 connecting, 0 waiting, max 3>"
    first, second = await pool.acquire(), await pool.acquire()
    driver.connect_takes = 1.0
    task = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    assert repr(pool) == "<Pool orders: 0 idle, 2 in use, 1 connecting, 1 waiting, max 3>"
    assert pool.stats() == PoolStats(size=2, idle=0, in_use=2, connecting=1, waiting=1, kept=0)
    task.cancel()
    await asyncio.sleep(0)
    second.connection.clean = False
    pool.release(second)
    pool.release(first)
    pool.suspend()
    assert repr(pool) == "<Pool orders: 1 idle, 0 in use, 1 kept, 1 connecting, 0 waiting, max 3, suspended>"
    await pool.stop()
    assert repr(pool) == "<Pool orders: 0 idle, 0 in use, 0 connecting, 0 waiting, max 3, closed>"


async def test_a_snapshot_stays_as_it_was(make, driver):
    pool = make()
    before = pool.stats()
    pool.release(await pool.acquire())
    assert (before.size, before.counters.connects, before.counters.wait_time.total) == (0, 0, 0)
    after = pool.stats().counters
    assert (after.use_time.count, after.waited, after.connects) == (1, 1, 1)
    assert after.wait_time.total == pytest.approx(0.01)
    assert sum(after.use_time.counts) == 1
    with pytest.raises(AttributeError):
        before.size = 9
    await pool.stop()


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.001, 0), (0.0011, 1), (0.05, 3), (1.0, 6), (10.0, 8), (10.1, 9)]
)
def test_a_histogram_counts_each_in_the_bucket_whose_upper_bound_it_does_not_pass(seconds, bucket):
    histogram = Histogram()
    histogram.add(seconds)
    assert [count for count, there in enumerate(histogram.counts) if there] == [bucket]
    assert histogram.total == seconds


@pytest.mark.parametrize(("least", "most"), [(3, 2), (-1, 2), (0, 0), (None, 0), (1.5, 3), (True, 3), ("1", 3)])
async def test_sizes_that_make_no_pool_are_refused_and_change_nothing(make, driver, least, most):
    pool = make(max_size=4)
    with pytest.raises(ConfigurationError, match=r"min_size=.* and max_size=\d make no pool") as raised:
        pool.resize(min_size=least, max_size=most)
    assert raised.value.hint == "whole numbers, 0 <= min_size <= max_size, and 1 <= max_size"
    assert (pool.limits.min_size, pool.limits.max_size) == (0, 4)
    await pool.stop()


async def test_resize_closes_the_idle_first_and_those_in_use_when_they_come_home(make, driver):
    pool = make(max_size=4)
    slots = [await pool.acquire() for _ in range(4)]
    pool.release(slots.pop())
    pool.resize(max_size=2)
    await asyncio.sleep(0.1)
    assert pool.stats() == PoolStats(size=3, in_use=3)
    for slot in slots:
        pool.release(slot)
    await asyncio.sleep(0.1)
    assert pool.stats() == PoolStats(size=2, idle=2)
    pool.resize(min_size=4, max_size=4)
    await asyncio.sleep(0.1)
    assert pool.stats() == PoolStats(size=4, idle=4)
    await pool.stop()


async def test_the_connection_that_was_used_last_is_lent_first(make, driver):
    pool = make()
    slots = [await pool.acquire() for _ in range(3)]
    for slot in slots:
        pool.release(slot)
    assert pool.take() is slots[2]
    assert pool.take() is slots[1]
    pool.release(slots[2])
    assert pool.take() is slots[2]
    for slot in slots[1:]:
        pool.release(slot)
    await pool.stop()


async def test_one_of_the_same_mode_is_preferred_and_any_other_will_do(make, driver):
    pool = make()
    slots = [await pool.acquire() for _ in range(3)]
    slots[0].mode = "read"
    for slot in slots:
        pool.release(slot)
    assert pool.take("read") is slots[0]
    assert pool.take("read") is slots[2]
    for slot in (slots[0], slots[2]):
        pool.release(slot)
    await pool.stop()


async def test_after_a_doubt_each_idle_one_has_to_answer_before_it_is_lent(make, driver):
    pool = make(max_size=2)
    for slot in [await pool.acquire() for _ in range(2)]:
        pool.release(slot)
    pool.doubt()
    assert pool.take() is None
    slot = await pool.acquire()
    assert driver.calls["ping"] == 2
    pool.release(slot)
    await pool.stop()
