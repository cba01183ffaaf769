"""What a pool says when it has no connection to give, and to whom it gives none."""

import asyncio

import pytest

from pulsepool import errors
from pulsepool.errors import ConfigurationError, DatabaseUnavailable, NotHeld, PoolClosed, PoolTimeout, WrongLoop
from pulsepool.pool import Limits, Pool, PoolStats
from tests.unit.pool.clock import VirtualLoop
from tests.unit.pool.scripted import Driver, Refused


async def checkout(pool, until):
    """An application's own function that holds a connection for long."""
    slot = await pool.acquire()
    await until.wait()
    pool.release(slot)


async def test_a_timeout_tells_numbers_the_longest_holders_and_the_remedy(make, driver):
    pool = make(name="orders", max_size=2, acquire_timeout=2.0, leak_after=60.0)
    done = asyncio.Event()
    holders = []
    for name in ("POST /orders", "GET /orders"):
        holders.append(asyncio.create_task(checkout(pool, done), name=name))
        await asyncio.sleep(5)
    other = asyncio.create_task(pool.acquire(60.0))
    with pytest.raises(PoolTimeout) as raised:
        await pool.acquire()
    message, hint = str(raised.value).split("\n  hint: ")
    assert message.startswith(
        "no connection within 2.0 s from pool 'orders' (2 of 2 in use, 0 idle, 1 waiting, 0 connecting); "
        "held longest: 12.0 s by POST /orders, now at test_refusals.py:"
    )
    assert "in checkout since test_refusals.py:" in message
    assert "; 7.0 s by GET /orders, now at test_refusals.py:" in message
    assert hint == "something holds connections for long, or max_size is too small for what is held"
    assert isinstance(raised.value, TimeoutError)
    assert pool.counters.timeouts == 1
    done.set()
    await asyncio.gather(*holders)
    pool.release(await other)
    await pool.stop()


async def test_a_timeout_names_three_holders_at_most_and_forgets_who_gave_back(make, driver):
    pool = make(max_size=5, acquire_timeout=0.5)
    slots = [await pool.acquire() for _ in range(5)]
    with pytest.raises(PoolTimeout) as raised:
        await pool.acquire()
    assert str(raised.value).count(" s by ") == 3
    for slot in slots:
        pool.release(slot)
    assert all(slot.holder is None for slot in slots)
    await pool.stop()


async def test_a_timeout_tells_the_last_connect_failure(make, driver):
    pool = make(max_size=2, acquire_timeout=0.5)
    held = await pool.acquire()
    driver.down = Refused("with a secret")
    with pytest.raises(PoolTimeout) as raised:
        await pool.acquire()
    assert "; last connect failed: Refused" in str(raised.value)
    assert "secret" not in str(raised.value)
    driver.down = DatabaseUnavailable("db1:5432 refused it")
    await asyncio.sleep(1)
    with pytest.raises(PoolTimeout, match="last connect failed: db1:5432 refused it"):
        await pool.acquire()
    pool.release(held)
    await pool.stop()


async def test_a_timeout_while_nothing_is_held_looks_at_the_server(make, driver):
    driver.connect_takes = 3.0
    pool = make(acquire_timeout=0.5)
    with pytest.raises(PoolTimeout, match="0 of 10 in use, 0 idle, 0 waiting, 1 connecting") as raised:
        await pool.acquire()
    assert raised.value.hint == "the server is slow to let anyone in: see connect_timeout, and how the server is"
    await pool.stop()


async def test_a_timeout_is_of_the_kind_that_was_asked_for(make, driver):
    class Theirs(PoolTimeout):
        pass

    pool = make(Theirs, acquire_timeout=0.1, max_size=1, max_waiting=1)
    held = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    with pytest.raises(Theirs, match="turned away"):
        await pool.acquire()
    with pytest.raises(Theirs, match="no connection within"):
        await waiting
    pool.release(held)
    await pool.stop()


async def test_one_too_many_is_turned_away_at_once(make, driver):
    pool = make(max_size=1, max_waiting=2)
    held = await pool.acquire()
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    began = pool.loop.time()
    with pytest.raises(PoolTimeout) as raised:
        await pool.acquire()
    assert pool.loop.time() == began
    assert raised.value.message.startswith(
        "turned away at once, as no more than max_waiting=2 may wait, by pool 'main' (1 of 1 in use, 0 idle, 2 waiting"
    )
    assert raised.value.hint == "answer 503 and let the client come again; max_size or max_waiting may be too small"
    assert (pool.counters.shed, pool.counters.timeouts) == (1, 0)
    pool.release(held)
    for task in waiting:
        pool.release(await task)
    await pool.stop()


async def test_a_server_that_cannot_be_reached_is_told_with_cause_attempts_and_time(make, driver):
    driver.down = Refused("nobody there")
    pool = make(acquire_timeout=5.0)
    with pytest.raises(DatabaseUnavailable) as raised:
        await pool.acquire()
    error = raised.value
    assert error.__cause__ is driver.down
    assert error.message.startswith("no connection (Refused: nobody there), ")
    assert error.message.endswith(" s")
    assert " times in 1." in error.message
    assert error.hint == "is the server up, and is the address right?"
    assert error.sqlstate is None
    with pytest.raises(DatabaseUnavailable) as again:
        await pool.acquire()
    assert again.value is not error
    assert pool.counters.shed == 1
    await pool.stop()


async def test_a_server_that_refuses_keeps_its_own_words_hint_and_code(make, driver):
    refusal = DatabaseUnavailable("db1 says: wrong password", hint="see DB_PASSWORD")
    refusal.sqlstate = "28P01"
    driver.down, driver.sqlstates = refusal, {str(refusal): "28P01"}
    pool = make()
    with pytest.raises(DatabaseUnavailable) as raised:
        await pool.start()
    assert (raised.value.message, raised.value.hint) == ("db1 says: wrong password", "see DB_PASSWORD")
    assert raised.value.sqlstate == "28P01"
    assert raised.value is not refusal
    await pool.stop()


async def test_who_was_refused_for_a_server_that_is_back_in_the_same_tick_still_hears_why(make, driver):
    driver.script.extend([Refused("wrong password"), driver.connect_takes])
    driver.sqlstates = {"wrong password": "28P01"}
    pool = make(max_size=2)
    for task in [asyncio.create_task(pool.acquire()) for _ in range(2)]:
        with pytest.raises(DatabaseUnavailable, match="wrong password"):
            await task
    assert pool.outage is None
    assert pool.stats() == PoolStats(size=1, idle=1)
    assert pool.counters.timeouts == 0
    await pool.stop()


async def test_a_pool_that_was_stopped_is_closed(make, driver):
    pool = make()
    pool.release(await pool.acquire())
    await pool.stop()
    assert pool.take() is None
    with pytest.raises(PoolClosed) as raised:
        await pool.acquire()
    assert str(raised.value) == "pool 'main' is closed\n  hint: start the database again, or stop using it"
    with pytest.raises(PoolClosed):
        await pool.start()
    assert await pool.stop() == 0  # once more does no harm


async def test_a_connection_is_released_once(make, driver):
    pool = make()
    slot = await pool.acquire()
    pool.release(slot)
    with pytest.raises(NotHeld) as raised:
        pool.release(slot)
    assert raised.value.message == "a connection of pool 'main' was released that is not held (idle)"
    assert raised.value.hint == "release it once: `async with` does"
    assert pool.stats() == PoolStats(size=1, idle=1)
    pool.drain()
    await asyncio.sleep(0.1)
    with pytest.raises(NotHeld, match=r"not held \(gone\)"):
        pool.release(slot)
    await pool.stop()


async def test_a_connection_is_released_to_its_own_pool(make, driver):
    pool, other = make(), make(name="other")
    slot = await pool.acquire()
    with pytest.raises(NotHeld) as raised:
        other.release(slot)
    assert raised.value.message == "a connection was released to pool 'other' that is not its own"
    assert raised.value.hint == "release it to the pool that it came from"
    assert pool.stats().in_use == 1
    pool.release(slot)
    await pool.stop()
    await other.stop()


def test_a_pool_belongs_to_the_loop_on_which_it_was_made():
    async def use():
        pool = Pool(Driver(), Limits())
        pool.release(await pool.acquire())
        return pool

    async def misuse(pool):
        assert pool.take() is None
        with pytest.raises(WrongLoop) as raised:
            await pool.acquire()
        return raised.value

    with asyncio.Runner(loop_factory=VirtualLoop) as first, asyncio.Runner(loop_factory=VirtualLoop) as second:
        pool = first.run(use())
        error = second.run(misuse(pool))
        assert error.message == "pool 'main' belongs to another event loop than the one that is running"
        assert error.hint.startswith("start a Database in the loop that uses it")
        assert pool.stats().idle == 1
        first.run(pool.stop())


def test_a_pool_of_a_loop_that_is_gone_is_abandoned_without_touching_a_socket():
    driver = Driver()
    loop = VirtualLoop()

    async def use():
        pool = Pool(driver, Limits(max_size=1))
        return pool, await pool.acquire()

    pool, slot = loop.run_until_complete(use())
    with loop.here():
        waiting = loop.create_task(pool.acquire())
    loop.settle()
    loop.close()
    pool.abandon()
    assert pool.stats() == PoolStats(size=0, waiting=1)  # who waited there is as gone as the loop
    assert driver.calls["close"] == driver.calls["terminate"] == 0
    pool.release(slot)
    waiting._log_destroy_pending = False
    waiting.get_coro().close()


def test_every_error_here_has_the_one_base():
    for error in (PoolTimeout, PoolClosed, NotHeld, WrongLoop, DatabaseUnavailable, ConfigurationError):
        assert issubclass(error, errors.PulsePoolError)
