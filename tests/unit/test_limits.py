"""Which limit wins, and how it is told in the units of a driver; nothing connects."""

import pytest

from pulsepool import DatabaseSettings, Dsn
from pulsepool.alchemy import Gate, build_sync_engine
from pulsepool.alchemy.engines import _connect_limit, _with_session_parameters


def explicit(**options) -> DatabaseSettings:
    return DatabaseSettings.explicit(**options)


@pytest.mark.parametrize(
    ("address", "options", "limit"),
    [
        ("postgres://h1/d", {}, 5),
        ("postgres://h1/d?connect_timeout=3", {}, 3),
        ("postgres://h1,h2/d?connect_timeout=3", {}, 6),
        ("postgres:///d?connect_timeout=3", {}, 3),
        ("postgres://h1/d?connect_timeout=0", {}, 86_400),
        ("postgres://h1,h2/d?connect_timeout=3", {"connect_timeout": 2}, 2),
        ("postgres://h1,h2/d?connect_timeout=3", {"connect_timeout": 5}, 5),
    ],
)
def test_a_connect_may_take_what_the_setting_says_else_what_the_address_says_for_each_host(address, options, limit):
    assert _connect_limit(Dsn.parse(address), explicit(**options)) == limit


@pytest.mark.parametrize(
    ("address", "options", "name"),
    [
        ("postgres://h/d", {}, "pulsepool"),
        ("postgres://h/d?application_name=theirs", {}, "theirs"),
        ("postgres://h/d?application_name=theirs", {"application_name": "pulsepool"}, "pulsepool"),
    ],
)
def test_the_application_is_named_by_the_setting_else_by_the_address(address, options, name):
    assert _with_session_parameters(Dsn.parse(address), explicit(**options)).parameters["application_name"] == name


@pytest.mark.parametrize(
    ("address", "options", "said"),
    [
        ("postgres://h/d", {}, None),
        ("postgres://h/d?options=-c%20a%3D1", {}, "-c a=1"),
        ("postgres://h/d", {"statement_timeout": 1.5}, "-c statement_timeout=1500"),
        ("postgres://h/d", {"statement_timeout": 0.0001}, "-c statement_timeout=1"),  # 0 would be no limit at all
        (
            "postgres://h/d?options=-c%20a%3D1",
            {"statement_timeout": 1, "idle_in_transaction_timeout": 2},
            "-c a=1 -c statement_timeout=1000 -c idle_in_transaction_session_timeout=2000",
        ),
    ],
)
def test_a_session_starts_with_the_options_of_the_address_and_then_the_timeouts_in_milliseconds(address, options, said):
    assert _with_session_parameters(Dsn.parse(address), explicit(**options)).parameters.get("options") == said


@pytest.mark.parametrize(("lifetime", "recycle"), [(None, -1), (0.5, 1), (1800, 1800)])
def test_a_synchronous_lifetime_is_told_in_whole_seconds_and_none_is_for_ever(lifetime, recycle):
    settings = explicit(max_lifetime=lifetime)
    engine = build_sync_engine(Dsn.parse("postgres://h/d"), settings, Gate("main", settings), "psycopg")
    assert engine.pool._recycle == recycle
