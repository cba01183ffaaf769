"""Where a compiled statement's arguments come from, worked out once so that an execution only has to collect them.

Everything here is a short cut past `SQLCompiler.construct_params` and its post-compile step, for the statements whose
arguments are found in the same places each time; the others go the long way, through SQLAlchemy itself.
"""

# ruff: noqa: SLF001 - the compiled form keeps to itself what an execution needs

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.sql.compiler import ExpandedState, SQLCompiler
from sqlalchemy.sql.elements import BindParameter

Extracted = Sequence[BindParameter[Any]] | None
Parameters = Mapping[str, Any]
Source = str | int
"""A key of the caller's parameters, or a place among the values extracted from the statement."""
_SHAPES = 64
"""Lengths of `in_()` remembered for one statement; then they are forgotten and learnt anew."""


def value(source: Source, extracted: Extracted, parameters: Parameters | None) -> Any:
    """One value; raises `KeyError` when the parameters lack it."""
    return extracted[source].value if type(source) is int else parameters[source]  # type: ignore[index]


def sources(compiled: SQLCompiler, keys: frozenset[str]) -> dict[str, Source] | None:
    """The source of each named bind, or None when one is made otherwise: a default, a callable, one that is missing."""
    if compiled.literal_execute_params:
        return None
    places: dict[BindParameter[Any], int] = {}
    if compiled.cache_key is not None and compiled._cache_key_bind_match is not None:
        matches = compiled._cache_key_bind_match[0]
        places = {bind: at for at, first in enumerate(compiled.cache_key[1]) for bind in matches[first]}
    found: dict[str, Source] = {}
    for bind, name in compiled.bind_names.items():
        if bind.key in keys:
            found[name] = bind.key
        elif name in keys:
            found[name] = name
        elif bind.required or bind.callable or bind not in places:
            return None
        else:
            found[name] = places[bind]
    return found


class _Shape(NamedTuple):
    sql: str
    places: list[tuple[Source, int | None, Any]]
    """For each argument its source, its index when that is a list, and its processor."""


class Expansions:
    """What `in_()` becomes, by the lengths of its lists: the text and the places of the arguments.

    Only lists of plain values: an empty one, tuples, and whatever else is rendered otherwise are SQLAlchemy's to do.
    """

    __slots__ = ("_processors", "_shapes", "_sources")

    def __init__(self, compiled: SQLCompiler, found: dict[str, Source]) -> None:
        self._sources = found
        self._processors: Mapping[str, Any] = compiled._bind_processors
        self._shapes: dict[tuple[int, ...], _Shape] = {}

    @classmethod
    def of(cls, compiled: SQLCompiler, found: dict[str, Source] | None) -> "Expansions | None":
        """None when the text depends on more than lengths."""
        if found is None or any(bind.type._is_tuple_type for bind in compiled.post_compile_params):
            return None
        return cls(compiled, found)

    def lengths(self, compiled: SQLCompiler, extracted: Extracted, parameters: Parameters | None) -> tuple[int, ...]:
        """The length of each list, or () when one of them is not a list of plain values."""
        found = []
        for bind in compiled.post_compile_params:
            values = value(self._sources[compiled.bind_names[bind]], extracted, parameters)
            if type(values) not in {list, tuple} or not values or isinstance(values[0], list | tuple):
                return ()
            found.append(len(values))
        return tuple(found)

    def arguments(
        self, lengths: tuple[int, ...], extracted: Extracted, parameters: Parameters | None
    ) -> tuple[str, list[Any]] | None:
        """Text and arguments, when these lengths have been met before."""
        if (shape := self._shapes.get(lengths)) is None:
            return None
        arguments = []
        for source, at, process in shape.places:
            found = value(source, extracted, parameters)
            if at is not None:
                found = found[at]
            arguments.append(found if process is None else process(found))
        return shape.sql, arguments

    def learn(self, lengths: tuple[int, ...], expanded: ExpandedState) -> None:
        """Remember what SQLAlchemy made of lists of these lengths."""
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        elements = {
            element: (self._sources[name], at)
            for name, elements in expanded.parameter_expansion.items()
            for at, element in enumerate(elements)
        }
        self._shapes[lengths] = _Shape(
            expanded.statement,
            [
                (*elements[name], expanded.processors.get(name))
                if name in elements
                else (self._sources[name], None, self._processors.get(name))
                for name in expanded.positiontup or ()
            ],
        )
