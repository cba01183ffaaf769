"""From settings to what a pool is to keep."""

import dataclasses
from typing import Any

from pulsepool.pool import Limits
from pulsepool.settings import DatabaseSettings

SHARED = {each.name for each in dataclasses.fields(Limits)} - {"name"}


def limits_of(settings: DatabaseSettings, name: str, **changes: Any) -> Limits:
    """The limits of a pool called `name` that `settings` ask for; `changes` win."""
    return Limits(**{each: getattr(settings, each) for each in SHARED} | {"name": name} | changes)
