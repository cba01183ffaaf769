import pickle

import pytest
from sqlalchemy.exc import TimeoutError as AlchemyTimeout

import pulsepool
from pulsepool import ConfigurationError, DatabaseUnavailable, PoolTimeout, PulsePoolError, alchemy

ALL = [error for error in vars(pulsepool).values() if isinstance(error, type) and issubclass(error, PulsePoolError)]


def test_an_error_shows_what_happened_and_then_the_remedy():
    assert str(PoolTimeout("no connection within 2.0 s", hint="wait")) == "no connection within 2.0 s\n  hint: wait"
    assert str(PoolTimeout("no connection within 2.0 s")) == "no connection within 2.0 s"


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_is_public_under_the_one_base_and_survives_pickling(error):
    assert error.__module__ == "pulsepool"
    assert error.__name__ in pulsepool.__all__
    copy = pickle.loads(pickle.dumps(error("what happened", hint="the remedy")))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy)) == (error, "what happened\n  hint: the remedy")


def test_errors_are_caught_by_what_people_catch_already():
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(PoolTimeout, TimeoutError)
    assert issubclass(DatabaseUnavailable, ConnectionError)


def test_the_timeout_of_an_engines_pool_is_both_ours_and_sqlalchemys_and_pickles_as_ours():
    error = alchemy.PoolTimeout("full", hint="wait")
    assert isinstance(error, PoolTimeout)
    assert isinstance(error, AlchemyTimeout)
    assert str(error) == "full\n  hint: wait"
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy)) == (PoolTimeout, str(error))
