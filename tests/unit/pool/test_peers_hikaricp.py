"""The cases that HikariCP tests, by its names."""

import asyncio
import contextlib
import logging

import pytest

from pulsepool.errors import DatabaseUnavailable, PoolClosed, PoolTimeout
from tests.unit.pool.scripted import NEVER, Refused


async def query(pool, seconds):
    slot = await pool.acquire()
    await asyncio.sleep(seconds)
    pool.release(slot)
    return slot


async def test_saturated_pool(make, driver):
    pool = make(max_size=10, acquire_timeout=5.0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(query(pool, 0.1)) for _ in range(200)]
    stats = pool.stats()
    assert all(task.result() for task in tasks)
    assert (stats.size, stats.idle, stats.waiting, driver.most) == (10, 10, 0, 10)
    assert asyncio.get_running_loop().time() - 1000 == pytest.approx(2.0, abs=0.1)  # 200 queries, 10 at a time
    await pool.stop()


async def test_slow_connects_under_bursty_work(make, driver):
    driver.connect_takes = 0.15
    pool = make(max_size=50, acquire_timeout=5.0)
    began = pool.loop.time()
    await asyncio.gather(*(query(pool, 0.002) for _ in range(50)))
    assert pool.stats().size <= 6
    assert len(driver.connections) <= 6
    assert pool.loop.time() - began < 0.3
    await pool.stop()


async def test_pool_stays_about_as_large_as_its_real_concurrency(make, driver):
    pool = make(max_size=50)
    await query(pool, 0.0)

    async def worker():
        for _ in range(100):
            await query(pool, 0.01)

    await asyncio.gather(*(worker() for _ in range(5)))
    assert 5 <= pool.stats().size <= 6
    await pool.stop()


async def test_backfill(make, driver):
    pool = make(min_size=3, max_size=5)
    await pool.start()
    for connection in driver.open:
        connection.dead = True
    await asyncio.sleep(1.2)
    assert (pool.stats().size, pool.stats().idle, pool.counters.lost) == (3, 3, 3)
    assert all(not slot.connection.dead for slot in pool.slots)
    await pool.stop()


async def test_evict_all_refill(make, driver):
    pool = make(min_size=3, max_size=5)
    await pool.start()
    held = await pool.acquire()
    old = {slot.connection.number for slot in pool.slots}
    pool.drain()
    await asyncio.sleep(0.1)
    assert held.connection.open  # nobody's work is cut short
    pool.release(held)
    await asyncio.sleep(1.2)
    assert (pool.stats().size, pool.counters.retired) == (3, 3)
    assert not old & {slot.connection.number for slot in pool.slots}
    await pool.stop()


async def test_evict_all_while_a_connect_is_under_way_leaves_nothing_of_the_old_kind(make, driver):
    driver.script.extend([0.5, 0.1])
    pool = make(max_size=5)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.1)
    pool.drain()
    slot = await waiting
    assert slot.connection.number == 2
    assert not driver.connections[0].open
    assert pool.loop.time() - 1000 == pytest.approx(0.6, abs=0.01)  # the good-bye to the old one delays nobody
    pool.release(slot)
    await pool.stop()


async def test_connection_retries(make, driver):
    driver.script.extend([Refused("1"), Refused("2"), Refused("3")])
    pool = make(acquire_timeout=5.0)
    slot = await pool.acquire()
    assert driver.calls["connect"] == 4
    assert pool.counters.connect_failures == 3
    assert pool.outage is None
    assert pool.loop.time() - 1000 < 0.4
    pool.release(slot)
    await pool.stop()


async def test_connection_retries_go_on_without_traffic_until_the_server_is_back(make, driver):
    driver.down = Refused("down")
    pool = make(acquire_timeout=5.0)
    with pytest.raises(DatabaseUnavailable):
        await pool.acquire()
    await asyncio.sleep(30)
    attempts = driver.calls["connect"]
    assert 60 <= attempts <= 140  # half a second apart, jittered
    driver.down = None
    await asyncio.sleep(0.6)
    assert pool.stats().idle == 1
    assert pool.outage is None
    await pool.stop()


async def test_slow_population(make, driver):
    driver.connect_takes = 4.0
    pool = make(min_size=6, max_size=10, connect_timeout=5.0)
    began = pool.loop.time()
    await pool.start()
    assert pool.stats().size == 6
    assert pool.loop.time() - began == pytest.approx(8.0, abs=0.1)  # three at a time
    await pool.stop()


async def test_close_that_blocks(make, driver):
    pool = make(min_size=2, max_size=2)
    await pool.start()
    for connection in driver.open:
        connection.trouble["close"] = NEVER
    pool.drain()
    slot = await pool.acquire(3.0)  # the place is free after a second
    assert slot.connection.number > 2
    assert [connection.open for connection in driver.connections[:2]] == [False, False]
    assert driver.most <= 2
    pool.release(slot)
    await pool.stop()


@pytest.mark.parametrize("deadline", [0.0, 0.3, 1.0, 5.0])
async def test_close_that_blocks_does_not_keep_stop_beyond_its_deadline(make, driver, deadline):
    pool = make(min_size=2, max_size=5)
    await pool.start()
    held = await pool.acquire()
    for connection in driver.open:
        connection.trouble.update(close=NEVER, ping=NEVER, restore=NEVER)
    began = pool.loop.time()
    assert await pool.stop(deadline) == 1
    assert pool.loop.time() - began <= deadline
    assert not driver.open
    assert len(asyncio.all_tasks()) == 1
    pool.release(held)  # ended under its holder, who need not know
    with pytest.raises(Exception, match="not held"):
        pool.release(held)


async def test_stop_comes_back_as_soon_as_the_last_holder_does(make, driver):
    pool = make(max_size=5)
    asyncio.get_running_loop().call_later(2.0, pool.release, await pool.acquire())
    began = pool.loop.time()
    assert await pool.stop(10.0) == 0
    assert pool.loop.time() - began == pytest.approx(2.0, abs=0.01)


async def test_stop_ends_the_last_holders_a_second_before_its_deadline_so_that_there_is_time_to_close(make, driver):
    pool = make(max_size=2)
    late, never = await pool.acquire(), await pool.acquire()
    late.connection.trouble["close"] = 0.9
    asyncio.get_running_loop().call_later(2.9, pool.release, late)
    began = pool.loop.time()
    assert await pool.stop(4.0) == 1
    assert pool.loop.time() - began == pytest.approx(3.8, abs=0.01)
    assert driver.calls["terminate"] == 1
    pool.release(never)


async def test_shutdown_during_start(make, driver):
    driver.connect_takes = 3.0
    pool = make(min_size=3)
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(1.0)
    assert await pool.stop(2.0) == 0
    with pytest.raises(PoolClosed, match="pool 'main' is closed"):
        await starting
    assert not driver.open
    assert not driver.connecting
    assert driver.calls["connect cancelled"] == 3


async def test_shutdown_tells_those_who_wait_at_once(make, driver):
    pool = make(max_size=1)
    held = await pool.acquire()
    waiting = [asyncio.create_task(pool.acquire(limit)) for limit in (None, 60.0)]
    await asyncio.sleep(0.01)
    began = pool.loop.time()
    stopping = asyncio.create_task(pool.stop(5.0))
    for task in waiting:
        with pytest.raises(PoolClosed):
            await task
    assert pool.loop.time() == began
    pool.release(held)
    await stopping


async def test_credential_rotation(make, driver):
    pool = make(min_size=2, max_size=2)
    await pool.start()
    driver.down, driver.sqlstates = Refused("wrong password"), {"wrong password": "28P01"}
    pool.drain()
    with pytest.raises(DatabaseUnavailable, match="wrong password"):
        await pool.acquire()
    driver.down = None  # the new password is known
    await asyncio.sleep(1.0)
    pool.release(await pool.acquire())
    assert pool.outage is None
    await asyncio.sleep(1.0)
    assert pool.stats().size == 2
    await pool.stop()


async def test_suspend_resume(make, driver):
    pool = make(max_size=3)
    pool.release(await pool.acquire())
    pool.suspend()
    assert pool.take() is None
    order: list[int] = []

    async def ask(number):
        slot = await pool.acquire()
        order.append(number)
        pool.release(slot)

    tasks = [asyncio.create_task(ask(number)) for number in range(3)]
    await asyncio.sleep(1.0)
    assert not order
    assert pool.stats().waiting == 3
    assert pool.stats().size == 1  # who waits for resume() makes it open none
    pool.resume()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    await pool.stop()


async def test_suspended_nobody_waits_longer_than_the_limit(make, driver):
    pool = make(acquire_timeout=0.5)
    pool.suspend()
    with pytest.raises(PoolTimeout) as raised:
        await pool.acquire()
    assert raised.value.hint == "the pool is suspended: call resume()"
    await pool.stop()


async def test_max_lifetime_the_new_one_is_there_before_the_old_one_goes(make, driver):
    pool = make(min_size=1, max_size=2, max_lifetime=10.0)
    await pool.start()
    sizes = set()
    for _ in range(400):
        await asyncio.sleep(0.1)
        sizes.add(pool.stats().idle)
    assert 0 not in sizes  # there was always one to be had
    assert pool.counters.retired >= 3
    await pool.stop()


async def test_max_lifetime_at_max_size_replaces_one_after_the_other(make, driver):
    pool = make(min_size=2, max_size=2, max_lifetime=10.0)
    await pool.start()
    await asyncio.sleep(30)
    assert driver.most == 2
    assert pool.counters.retired >= 4
    assert all(pool.loop.time() - slot.born < 13 for slot in pool.slots)
    await pool.stop()


async def test_max_lifetime_is_kept_although_an_old_failure_was_never_followed_up(make, driver):
    pool = make(min_size=1, max_size=3, max_lifetime=10.0)
    await pool.start()
    held = await pool.acquire()
    driver.script.append(Refused("full"))
    with contextlib.suppress(PoolTimeout):
        await pool.acquire(0.02)
    pool.release(held)
    assert pool.outage is not None
    await asyncio.sleep(15)
    assert not driver.connections[0].open
    assert pool.stats().idle == 1
    await pool.stop()


async def test_idle_timeout_leaves_min_size(make, driver):
    pool = make(min_size=2, max_size=5, max_idle=10.0)
    for slot in [await pool.acquire() for _ in range(5)]:
        pool.release(slot)
    await asyncio.sleep(9.0)
    assert pool.stats().size == 5
    await asyncio.sleep(3.0)
    assert pool.stats().size == 2
    assert pool.counters.connects == 5  # those that stayed were not closed and opened anew
    await pool.stop()


async def test_keepalive_asks_the_idle_and_does_not_count_as_use(make, driver):
    pool = make(min_size=1, max_size=5, keepalive=5.0, max_idle=12.0)
    for slot in [await pool.acquire() for _ in range(2)]:
        pool.release(slot)
    await asyncio.sleep(6.0)
    assert driver.calls["ping"] == 2
    await asyncio.sleep(7.5)
    assert pool.stats().size == 1
    await pool.stop()


async def test_leak_is_told_once_with_its_place_and_once_when_it_comes_home(make, driver, caplog):
    pool = make(leak_after=1.0)
    with caplog.at_level(logging.WARNING, "pulsepool.pool"):
        slot = await pool.acquire()
        await asyncio.sleep(10)
        pool.release(slot)
    leak, home = (record.getMessage() for record in caplog.records)
    assert leak.startswith("pool main: a connection is held for 1.")
    assert "since test_peers_hikaricp.py:" in leak
    assert "in test_leak_is_told_once" in leak
    assert home.startswith("pool main: the connection held since test_peers_hikaricp.py:")
    assert home.endswith("came home after 10.0 s")
    assert pool.counters.leaks == 1
    await pool.stop()
