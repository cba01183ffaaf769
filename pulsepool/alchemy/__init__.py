"""SQLAlchemy's engines from one address, with errors that say what happened and waits that end.

`face` is our pool behind SQLAlchemy's interface, `pulse` the same for any engine of anybody, `own` for a `Database`;
`records` tells the pool how SQLAlchemy's connections are handled, `cores` keeps one pool for each event loop, and
`cancelled` keeps the connections of those who give up. `gated` is the synchronous engine's pool, `events` what happens
when an engine connects, lends or fails, and `engines` puts them together.
"""

from pulsepool.alchemy.cores import Cores
from pulsepool.alchemy.engines import (
    build_async_engine,
    build_reading_engine,
    build_sync_engine,
    close_engines,
    make_cores,
)
from pulsepool.alchemy.errors import PoolTimeout, Unanswered
from pulsepool.alchemy.events import was_in_commit
from pulsepool.alchemy.gated import Gate, GatedPool
from pulsepool.alchemy.own import acquire
from pulsepool.alchemy.pulse import Plugin, PulsePool
from pulsepool.alchemy.records import Record

__all__ = [
    "Cores",
    "Gate",
    "GatedPool",
    "Plugin",
    "PoolTimeout",
    "PulsePool",
    "Record",
    "Unanswered",
    "acquire",
    "build_async_engine",
    "build_reading_engine",
    "build_sync_engine",
    "close_engines",
    "make_cores",
    "was_in_commit",
]
