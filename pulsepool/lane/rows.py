"""What a row of the direct lane is: a tuple with names, read by attribute, by index and as a mapping.

`row.title`, `row[1]`, `row["title"]`, `dict(row)`, `id, title = row`, and `row == (5, "x")` all hold for both classes:
`RecordRow`, the driver's own record, untouched, where no value needs a processor; `TupleRow` where one does, or where
the names are not those that the server gives. Code should not ask which of the two it has.

By index and as a mapping a row has exactly `keys()`. As attributes it has all that SQLAlchemy's row has for the same
statement, so a column's Python key beside its name in the database. A name that is one of the row's own methods
(`keys`, `values`, `items`, `get`), or that begins with two underscores, is reached by index or as a mapping alone.
`name in row` asks for a key, as with a mapping.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, ClassVar, NoReturn, TypeAlias

from asyncpg import Record
from sqlalchemy.exc import InvalidRequestError

_METHODS = frozenset({"keys", "values", "items", "get"})
_SHAPES = 1000
"""How many shapes are remembered; a plan keeps its own, so this bounds only those shared between plans."""


class RecordRow(Record):
    """The driver's record, whose columns are attributes too; raises `AttributeError` for a name that it has not."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the row has no column {name!r}, but {', '.join(self.keys())}", name=name) from None


class TupleRow(tuple[Any, ...]):
    """A tuple of processed values with the names of its plan.

    A name that several columns share raises SQLAlchemy's `InvalidRequestError`, as its own row does.
    """

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]] = ()
    _positions: ClassVar[Mapping[str, int | None]] = {}

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        position = self._positions[key]
        return tuple.__getitem__(self, position) if position is not None else _ambiguous(key)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the row has no column {name!r}, but {', '.join(self._names)}", name=name)

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __repr__(self) -> str:
        return f"<Row {' '.join(f'{name}={value!r}' for name, value in self.items())}>"

    def keys(self) -> Iterator[str]:
        """The names, in the order of the columns."""
        return iter(self._names)

    def values(self) -> Iterator[Any]:
        """The values, in the order of the columns."""
        return iter(self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Name and value of each column, in their order."""
        return zip(self._names, self, strict=True)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of the column `key`, or `default` when there is none."""
        return self[key] if key in self._positions else default


Row: TypeAlias = RecordRow | TupleRow


def record_row(attributes: Mapping[str, int | None]) -> type[RecordRow]:
    """A record class with a fast attribute for each name: its position, or None where several columns share it.

    Equal names give the same class, since the driver prepares a statement anew for each class.
    """
    return _record_row(tuple(attributes.items()))


def tuple_row(names: Sequence[str], attributes: Mapping[str, int | None]) -> type[TupleRow]:
    """A tuple class: `names` is what `keys()` gives, `attributes` as for `record_row`."""
    return _tuple_row(tuple(names), tuple(attributes.items()))


@lru_cache(_SHAPES)
def _record_row(attributes: tuple[tuple[str, int | None], ...]) -> type[RecordRow]:
    return type("Row", (RecordRow,), {"__slots__": (), **_properties(attributes)})


@lru_cache(_SHAPES)
def _tuple_row(names: tuple[str, ...], attributes: tuple[tuple[str, int | None], ...]) -> type[TupleRow]:
    positions: dict[str, int | None] = {}
    for position, name in enumerate(names):
        positions[name] = None if name in positions else position
    own = {"__slots__": (), "_names": names, "_positions": positions}
    return type("Row", (TupleRow,), _properties(attributes) | own)


def _properties(attributes: Iterable[tuple[str, int | None]]) -> dict[str, Any]:
    return {
        name: property(itemgetter(position) if position is not None else partial(_refused, name))
        for name, position in attributes
        if name not in _METHODS and not name.startswith("__")
    }


def _refused(name: str, _: object) -> NoReturn:
    _ambiguous(name)


def _ambiguous(name: str) -> NoReturn:
    raise InvalidRequestError(f"Ambiguous column name {name!r} in result set column descriptions")
