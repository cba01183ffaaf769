"""How figures come about: warmed up, in turns, each round kept."""

import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

Better = Literal["more", "less"]
Operation = Callable[[], Awaitable[object]]
Measure = Callable[[], Awaitable[float]]
Several = Callable[[], Awaitable[Sequence[float]]]

PATIENCE = 30.0
"""Seconds for one round of one line; what takes longer hangs, and is reported so."""


SEED = 27
"""Any would do."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line's figures, one a round. Empty when there are none; then `note` says why."""

    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the rounds; `ValueError` when there is none."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least of the rounds."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The most of the rounds."""
        return max(self.values)


@dataclass(frozen=True, slots=True)
class Table:
    """What one scenario came to: `lines` by who did it. `baseline` is the line that the others are compared with."""

    name: str
    title: str
    unit: str
    better: Better
    baseline: str
    lines: Mapping[str, Series] = field(default_factory=dict)

    def ratio(self, line: str, other: str | None = None) -> float | None:
        """How many times better `line` is than `other`, or than the baseline; None where there is no figure."""
        ours, theirs = self.lines.get(line), self.lines.get(other or self.baseline)
        if ours is None or theirs is None or not ours.values or not theirs.values:
            return None
        above, below = (ours, theirs) if self.better == "more" else (theirs, ours)
        if below.median == 0:
            return None
        return above.median / below.median


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look: `rounds` of each line, `seconds` a round. `full`: all sizes, not only the telling ones."""

    rounds: int
    seconds: float
    full: bool

    @property
    def fewer(self) -> int:
        """Rounds of what takes long."""
        return (self.rounds + 1) // 2


FULL = Effort(rounds=5, seconds=0.3, full=True)
QUICK = Effort(rounds=3, seconds=0.08, full=False)


async def interleave(lines: Mapping[str, Measure], rounds: int) -> dict[str, Series]:
    """Measure all lines in turns; see `interleave_several`, of which this is the case of one figure."""

    def alone(measure: Measure) -> Several:
        async def several() -> tuple[float]:
            return (await measure(),)

        return several

    (series,) = await interleave_several({name: alone(measure) for name, measure in lines.items()}, rounds, figures=1)
    return series


async def interleave_several(lines: Mapping[str, Several], rounds: int, *, figures: int) -> list[dict[str, Series]]:
    """Measure all lines in turns, `rounds` times, after one round that does not count; one dict for each figure.

    Each round has an order of its own, so that none has the same neighbour's leftovers each time; shuffled from `SEED`,
    so that two runs have the same orders. A line that raises or hangs is out, with the error as its note: a peer that
    lacks something must not end the run.
    """
    values: dict[str, list[tuple[float, ...]]] = {name: [] for name in lines}
    notes: dict[str, str] = {}
    order = list(lines)
    shuffler = random.Random(SEED)  # noqa: S311 - nobody is to be surprised by it
    for round_ in range(rounds + 1):
        shuffler.shuffle(order)
        for name in order:
            if name in notes:
                continue
            try:
                measured = await asyncio.wait_for(lines[name](), PATIENCE)
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
                notes[name] = describe(error)
                values[name].clear()
            else:
                if round_:
                    values[name].append(tuple(measured))
    return [
        {name: Series(tuple(row[index] for row in values[name]), notes.get(name, "")) for name in lines}
        for index in range(figures)
    ]


def describe(error: BaseException) -> str:
    """One line about why there is no figure."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError) and not str(error):
        return f"not finished within {PATIENCE:.0f} s"
    first, *_ = str(error).splitlines() or [""]
    return f"not available ({type(error).__name__}: {first})"[:160]


async def rate(operation: Operation, tasks: int, seconds: float) -> float:
    """Operations a second of `tasks` tasks that do nothing else for `seconds`."""
    done = 0
    started = perf_counter()
    ends = started + seconds

    async def worker() -> None:
        nonlocal done
        while perf_counter() < ends:
            await operation()
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(worker())
    return done / (perf_counter() - started)


def rate_of(operation: Operation, tasks: int, seconds: float) -> Measure:
    """`rate`, to be called for each round."""

    async def measure() -> float:
        return await rate(operation, tasks, seconds)

    return measure


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
