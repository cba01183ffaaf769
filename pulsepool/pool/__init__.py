"""The pool. Knows no SQLAlchemy and no HTTP.

`policy` decides, `core` lends and `control` steers, `line` is where callers wait; `keeper` does what takes time and
`connector` opens connections, both in `jobs`; `driver` is what they ask of a driver, `asyncpg` the one of this house.
"""

from pulsepool.pool.control import Pool
from pulsepool.pool.driver import Driver
from pulsepool.pool.policy import Limits
from pulsepool.pool.slot import Slot
from pulsepool.pool.stats import Counters, Histogram, PoolStats

__all__ = ["Counters", "Driver", "Histogram", "Limits", "Pool", "PoolStats", "Slot"]
