import pytest

from tests.compliance.outcomes import Outcome, Run

OURS, THEIRS = "pulsepool.PulsePool", "sqlalchemy.pool.QueuePool"


def run(pool: str, *, others: tuple[str, ...] = (), **outcomes: Outcome) -> Run:
    return Run(outcomes, pool, frozenset({pool, *others}))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Outcome.PASSED, Outcome.SKIPPED),
        (Outcome.PASSED, Outcome.FAILED),
        (Outcome.SKIPPED, Outcome.FAILED),
    ],
)
def test_a_test_that_ended_worse_is_named(before: Outcome, now: Outcome) -> None:
    lines = run(OURS, one=now, two=Outcome.PASSED).worse_than(run(THEIRS, one=before, two=Outcome.PASSED))
    assert lines == [f"one: {before.name.lower()} before, {now.name.lower()} now"]


def test_a_test_that_did_not_run_is_named() -> None:
    lines = run(OURS).worse_than(run(THEIRS, one=Outcome.FAILED))
    assert lines == ["one: failed before, missing now"]


@pytest.mark.parametrize("before", [Outcome.PASSED, Outcome.SKIPPED, Outcome.FAILED])
def test_one_that_ended_as_well_or_better_is_not(before: Outcome) -> None:
    better = [outcome for outcome in Outcome if outcome <= before]
    assert all(run(OURS, one=now).worse_than(run(THEIRS, one=before)) == [] for now in better)


def test_a_run_on_the_other_runs_pool_proves_nothing() -> None:
    assert run(OURS, others=(THEIRS,)).worse_than(run(THEIRS)) == [f"connections came from {THEIRS} in both runs"]


def test_a_pool_that_tests_ask_for_themselves_may_be_in_both() -> None:
    single = "sqlalchemy.pool.StaticPool"
    assert run(OURS, others=(single,)).worse_than(run(THEIRS, others=(single,))) == []
