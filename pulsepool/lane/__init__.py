"""The direct lane: beside SQLAlchemy's sessions, on the same pool.

`direct` are the methods of a `Database`; `statements`, `plans` and `binds` make SQLAlchemy Core statements into what
the driver takes, `rows` is what comes back, and `refusals` what is not done here, by name.
"""

from pulsepool.lane.direct import DirectLane

__all__ = ["DirectLane"]
