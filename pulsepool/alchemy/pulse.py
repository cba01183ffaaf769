"""`PulsePool`: the pool for any asyncio engine of SQLAlchemy, in one argument or one word of its URL."""

import copy
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.util import await_only

from pulsepool.alchemy.face import CorePool
from pulsepool.alchemy.limits import limits_of
from pulsepool.alchemy.records import Record
from pulsepool.errors import ConfigurationError, PulsePoolError
from pulsepool.pool import Limits, Slot
from pulsepool.pool import Pool as Core
from pulsepool.settings import DatabaseSettings

NO_LIMIT = 10_000
"""What SQLAlchemy's `pool_size=0` and `max_overflow=-1` come to here."""

A_DAY, A_YEAR = 86_400, 31_536_000
"""Seconds."""

CONNECTING = 5.0
"""Seconds that a caller for whom there is room waits at least: a `pool_timeout` of 0 is not meant for connecting."""


class PulsePool(CorePool):
    """pulsepool's pool under an asyncio engine of SQLAlchemy: `create_async_engine(url, poolclass=PulsePool)`.

    Takes SQLAlchemy's own arguments with their defaults, `pool_size`, `max_overflow`, `pool_timeout`, `pool_recycle`,
    `pool_pre_ping`, `pool_reset_on_return`, and beside them `min_size`, `max_idle`, `max_waiting`, `validate_after`,
    `keepalive`, `leak_after` and `connect_timeout` of `DatabaseSettings`. Overflow is not opened and closed by turns:
    up to `pool_size + max_overflow` connections are opened when needed, and closed after `max_idle`, down to `min_size`
    (0). `pool_pre_ping` asks a connection before every use, in one round trip on asyncpg; without it, one that idled
    for `validate_after`. Who waits gets a connection in turn. A cancelled statement does not cost its connection on
    asyncpg, nor on psycopg unless it is cancelled again while psycopg drains it, as an anyio scope does.

    `pool_timeout` is for connections that others hold; one that is to be opened may take five seconds more than 0.

    Raises `ConfigurationError` for a value out of its bounds.
    """

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        recycle: float = -1,
        pre_ping: bool = False,
        use_lifo: bool = True,
        min_size: int = 0,
        max_idle: float | None = 600.0,
        max_waiting: int | None = None,
        validate_after: float = 0.5,
        keepalive: float | None = 120.0,
        leak_after: float | None = None,
        connect_timeout: float = 60.0,
        **kw: Any,
    ) -> None:
        given = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "timeout": timeout,
            "recycle": recycle,
            "pre_ping": pre_ping,
            "use_lifo": use_lifo,
            "min_size": min_size,
            "max_idle": max_idle,
            "max_waiting": max_waiting,
            "validate_after": validate_after,
            "keepalive": keepalive,
            "leak_after": leak_after,
            "connect_timeout": connect_timeout,
        }
        super().__init__(creator, _limits(given, kw.get("logging_name")), **kw)
        self._given |= given
        self._pool_size, self._max_overflow = pool_size, max_overflow

    def _slot(self, core: Core[Record]) -> Slot[Record]:
        slot = core.take()
        if slot is not None:
            return slot
        has_room = core.in_use + core.line.waiting < core.limits.max_size
        return await_only(core.acquire(CONNECTING if has_room and self.timeout() < CONNECTING else None))

    def _as_raised(self, error: PulsePoolError) -> BaseException:
        """Raise the driver's own error when no connection comes to be: that is what the engine's users catch.

        Each caller a copy, as tracebacks grow; where it cannot be copied, the error itself.
        """
        cause = error.__cause__
        if cause is None:
            return error
        try:
            own = copy.copy(cause)
        except Exception:  # noqa: BLE001 - an error may be made of anything
            own = cause
        own.__cause__ = cause.__cause__
        return own.with_traceback(None)

    def size(self) -> int:
        """The `pool_size` that was asked for."""
        return self._pool_size

    def overflow(self) -> int:
        """How many connections there are beyond `size()`; negative when there are fewer, 0 when there is no limit."""
        return 0 if self._pool_size == 0 else super().overflow()


BOUNDS: tuple[tuple[str, Any, int, int], ...] = (
    ("pool_size", int, 0, NO_LIMIT),
    ("max_overflow", int, -1, NO_LIMIT),
    ("pool_timeout", (int, float), 0, A_DAY),
    ("pool_recycle", (int, float), -1, A_YEAR),
)
"""SQLAlchemy's own arguments, which it does not check: kind, least and most."""


def _limits(given: Mapping[str, Any], name: str | None) -> Limits:
    for argument, kind, least, most in BOUNDS:
        value = given[argument.removeprefix("pool_") if argument != "pool_size" else argument]
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
            raise ConfigurationError(
                f"{argument}={value!r} is not {'a whole' if kind is int else 'a'} number from {least} to {most}",
                hint=f"mend {argument}, an argument of create_async_engine",
            )
    size, overflow = given["pool_size"], given["max_overflow"]
    same = ("min_size", "max_idle", "max_waiting", "keepalive", "leak_after", "connect_timeout")
    settings = DatabaseSettings.explicit(
        max_size=NO_LIMIT if size == 0 or overflow == -1 else min(size + overflow, NO_LIMIT),
        validate_after=0.0 if given["pre_ping"] else given["validate_after"],
        max_lifetime=None if given["recycle"] < 0 else max(given["recycle"], 1e-3),
        **{name: given[name] for name in same},
    )
    return limits_of(settings, name or "sqlalchemy", acquire_timeout=given["timeout"])


class Plugin(CreateEnginePlugin):
    """`?plugin=pulsepool` in an asyncio engine's URL gives it a `PulsePool`.

    Synchronous engines keep their pool, in-memory SQLite its single connection, and an engine that was given a pool or
    a `poolclass` that one.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        dialect: Any = url.get_dialect(_is_async=kwargs.get("_is_async", False))
        chosen = kwargs.get("pool") or kwargs.get("poolclass")
        if chosen is None and dialect.is_async and dialect.get_pool_class(url).__name__ == "AsyncAdaptedQueuePool":
            kwargs["poolclass"] = PulsePool

    def update_url(self, url: URL) -> URL:
        """Nothing of the URL is ours but the plugin's name, which SQLAlchemy takes off itself."""
        return url
