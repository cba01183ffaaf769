"""What two things that happen in the same moment, an odd argument or a slow connection must not do to a pool."""

import asyncio
import gc
import weakref

import pytest

from pulsepool.errors import ConfigurationError, DatabaseUnavailable, NotHeld, PoolClosed, PoolTimeout
from pulsepool.pool import Limits, Pool, PoolStats
from pulsepool.pool.holders import place
from tests.unit.pool.scripted import NEVER, Driver, Refused


class Contagious(Driver):
    """Ending one of its connections tells of the others that they are dead, too."""

    def terminate(self, connection):
        super().terminate(connection)
        for other in self.open:
            other.dead = True


class Payload:
    """Something that a frame holds."""


class Failing(Driver):
    """Its connects fail in a frame that holds something."""

    held: weakref.ref[Payload]

    async def connect(self):
        payload = Payload()
        self.held = weakref.ref(payload)
        raise Refused("nobody there")


async def waiting(pool, **arguments):
    """A task that stands in the line."""
    before = pool.line.waiting
    task = asyncio.create_task(pool.acquire(**arguments))
    await asyncio.sleep(0)
    assert pool.line.waiting == before + 1
    return task


async def test_a_pool_that_was_made_smaller_than_what_is_held_still_lets_max_waiting_callers_wait(make):
    pool = make(max_size=10, max_waiting=2)
    slots = [await pool.acquire() for _ in range(10)]
    pool.resize(max_size=2)
    patient = [await waiting(pool) for _ in range(2)]
    with pytest.raises(PoolTimeout, match="turned away"):
        await pool.acquire()
    for slot in slots:
        pool.release(slot)
    for task in patient:
        pool.release(await task)
    assert pool.counters.shed == 1
    await pool.stop()


async def test_the_line_does_not_grow_with_callers_of_little_patience(make):
    pool = make(max_size=1)
    held = await pool.acquire()
    for _ in range(20):
        errors = await asyncio.gather(*(pool.acquire(0.001) for _ in range(50)), return_exceptions=True)
        assert {type(error) for error in errors} == {PoolTimeout}
    assert pool.line.waiting == 0
    assert len(pool.line._line) < 100
    pool.release(held)
    await pool.stop()


@pytest.mark.parametrize("back", ["release", "put_back"])
async def test_an_idle_connection_keeps_nothing_of_who_had_it(make, back):
    pool = make(max_size=1, leak_after=60.0)

    async def use():
        slot = await pool.acquire()
        late = await waiting(pool)
        getattr(pool, back)(slot)
        late.cancel()  # served already: it gives back what it never had
        with pytest.raises(asyncio.CancelledError):
            await late

    await asyncio.create_task(use())
    (idle,) = pool.idle
    assert (idle.holder, idle.place) == (None, "")
    await pool.stop()


async def test_a_connection_is_put_back_to_its_own_pool(make):
    pool, other = make(), make(name="other")
    slot = await pool.acquire()
    with pytest.raises(NotHeld, match="released to pool 'other' that is not its own"):
        other.put_back(slot)
    assert (pool.stats().in_use, other.idle) == (1, [])
    pool.put_back(slot)
    await pool.stop()
    await other.stop()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_who_was_served_and_lost_it_in_the_same_tick_is_told_that_the_pool_is_closed(make, cancelled):
    pool = make(max_size=1)
    held = await pool.acquire()
    task = await waiting(pool)
    pool.release(held)
    pool.abandon()  # as when an engine is made anew without closing what the old one had
    if cancelled:
        task.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else PoolClosed):
        await task
    assert pool.stats() == PoolStats(counters=pool.counters)


async def test_a_coroutine_that_is_closed_leaves_the_line(make):
    pool = make(max_size=1)
    held = await pool.acquire()
    for _ in range(3):
        coroutine = pool.acquire()
        coroutine.send(None)
        coroutine.close()
    assert pool.line.waiting == 0
    pool.release(held)
    assert pool.stats() == PoolStats(size=1, idle=1)
    await pool.stop()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), "x", [1]])
async def test_a_wait_that_is_no_time_is_refused_and_leaves_nobody_in_the_line(make, seconds):
    pool = make(max_size=1)
    held = await pool.acquire()
    with pytest.raises(ConfigurationError, match="is no time") as raised:
        await pool.acquire(seconds)
    assert raised.value.hint == "give seconds, or None"
    assert pool.line.waiting == 0
    pool.release(held)
    assert pool.take() is held
    pool.release(held)
    await pool.stop()


@pytest.mark.parametrize("doing", ["restore", "ping"])
async def test_a_connection_that_takes_long_with_the_keeper_keeps_nobody_asleep_beside_a_free_place(
    make, driver, doing
):
    pool = make(max_size=2, validate_after=0.5)
    slow = await pool.acquire()
    slow.connection.trouble[doing] = NEVER
    slow.connection.clean = doing == "ping"
    pool.release(slow)
    await asyncio.sleep(1 if doing == "ping" else 0)
    began = pool.loop.time()
    slot = await pool.acquire()
    assert slot is not slow
    assert pool.loop.time() - began == pytest.approx(0.11, abs=0.01)  # LASTING, and a connect
    pool.release(slot)
    await pool.stop()


async def test_an_idle_connection_that_does_not_answer_keeps_nobody_from_another_idle_one(make, driver):
    pool = make(max_size=2, validate_after=0.5)
    slots = [await pool.acquire() for _ in range(2)]
    for slot in slots:
        pool.release(slot)
    slots[1].connection.trouble["ping"] = NEVER  # the one that is lent first
    await asyncio.sleep(1)
    began = pool.loop.time()
    slot = await pool.acquire()
    assert slot is slots[0]
    assert pool.loop.time() - began == pytest.approx(0.1, abs=0.01)
    pool.release(slot)
    await pool.stop()


@pytest.mark.parametrize("most", [2.5, 2.0, True, "5"])
async def test_a_size_that_is_no_whole_number_is_refused(make, most):
    pool = make(max_size=4)
    with pytest.raises(ConfigurationError, match=r"min_size=0 and max_size=.* make no pool"):
        pool.resize(max_size=most)
    assert pool.limits.max_size == 4
    await pool.stop()


async def test_a_timeout_tells_a_caller_that_holds_one_himself(make):
    pool = make(max_size=1, acquire_timeout=0.5)
    own = await pool.acquire()
    with pytest.raises(PoolTimeout) as raised:
        await pool.acquire()
    assert raised.value.hint == "this very task holds one already: use one session, or leave room for both in max_size"
    with pytest.raises(PoolTimeout) as raised:
        await asyncio.create_task(pool.acquire())
    assert raised.value.hint.startswith("something holds connections for long")
    pool.release(own)
    await pool.stop()


@pytest.mark.parametrize("watches", [True, False])
async def test_with_one_still_held_callers_fail_fast_when_the_driver_said_that_it_is_dead(make, driver, watches):
    driver.watches = watches
    pool = make(max_size=5, acquire_timeout=2.0)
    held = await pool.acquire()
    driver.down = Refused("nobody there")
    held.connection.dead = True
    with pytest.raises(DatabaseUnavailable if watches else PoolTimeout):
        await pool.acquire()
    assert pool.outage.known_down
    began = pool.loop.time()
    with pytest.raises(DatabaseUnavailable if watches else PoolTimeout):
        await pool.acquire()
    waited = pool.loop.time() - began
    assert waited == (0 if watches else pytest.approx(2.0, abs=0.1))  # who does not know may hope for the held one
    pool.release(held)
    await pool.stop()


async def test_the_memory_of_a_failed_connect_keeps_nothing_alive_of_what_it_was_doing():
    driver = Failing()
    pool = Pool(driver, Limits(min_size=0), dice=lambda: 0.0)
    with pytest.raises(DatabaseUnavailable):
        await pool.acquire()
    gc.collect()
    assert str(pool.outage.error) == "nobody there"
    assert driver.held() is None
    await pool.stop()


async def test_connections_of_which_one_tells_of_the_next_are_all_counted_out(caplog):
    driver = Contagious(watches=True)
    pool = Pool(driver, Limits(min_size=0, max_size=10), dice=lambda: 0.0)
    held, *others = [await pool.acquire() for _ in range(10)]
    for slot in others:
        pool.release(slot)
    others[0].connection.died = None  # known only when it is looked at
    others[0].connection.dead = True
    pool.doubt()
    await asyncio.sleep(0.1)
    assert pool.stats() == PoolStats(size=1, in_use=1)
    pool.release(held)
    again = [await pool.acquire() for _ in range(10)]
    assert len(driver.open) == 10
    for slot in again:
        pool.release(slot)
    await pool.stop()
    assert "ValueError" not in caplog.text


@pytest.mark.parametrize("folder", ["fastapi", "asyncio", "sqlalchemy"])
def test_code_in_a_folder_that_is_named_as_a_library_is_the_applications_own(tmp_path, folder):
    names = {}
    exec(compile("def where(place):\n    return place()", f"{tmp_path}/{folder}/app.py", "exec"), names)  # noqa: S102
    assert names["where"](place) == "app.py:2 in where"
