"""How the suite's tests ended, and what is worse in one run than in another."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self


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
