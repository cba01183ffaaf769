import pytest

from tests.compliance.outcomes import LEAST_PASSED, POOL, Outcome, Run, objections

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


def whole(pool: str, *, passed: int = LEAST_PASSED, failed: int = 0, pools: frozenset[str] | None = None) -> Run:
    outcomes = {f"passes {n}": Outcome.PASSED for n in range(passed)}
    outcomes |= {f"fails {n}": Outcome.FAILED for n in range(failed)}
    return Run(outcomes, pool, frozenset({pool}) if pools is None else pools)


def test_nothing_speaks_against_two_runs_that_passed_each_on_its_own_pool() -> None:
    assert objections(whole(THEIRS), whole(POOL)) == []


def test_a_suite_that_fails_without_the_plugin_too_proves_nothing() -> None:
    assert objections(whole(THEIRS, failed=2), whole(POOL, failed=2)) == ["2 failed without the plugin"]


def test_a_suite_of_which_too_little_passed_in_either_run_proves_nothing() -> None:
    assert objections(whole(THEIRS, passed=1_799), whole(POOL, passed=1_799)) == [
        "1,799 passed without the plugin, which should be 1,800 at least",
        "1,799 passed with the plugin, which should be 1,800 at least",
    ]


@pytest.mark.parametrize(
    ("pool", "pools", "used"),
    [
        (THEIRS, {THEIRS, POOL}, f"{POOL}, {THEIRS}"),
        (POOL, {"sqlalchemy.pool.NullPool"}, "sqlalchemy.pool.NullPool"),
        (POOL, set(), "none"),
    ],
)
def test_a_run_with_the_plugin_on_another_pool_than_ours_proves_nothing(pool: str, pools: set[str], used: str) -> None:
    lines = objections(whole("sqlalchemy.pool.Other"), whole(pool, pools=frozenset(pools)))
    assert lines == [f"the plugin's engine has {pool}, and pools used were {used}: {POOL} should be both"]


def test_what_is_worse_is_among_the_objections() -> None:
    assert objections(whole(THEIRS, passed=LEAST_PASSED + 1), whole(POOL)) == [
        f"passes {LEAST_PASSED}: passed before, missing now"
    ]
