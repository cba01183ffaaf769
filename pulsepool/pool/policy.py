"""What to do with connections, and when. Pure: no I/O, and no clock or dice but those passed in.

`core` and `keeper` ask, and act. Every time is in seconds on the event loop's clock.
"""

import math
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

CONNECTS_AT_ONCE = 3
"""Connections being opened at the same time, at most (as many as psycopg_pool has workers)."""

LASTING = 0.1
"""Seconds that somebody has waited, after which demand is no spike any more: until then one connect at a time."""

LIFETIME_JITTER = 0.05
"""By how much of it a lifetime may be shorter, so that a fleet born together does not die together (psycopg_pool's)."""

FIRST_RETRY, LAST_RETRY = 0.05, 0.5
"""Seconds between connects that fail, doubling: a server that is back is in use again well within a second."""

DOWN_AFTER = 1.0
"""Seconds of nothing but failed connects after which a server is known to be down; a quicker restart is waited out."""

SHORTEST_TICK, LONGEST_TICK = 0.05, 1.0
"""Seconds between two looks of the keeper."""

NO_USE_RETRYING = ("28", "3D000", "42501", "08P01")
"""SQLSTATEs, or their class, that trying again does not mend: who may log in, which database, privileges, protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A pool's settings; what each means is told at `DatabaseSettings`. Seconds; None is never, or no limit."""

    name: str = "main"
    min_size: int = 1
    max_size: int = 10
    acquire_timeout: float = 5.0
    max_waiting: int | None = None
    connect_timeout: float = 5.0
    max_lifetime: float | None = 1800.0
    max_idle: float | None = 600.0
    validate_after: float = 0.5
    keepalive: float | None = 120.0
    leak_after: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How many connections there are and are to be, and how many callers wait.

    `size` exist; of them `coming` are with the keeper for a moment (no longer than `LASTING`: who takes longer may not
    come at all), and `leaving` are being closed. `waited`: how long the oldest has waited, in seconds.
    """

    size: int
    connecting: int
    coming: int
    leaving: int
    waiting: int
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Outage:
    """Connects that failed in a row: since when (the first one's start), how many, and the last one's error.

    `retry_at`: when the keeper tries again by itself; `prompt_at`: from when on a caller who asks makes it try.
    `final`: trying again does not mend it (a wrong password), so that only who asks makes the next attempt.
    """

    since: float
    attempts: int
    retry_at: float
    prompt_at: float
    error: BaseException
    final: bool
    known_down: bool


class Fate(Enum):
    """What becomes of an idle connection."""

    STAY = "stay"
    ASK = "ask whether it lives"
    RETIRE = "retire as spare"


@dataclass(frozen=True, slots=True)
class Wear:
    """What a connection has been through: birth, allotted lifetime, when a caller and when anyone had it last."""

    born: float
    lifetime: float
    used: float
    heard: float


def is_time(seconds: object) -> bool:
    """Whether it is a number that a timer can have: a NaN would disorder the event loop's, everybody's."""
    return isinstance(seconds, (int, float)) and math.isfinite(seconds)


def connects_wanted(load: Load, limits: Limits, outage: Outage | None, now: float) -> int:
    """Tell how many connects to begin now.

    As many as wait beyond what is on its way, or `min_size` lacks; a few at a time when there is no connection, or
    somebody waits for long, else one by one: demand that is gone when the first one arrives opens no more (HikariCP's
    spike case). While connects fail, one at a time, and not before its time; a server that is down is tried even when
    nobody asks, so that recovery needs no traffic.
    """
    waiting = load.waiting - load.connecting - load.coming
    alive = load.size - load.leaving
    missing = limits.min_size - alive - load.connecting
    at_once = CONNECTS_AT_ONCE if alive == 0 or load.waited >= LASTING or missing > 0 else 1
    if outage is not None:
        if now < (min(outage.retry_at, outage.prompt_at) if load.waiting else outage.retry_at):
            return 0
        at_once = 1
        missing = 0 if outage.final else max(missing, 1 - alive)
    room = limits.max_size - load.size - load.connecting
    return max(0, min(max(waiting, missing), room, at_once - load.connecting))


def no_use_retrying(sqlstate: str | None) -> bool:
    """Whether the server's refusal with this code stays the same however often one asks."""
    return (sqlstate or "").startswith(NO_USE_RETRYING)


def outage_after(
    failure: BaseException, before: Outage | None, *, final: bool, started: float, now: float, dice: float
) -> Outage:
    """Judge a connect that began at `started` and failed `now`, `final`ly or not. `dice`: even, from 0 to 1."""
    if before and started - before.retry_at > DOWN_AFTER:  # nobody tried in between: that was another outage
        before = None
    attempts = before.attempts + 1 if before else 1
    since = before.since if before else started
    delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(attempts - 1, 16)) * (0.5 + dice / 2)
    quick = now - started < FIRST_RETRY
    prompt_at = now + delay if final else now + FIRST_RETRY if quick else float("inf")
    known_down = final or now - since >= DOWN_AFTER
    return Outage(since, attempts, now + delay, prompt_at, failure, final, known_down)


def fate(wear: Wear, limits: Limits, *, now: float, spare: bool) -> Fate:
    """Decide what the keeper does with an idle connection. `spare`: the pool keeps `min_size` without it."""
    if limits.max_idle is not None and spare and now - wear.used >= limits.max_idle:
        return Fate.RETIRE
    if limits.keepalive is not None and now - wear.heard >= limits.keepalive:
        return Fate.ASK
    return Fate.STAY


def fails_fast(outage: Outage, now: float) -> bool:
    """Whether a new caller is told at once, as no connection is left and the server is known to be down.

    A server that refuses quickly is asked anew for one who comes `FIRST_RETRY` after the last refusal, so that nobody
    is told yesterday's news; one that is silent is left to the keeper.
    """
    return outage.known_down and now < outage.prompt_at


def sheds(load: Load, in_use: int, limits: Limits) -> bool:
    """Whether one more caller is one too many: `max_waiting` wait for connections that others hold.

    Those for whom a connection is there, or can be opened, do not count.
    """
    if limits.max_waiting is None:
        return False
    return load.waiting - max(0, limits.max_size - in_use - load.leaving) >= limits.max_waiting


def lifetime(limits: Limits, dice: float) -> float:
    """How old a new connection may become; for ever when `max_lifetime` is None."""
    return float("inf") if limits.max_lifetime is None else limits.max_lifetime * (1 - LIFETIME_JITTER * dice)


def tick(limits: Limits) -> float:
    """How often the keeper looks around: ten times within the shortest time that it keeps."""
    kept = [limits.max_idle, limits.max_lifetime, limits.keepalive, limits.leak_after]
    shortest = min((time for time in kept if time is not None), default=LONGEST_TICK * 10)
    return min(LONGEST_TICK, max(SHORTEST_TICK, shortest / 10))


CHANGES_SESSION = re.compile(
    r"\b(begin|start|reset|listen|unlisten|prepare|deallocate|discard|load|declare|temp|temporary)\b"
    r"|\bset\b(?!\s+(local|transaction|constraints)\b)|set_config|advisory_(un)?lock|pg_temp",
    re.IGNORECASE,
)
QUERY_CHANGES_SESSION = re.compile(
    r"set_config|advisory_(un)?lock|\binto\s+((local|global)\s+)?(temp|temporary)\b|\binto\s+pg_temp", re.IGNORECASE
)


RUINS_STATEMENTS = re.compile(r"\b(discard\s+all|deallocate|prepare(?!\s+transaction))\b", re.IGNORECASE)


def ruins_statements(statement: str) -> bool:
    """Whether the session's prepared statements are not what they should be after `statement`.

    It has the server forget those of the driver, or leaves some that no reset undoes: such a connection is replaced.
    """
    return RUINS_STATEMENTS.search(statement) is not None


REMEMBERED_LENGTH = 4_096
"""Characters of a statement whose words are read only once; longer ones, full of values, are not kept in memory."""


def may_change_session(statement: str) -> bool:
    """Whether `statement` could leave something behind in its session: SET, LISTEN, an advisory lock, a temp table.

    By its words alone: it errs towards True, which costs a reset that nobody waits for.
    """
    return _remembered(statement) if len(statement) <= REMEMBERED_LENGTH else _may_change_session(statement)


def _may_change_session(statement: str) -> bool:
    words = statement.strip().rstrip(";")
    if words[:6].upper() in ("UPDATE", "INSERT", "SELECT", "DELETE") and ";" not in words:
        return QUERY_CHANGES_SESSION.search(words) is not None
    return CHANGES_SESSION.search(words) is not None


_remembered = lru_cache(maxsize=1024)(_may_change_session)
