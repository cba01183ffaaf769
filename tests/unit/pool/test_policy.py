"""The pool's decisions, each at its edges."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsepool.pool import policy
from pulsepool.pool.policy import Fate, Limits, Load, Outage, Wear

LIMITS = Limits(min_size=2, max_size=10)
NOBODY = Load(size=5, connecting=0, coming=0, leaving=0, waiting=0)
NEVER = float("inf")
DOWN = Outage(since=0.0, attempts=3, retry_at=10.0, prompt_at=NEVER, error=OSError(), final=False, known_down=True)
some = st.integers(0, 12)
loads = st.builds(
    lambda others, connecting, coming, leaving, waiting: Load(
        others + coming + leaving, connecting, coming, leaving, waiting
    ),
    *[some] * 5,
)


def wanted(load: Load = NOBODY, limits: Limits = LIMITS, outage: Outage | None = None, now: float = 0.0, **more) -> int:
    return policy.connects_wanted(replace(load, **more), limits, outage, now)


def test_nothing_is_opened_while_nobody_waits_and_min_size_is_there():
    assert wanted() == 0


@pytest.mark.parametrize(("waiting", "opened"), [(1, 1), (2, 2), (3, 3), (4, 3), (100, 3)])
def test_one_is_opened_for_each_who_waits_but_three_at_a_time_for_those_who_wait_for_long(waiting, opened):
    assert wanted(waiting=waiting, waited=policy.LASTING) == opened


@pytest.mark.parametrize(("waiting", "opened"), [(1, 1), (2, 2), (3, 3), (4, 3), (100, 3)])
def test_a_pool_without_a_connection_opens_three_at_a_time_at_once(waiting, opened):
    assert wanted(size=2, leaving=2, limits=Limits(min_size=0), waiting=waiting) == opened


@pytest.mark.parametrize(("connecting", "opened"), [(0, 1), (1, 0), (2, 0)])
def test_a_moments_demand_is_answered_one_by_one(connecting, opened):
    assert wanted(waiting=50, connecting=connecting, waited=policy.LASTING - 0.001) == opened


@pytest.mark.parametrize(("connecting", "coming", "opened"), [(1, 0, 1), (0, 1, 1), (1, 1, 0), (2, 0, 0), (0, 5, 0)])
def test_what_is_on_its_way_is_not_opened_again(connecting, coming, opened):
    assert wanted(waiting=2, connecting=connecting, coming=coming, waited=1) == opened


@pytest.mark.parametrize(("size", "connecting", "opened"), [(9, 0, 1), (10, 0, 0), (8, 1, 1), (9, 1, 0), (12, 0, 0)])
def test_there_are_never_more_than_max_size_with_those_that_connect(size, connecting, opened):
    assert wanted(size=size, connecting=connecting, waiting=9, waited=1) == opened


@pytest.mark.parametrize(
    ("size", "leaving", "opened"), [(2, 0, 0), (1, 0, 1), (0, 0, 2), (3, 2, 1), (10, 10, 0), (9, 9, 1)]
)
def test_min_size_is_refilled_without_those_that_leave_whose_places_are_taken_until_they_left(size, leaving, opened):
    assert wanted(size=size, leaving=leaving) == opened


def test_while_connects_fail_none_is_tried_before_its_time_and_then_one_at_a_time():
    assert wanted(waiting=9, outage=DOWN, now=9.99) == 0
    assert wanted(waiting=9, outage=DOWN, now=10.0) == 1
    assert wanted(waiting=9, outage=DOWN, now=10.0, connecting=1) == 0


def test_a_server_that_is_down_is_tried_without_traffic_when_nothing_else_is_left():
    none = Limits(min_size=0)
    assert wanted(size=0, limits=none, outage=DOWN, now=10.0) == 1
    assert wanted(size=1, limits=none, outage=DOWN, now=10.0) == 0
    assert wanted(size=1, leaving=1, limits=none, outage=DOWN, now=10.0) == 1


def test_one_who_waits_makes_it_try_a_quick_server_before_its_own_time():
    quick = replace(DOWN, prompt_at=5.0)
    assert [wanted(size=0, outage=quick, now=now, waiting=1) for now in (4.99, 5.0)] == [0, 1]
    assert wanted(size=0, outage=quick, now=5.0) == 0


def test_what_trying_again_does_not_mend_is_tried_only_for_somebody_who_asks():
    final = replace(DOWN, final=True)
    assert wanted(size=0, outage=final, now=10.0) == 0
    assert wanted(size=0, outage=final, now=10.0, waiting=1) == 1


@given(loads, st.integers(1, 20), st.integers(0, 20), st.booleans(), st.floats(0, 20))
def test_no_load_makes_it_open_more_than_there_is_room_for_or_demand(load, most, least, down, now):
    limits = Limits(min_size=min(least, most), max_size=most)
    opened = policy.connects_wanted(load, limits, DOWN if down else None, now)
    assert 0 <= opened <= policy.CONNECTS_AT_ONCE
    assert opened == 0 or load.size + load.connecting + opened <= most
    assert opened == 0 or opened <= max(load.waiting, limits.min_size, 1)


@given(loads, some, some)
def test_who_waits_beyond_what_is_on_its_way_gets_a_connect_when_there_is_room(load, more, room):
    load = replace(load, waiting=load.connecting + load.coming + 1 + more, waited=policy.LASTING)
    opened = policy.connects_wanted(load, Limits(min_size=0, max_size=load.size + load.connecting + 1 + room), None, 0)
    assert opened > 0 or load.connecting >= policy.CONNECTS_AT_ONCE


def outages(failures: list[float], *, dice: float = 1.0, took: float = 0.0) -> list[Outage]:
    """Connects failing at these times, in a row."""
    given: list[Outage] = []
    for now in failures:
        before = given[-1] if given else None
        given.append(policy.outage_after(OSError(), before, final=False, started=now - took, now=now, dice=dice))
    return given


def test_connects_that_fail_are_tried_again_after_50_ms_doubling_to_half_a_second():
    given = outages([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert [round(outage.retry_at - 1 - 0.1 * i, 3) for i, outage in enumerate(given)] == [
        0.05,
        0.1,
        0.2,
        0.4,
        0.5,
        0.5,
    ]
    assert [outage.attempts for outage in given] == [1, 2, 3, 4, 5, 6]


def test_the_wait_before_the_next_connect_is_jittered_down_to_its_half():
    assert outages([1.0], dice=0.0)[0].retry_at == pytest.approx(1.025)
    assert outages([1.0], dice=0.5)[0].retry_at == pytest.approx(1.0375)


def test_after_a_thousand_attempts_the_wait_is_still_half_a_second():
    before = replace(DOWN, attempts=5000, retry_at=1.0)
    assert policy.outage_after(OSError(), before, final=False, started=1.0, now=1.0, dice=1.0).retry_at == 1.5


def test_a_server_is_known_to_be_down_after_a_second_of_nothing_but_failures():
    assert [outage.known_down for outage in outages([1.0, 1.5, 1.99, 2.0])] == [False, False, False, True]


def test_a_connect_that_took_a_second_to_fail_counts_from_its_start():
    assert outages([5.0], took=1.0)[0].known_down
    assert outages([5.0], took=1.0)[0].since == 4.0


def test_a_failure_that_nobody_followed_up_is_no_part_of_the_next_outage():
    first, second = outages([1.0, 60.0])
    assert (second.attempts, second.since, second.known_down) == (1, 60.0, False)
    assert first.since == 1.0


@pytest.mark.parametrize("code", ["28P01", "28000", "3D000", "42501", "08P01"])
def test_wrong_passwords_missing_databases_and_privileges_are_final_and_known_at_once(code):
    assert policy.no_use_retrying(code)
    outage = policy.outage_after(OSError(), None, final=True, started=0.0, now=0.0, dice=0.0)
    assert outage.final
    assert outage.known_down


@pytest.mark.parametrize("code", [None, "", "57P03", "53300", "08006", "42P01", "3D001"])
def test_a_server_that_starts_is_full_or_out_of_reach_is_tried_again(code):
    assert not policy.no_use_retrying(code)


WEAR = Wear(born=0.0, lifetime=100.0, used=0.0, heard=0.0)


@pytest.mark.parametrize(
    ("now", "spare", "becomes"),
    [
        (599.9, True, Fate.ASK),
        (600.0, True, Fate.RETIRE),
        (600.0, False, Fate.ASK),
        (119.9, True, Fate.STAY),
        (120.0, True, Fate.ASK),
    ],
)
def test_the_idle_are_asked_after_keepalive_and_retired_after_max_idle_only_when_spare(now, spare, becomes):
    assert policy.fate(WEAR, Limits(), now=now, spare=spare) is becomes


def test_without_keepalive_and_max_idle_a_connection_may_idle_for_ever():
    assert policy.fate(WEAR, Limits(keepalive=None, max_idle=None), now=1e9, spare=True) is Fate.STAY


@pytest.mark.parametrize(
    ("known", "prompt_at", "now", "fast"),
    [(True, NEVER, 1e9, True), (False, NEVER, 0.0, False), (True, 10.0, 9.99, True), (True, 10.0, 10.0, False)],
)
def test_callers_fail_fast_while_the_server_is_known_to_be_down(known, prompt_at, now, fast):
    assert policy.fails_fast(replace(DOWN, known_down=known, prompt_at=prompt_at), now) is fast


def test_a_server_that_refuses_quickly_is_tried_for_who_comes_50_ms_later_one_that_is_silent_is_not():
    assert outages([1.0], took=0.049)[0].prompt_at == pytest.approx(1.05)
    assert outages([1.0], took=0.05)[0].prompt_at == NEVER


def test_a_wrong_password_is_tried_for_who_asks_no_more_often_than_any_other_failure_is():
    outage = policy.outage_after(OSError(), None, final=True, started=0.0, now=5.0, dice=1.0)
    assert outage.prompt_at == outage.retry_at == pytest.approx(5.05)


@pytest.mark.parametrize(
    ("most_waiting", "waiting", "in_use", "leaving", "away"),
    [
        (None, 10_000, 10, 0, False),
        (2, 1, 10, 0, False),
        (2, 2, 10, 0, True),
        (0, 0, 10, 0, True),
        (0, 0, 9, 0, False),  # one is there for this caller
        (0, 1, 9, 0, True),  # it is the other's
        (0, 0, 9, 1, True),  # its place is taken until it left
        (2, 4, 7, 0, False),
        (2, 5, 7, 0, True),
    ],
)
def test_one_caller_is_too_many_when_max_waiting_wait_for_what_others_hold(
    most_waiting, waiting, in_use, leaving, away
):
    limits = Limits(max_size=10, max_waiting=most_waiting)
    assert policy.sheds(replace(NOBODY, waiting=waiting, leaving=leaving), in_use, limits) is away


def test_a_lifetime_is_up_to_five_percent_shorter_so_that_a_fleet_does_not_die_together():
    assert policy.lifetime(Limits(max_lifetime=1000), 0.0) == 1000
    assert policy.lifetime(Limits(max_lifetime=1000), 1.0) == pytest.approx(950)
    assert policy.lifetime(Limits(max_lifetime=None), 1.0) == float("inf")
    assert len({policy.lifetime(Limits(), dice / 20) for dice in range(20)}) == 20


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 1.0),
        ({"leak_after": 2.0}, 0.2),
        ({"leak_after": 0.1}, 0.05),
        ({"max_idle": None, "max_lifetime": None, "keepalive": None}, 1.0),
        ({"keepalive": 3.0}, 0.3),
    ],
)
def test_the_keeper_looks_ten_times_within_the_shortest_time_it_keeps_between_50_ms_and_1_s(given, seconds):
    assert policy.tick(Limits(**given)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path TO x",
        "  set timezone = 'UTC'",
        "RESET ALL",
        "BEGIN",
        "START TRANSACTION",
        "LISTEN jobs",
        "UNLISTEN *",
        "PREPARE p AS SELECT 1",
        "DEALLOCATE p",
        "DISCARD ALL",
        "LOAD 'auto_explain'",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TEMP TABLE t (a int)",
        "create temporary table t (a int)",
        "CREATE TABLE pg_temp.t (a int)",
        "SELECT 1 AS a INTO TEMP t",
        "select 1 as a into local temporary t",
        "SELECT 1 AS a INTO pg_temp.t",
        "SELECT pg_advisory_lock(1)",
        "select pg_try_advisory_lock(1)",
        "SELECT set_config('a.b', 'c', false)",
        "INSERT INTO t VALUES (1); SET timezone = 'UTC'",
        "select 1; listen jobs",
        "/* hello */ SET a.b = 1",
        "WITH x AS (SELECT set_config('a', 'b', false)) SELECT 1",
        "DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$",
    ],
)
def test_what_could_leave_something_in_a_session_is_told_by_its_words(statement):
    assert policy.may_change_session(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "select * from settings where reset_at is null;",
        "UPDATE t SET a = 1",
        "insert into t values (1) on conflict do update set a = 2",
        "DELETE FROM t",
        "INSERT INTO temp_readings VALUES (1)",
        "SELECT temp FROM readings",
        "COMMIT",
        "CREATE TABLE t (a int)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "TRUNCATE t",
    ],
)
def test_ordinary_statements_leave_nothing_in_their_session(statement):
    assert not policy.may_change_session(statement)
