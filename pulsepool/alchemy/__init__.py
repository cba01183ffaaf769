"""SQLAlchemy's engines from one address, with errors that say what happened and waits that end.

`pool` is SQLAlchemy's own queue behind a gate, `events` what happens when an engine connects, lends or fails, and
`engines` puts them together. All of it stands behind `async_engine` and `sync_engine`: the seam for another pool.
"""

from pulsepool.alchemy.engines import build_async_engine, build_sync_engine, close_engines
from pulsepool.alchemy.events import was_in_commit
from pulsepool.alchemy.pool import Gate, GatedPool, PoolTimeout, Unanswered

__all__ = [
    "Gate",
    "GatedPool",
    "PoolTimeout",
    "Unanswered",
    "build_async_engine",
    "build_sync_engine",
    "close_engines",
    "was_in_commit",
]
