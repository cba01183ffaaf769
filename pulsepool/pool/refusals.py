"""What a pool says when it has no connection to give: what happened, the numbers, and the remedy."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pulsepool.diagnosis import first_line
from pulsepool.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    NotHeld,
    PoolClosed,
    PoolTimeout,
    PulsePoolError,
    WrongLoop,
)
from pulsepool.pool.holders import whereabouts
from pulsepool.pool.policy import Outage
from pulsepool.pool.slot import Slot, State

if TYPE_CHECKING:
    from pulsepool.pool.core import Core

logger = logging.getLogger("pulsepool.pool")

NAMED = 3
"""Holders that an error names: the longest ones."""


def timed_out(pool: "Core[Any]", waited: float, kind: type[PoolTimeout]) -> PoolTimeout:
    """Nobody gave a connection back in time."""
    hint = "something holds connections for long, or max_size is too small for what is held"
    task = asyncio.current_task()
    if task is not None and any(slot.holder is task for slot in list(pool.slots)):
        hint = "this very task holds one already: use one session, or leave room for both in max_size"
    elif pool.suspended:
        hint = "the pool is suspended: call resume()"
    elif not pool.in_use:
        hint = "the server is slow to let anyone in: see connect_timeout, and how the server is"
    return kind(f"no connection within {waited:.1f} s from pool {_numbers(pool)}", hint=hint)


def shed(pool: "Core[Any]", kind: type[PoolTimeout]) -> PoolTimeout:
    """Too many wait already."""
    allowed = f"no more than max_waiting={pool.limits.max_waiting} may wait"
    return kind(
        f"turned away at once, as {allowed}, by pool {_numbers(pool)}",
        hint="answer 503 and let the client come again; max_size or max_waiting may be too small",
    )


def unavailable(pool: "Core[Any]", outage: Outage) -> DatabaseUnavailable | ConfigurationError:
    """No connection can be opened; each caller gets an error of its own, caused by the connect's."""
    cause = outage.error
    if isinstance(cause, ConfigurationError):
        misconfigured = ConfigurationError(cause.message, hint=cause.hint)
        misconfigured.__cause__ = cause
        return misconfigured
    if isinstance(cause, PulsePoolError):
        what, hint = cause.message, cause.hint
    else:
        said = f"{type(cause).__name__}: {first_line(str(cause))}".rstrip(": ")
        what, hint = f"no connection ({said})", "is the server up, and is the address right?"
        if isinstance(cause, TimeoutError):
            what = f"no connection within connect_timeout={pool.limits.connect_timeout:.1f} s"
    if outage.attempts > 1:
        what = f"{what}, {outage.attempts} times in {pool.loop.time() - outage.since:.1f} s"
    error = DatabaseUnavailable(what, hint=hint)
    error.sqlstate = getattr(cause, "sqlstate", None)
    error.__cause__ = cause
    return error


def pool_closed(pool: "Core[Any]") -> PoolClosed:
    """It was stopped, or not yet started."""
    return PoolClosed(f"pool {pool.limits.name!r} is closed", hint="start the database again, or stop using it")


def wrong_loop(pool: "Core[Any]") -> WrongLoop:
    """Another event loop than the pool's is running."""
    return WrongLoop(
        f"pool {pool.limits.name!r} belongs to another event loop than the one that is running",
        hint="start a Database in the loop that uses it (in pytest: give fixture and test the same loop scope)",
    )


def not_held(pool: "Core[Any]", slot: Slot[Any]) -> NotHeld:
    """A release that cannot be."""
    if slot in pool.slots or slot.state is State.GONE:
        what = f"a connection of pool {pool.limits.name!r} was released that is not held ({slot.state.value})"
        return NotHeld(what, hint="release it once: `async with` does")
    return NotHeld(
        f"a connection was released to pool {pool.limits.name!r} that is not its own",
        hint="release it to the pool that it came from",
    )


def _numbers(pool: "Core[Any]") -> str:
    stats = pool.stats()
    numbers = (
        f"{pool.limits.name!r} ({stats.in_use} of {pool.limits.max_size} in use, {stats.idle} idle, "
        f"{stats.waiting} waiting, {stats.connecting} connecting)"
    )
    now = pool.loop.time()
    held = sorted((slot for slot in list(pool.slots) if slot.state is State.HELD), key=lambda slot: slot.acquired)
    if held:
        longest = "; ".join(f"{now - slot.acquired:.1f} s by {holder(slot)}" for slot in held[:NAMED])
        numbers = f"{numbers}; held longest: {longest}"
    if pool.outage is not None:
        failure = pool.outage.error
        numbers = f"{numbers}; last connect failed: {getattr(failure, 'message', None) or type(failure).__name__}"
    return numbers


def report_leaks(pool: "Core[Any]", now: float, leak_after: float) -> None:
    """Log, once for each time it is lent, who has held a connection for too long."""
    for slot in list(pool.slots):
        if slot.state is State.HELD and not slot.reported and now - slot.acquired >= leak_after:
            slot.reported = True
            pool.counters.leaks += 1
            logger.warning(
                "pool %s: a connection is held for %.1f s (leak_after=%s) by %s",
                pool.limits.name,
                now - slot.acquired,
                leak_after,
                holder(slot),
            )


def report_return(slot: Slot[Any], held: float) -> None:
    """Log that one that was reported as a leak came home after all."""
    since = slot.place or "long ago"
    logger.warning("pool %s: the connection held since %s came home after %.1f s", slot.pool.limits.name, since, held)


def holder(slot: Slot[Any]) -> str:
    """Who has it: since where, and where that task is now."""
    since = f" since {slot.place}" if slot.place else ""
    return f"{whereabouts(slot.holder)}{since}"
