"""SQLAlchemy's dialect compliance suite, as its README.dialects has a dialect take it in."""

from sqlalchemy.testing.suite import *  # noqa: F403 - all of it is the point
