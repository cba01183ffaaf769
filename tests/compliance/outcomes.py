"""How the suite's tests ended, and what is worse in one run than in another."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

LEAST_PASSED = 1_800
"""What passes at least in a run that ran: of SQLAlchemy 2.1.9's suite, with what `requirements` opens, 1,880."""

POOL = "pulsepool.alchemy.pulse.PulsePool"
"""The pool that the plugin is there to give."""


class Outcome(IntEnum):
    """The higher, the worse."""

    PASSED = 0
    SKIPPED = 1
    FAILED = 2
    MISSING = 3


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite: how each test ended, and where its connections came from.

    `pool` is the class of the suite's own engine's pool. `pools` are all that were used: a few tests ask for another.
    """

    outcomes: Mapping[str, Outcome]
    pool: str
    pools: frozenset[str]

    @classmethod
    def read(cls, file: Path) -> Self:
        """From what `recorder` wrote."""
        record = json.loads(file.read_text())
        outcomes = {test: Outcome(value) for test, value in record["outcomes"].items()}
        return cls(outcomes, record["pool"], frozenset(record["pools"]))

    def count(self, outcome: Outcome) -> int:
        return Counter(self.outcomes.values())[outcome]

    def worse_than(self, other: "Run") -> list[str]:
        """What speaks against this run, a line each; none when every test ended at least as well as in `other`.

        One that had connections from the pool of `other` proves nothing, and that is such a line.
        """
        lines = [f"connections came from {other.pool} in both runs"] if other.pool in self.pools else []
        for test, before in sorted(other.outcomes.items()):
            now = self.outcomes.get(test, Outcome.MISSING)
            if now > before:
                lines.append(f"{test}: {before.name.lower()} before, {now.name.lower()} now")
        return lines


def objections(without: Run, with_plugin: Run) -> list[str]:
    """What speaks against the plugin, a line each; none when all that ran before runs as well on the pool of ours.

    A suite that did not work without it, either, would not be worse with it: that speaks against it, too.
    """
    lines = [f"{failed:,} failed without the plugin"] if (failed := without.count(Outcome.FAILED)) else []
    for which, run in (("without", without), ("with", with_plugin)):
        if (passed := run.count(Outcome.PASSED)) < LEAST_PASSED:
            lines.append(f"{passed:,} passed {which} the plugin, which should be {LEAST_PASSED:,} at least")
    if with_plugin.pool != POOL or POOL not in with_plugin.pools:
        used = ", ".join(sorted(with_plugin.pools)) or "none"
        lines.append(f"the plugin's engine has {with_plugin.pool}, and pools used were {used}: {POOL} should be both")
    return lines + with_plugin.worse_than(without)
