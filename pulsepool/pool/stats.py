"""What a pool counts, and the frozen picture of it."""

from bisect import bisect_left
from dataclasses import dataclass, field, fields

BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Upper bounds of a histogram's buckets in seconds, as OpenTelemetry advises for database clients."""


@dataclass(slots=True)
class Histogram:
    """How long something took: `counts` by bucket of `BUCKETS`, the last for all that is longer; `total` in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[0 if seconds <= BUCKETS[0] else bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Counters:
    """What happened since the pool was made; each only ever grows."""

    waited: int = 0
    """Callers who had to queue."""
    timeouts: int = 0
    """Callers who got `PoolTimeout` after `acquire_timeout`."""
    shed: int = 0
    """Callers turned away at once, for `max_waiting` or a server that is known to be down."""
    connects: int = 0
    """Connections opened."""
    connect_failures: int = 0
    """Connects that failed or took too long."""
    lost: int = 0
    """Connections that the other side closed, or that stopped answering."""
    retired: int = 0
    """Connections closed on purpose: for age, idleness, drain, resize, stop."""
    restored: int = 0
    """Connections that needed a rollback, a drain of a cancelled statement, or a reset, and got it."""
    leaks: int = 0
    """Connections held longer than `leak_after`, counted once for each time they were lent."""
    wait_time: Histogram = field(default_factory=Histogram)
    """Seconds in the queue, of those who queued."""
    use_time: Histogram = field(default_factory=Histogram)
    """Seconds that connections were held, of those that came home."""

    def copy(self) -> "Counters":
        """Give them as they are now."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in values.items():
            if isinstance(value, Histogram):
                values[name] = Histogram(list(value.counts), value.total)
        return Counters(**values)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment. `size` = `idle` + `in_use` + `kept`; `size` + `connecting` never exceeds `max_size`.

    `kept`: connections that the keeper asks, restores or replaces, so nobody can have them at this moment.
    """

    size: int = 0
    idle: int = 0
    in_use: int = 0
    connecting: int = 0
    waiting: int = 0
    kept: int = 0
    counters: Counters = field(default_factory=Counters, compare=False)
