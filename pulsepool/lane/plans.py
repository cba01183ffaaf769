"""A plan: one compiled statement, ready to turn parameters into the driver's arguments and its records into rows.

What the driver is sent and what the values become is SQLAlchemy's own doing: its compiler's text with its casts, its
bind and its result processors, its column defaults.
"""

# ruff: noqa: SLF001 - the compiled form keeps to itself what an execution needs; this is the one room that reads it

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn, Protocol, cast

from asyncpg import Record
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.sql.compiler import ResultColumnsEntry, SQLCompiler
from sqlalchemy.sql.elements import ColumnClause

from pulsepool.lane.binds import Expansions, Extracted, Parameters, sources, value
from pulsepool.lane.refusals import is_orm, names_returned, refuse, refuse_other_entities
from pulsepool.lane.rows import RecordRow, Row, TupleRow, record_row, tuple_row


class Describing(Protocol):
    """What of the driver's connection a plan asks for the types of its columns."""

    async def prepare(self, query: str, *, name: str) -> Any:
        """A prepared statement, which has `get_attributes()`."""


class Plan:
    """One compiled statement; `keys`, the names that its parameters will have.

    `returns_rows`: False when SQLAlchemy gives its caller no rows, even if the text has a RETURNING of its own.
    `record_class`: hand it to the driver's `fetch`. `undescribed`: `describe` has to be awaited before the first run.
    """

    def __init__(self, dialect: Dialect, compiled: SQLCompiler, statement: Any, keys: frozenset[str]) -> None:
        self._dialect = dialect
        self.compiled = compiled
        self.sql = compiled.string
        found = sources(compiled, keys)
        processors = compiled._bind_processors
        self._steps: list[tuple[Any, Any]] | None = None
        self._expansions: Expansions | None = None
        if compiled.post_compile_params:
            self._expansions = Expansions.of(compiled, found)
        elif found is not None:
            self._steps = [(found[name], processors.get(name)) for name in compiled.positiontup or ()]
        self._simple = self._steps is not None and not keys
        self._defaults = _defaults_context(dialect, compiled)
        self.returns_rows = compiled.isplaintext or bool(compiled._result_columns and not compiled.implicit_returning)
        self._columns = compiled._result_columns if self.returns_rows else []
        self._names, attributes = _names(compiled, statement, self._columns)
        self._processors: tuple[Any, ...] | None = None
        self.undescribed = any(_needs_type(column, dialect) for column in self._columns)
        self._tuple: type[TupleRow] = tuple_row(self._names, attributes)
        self.record_class: type[RecordRow] = record_row(attributes) if self._columns else RecordRow
        self._confirmed = not self._columns

    def arguments(
        self, extracted: Extracted, parameters: Parameters | None = None, collected: Parameters | None = None
    ) -> tuple[str, list[Any]]:
        """The text to send and its positional arguments, in the driver's own types.

        `extracted`, `collected`: as this very statement's cache key gave them. Raises what SQLAlchemy raises for a
        value that is missing, and whatever a bind processor raises.
        """
        steps = self._steps
        if steps is not None and not collected:
            if self._simple:
                if extracted is None:
                    return self.sql, []
                return self.sql, [
                    extracted[at].value if process is None else process(extracted[at].value) for at, process in steps
                ]
            try:
                values = [value(at, extracted, parameters) for at, _ in steps]
            except KeyError:  # a later dictionary of an executemany lacks a key; the long way says which
                return self._constructed(extracted, parameters, collected)
            return self.sql, [
                each if process is None else process(each) for each, (_, process) in zip(values, steps, strict=True)
            ]
        if (expansions := self._expansions) is not None and not collected:
            lengths = expansions.lengths(self.compiled, extracted, parameters)
            if (known := expansions.arguments(lengths, extracted, parameters)) is not None:
                return known
            return self._constructed(extracted, parameters, collected, lengths)
        return self._constructed(extracted, parameters, collected)

    def many(
        self, extracted: Extracted, parameters: Sequence[Parameters], collected: Parameters | None
    ) -> list[list[Any]]:
        """The arguments of each dictionary of an executemany, in their order."""
        return [self.arguments(extracted, each, collected)[1] for each in parameters]

    async def describe(self, connection: Describing, sql: str) -> None:
        """Ask the server for the types of the columns: one round trip, once in a plan's life.

        Needed where a processor depends on the type that the server sends, as Numeric's does. Raises
        `ConfigurationError` when the server's columns are not those of the statement.
        """
        attributes = (await connection.prepare(sql, name="")).get_attributes()
        self._refuse_width(len(attributes))
        processors = tuple(
            column.type._cached_result_processor(self._dialect, attribute.type.oid)
            for column, attribute in zip(self._columns, attributes, strict=True)
        )
        self._processors = processors if any(processors) else None
        self.undescribed = False

    def rows(self, records: Sequence[Record]) -> Sequence[Row]:
        """The records as rows; the very same objects when there is nothing to do to them."""
        if not records:
            return []
        if not self._confirmed:
            self._confirm(records[0])
        if (processors := self._processors) is not None:
            make = self._tuple
            return [
                make(
                    [
                        each if process is None else process(each)
                        for process, each in zip(processors, record, strict=True)
                    ]
                )
                for record in records
            ]
        if not self.returns_rows:
            return []
        return cast("Sequence[Row]", records)

    def _confirm(self, first: Record) -> None:
        """See to it that the names of the server's columns are the statement's, or copy each row under its own.

        They differ for an ORM attribute called otherwise than its column, and for an expression without a label; and
        the driver's record takes the last of several columns of one name, where SQLAlchemy's row calls it ambiguous.
        """
        self._refuse_width(len(first))
        names = tuple(first.keys())
        if self._processors is None and (names != self._names or len(set(names)) != len(names)):
            self._processors = (None,) * len(first)
        self._confirmed = True

    def _refuse_width(self, width: int) -> None:
        if width != len(self._columns):
            refuse(f"its {len(self._columns)} column expressions are {width} columns to the server")

    def _constructed(
        self,
        extracted: Extracted,
        parameters: Parameters | None,
        collected: Parameters | None,
        lengths: tuple[int, ...] = (),
    ) -> tuple[str, list[Any]]:
        """The long way, which is SQLAlchemy's: defaults, `in_()` of new lengths, values that are missing."""
        compiled = self.compiled
        values = compiled.construct_params(
            cast("Any", parameters) or None,
            extracted_parameters=extracted,
            escape_names=False,
            _collected_params=collected,
        )
        if self._defaults is not None:
            self._fill_defaults(self._defaults, values)
        processors: Mapping[str, Any] = compiled._bind_processors
        if not (compiled.literal_execute_params or compiled.post_compile_params):
            return self.sql, _processed(compiled.positiontup or (), values, processors)
        expanded = compiled._process_parameters_for_postcompile(values)
        arguments = _processed(expanded.positiontup or (), values, {**processors, **expanded.processors})
        if lengths and self._expansions is not None:
            self._expansions.learn(lengths, expanded)
        return expanded.statement, arguments

    def _fill_defaults(self, defaults: type[DefaultExecutionContext], values: MutableMapping[str, Any]) -> None:
        context: Any = defaults.__new__(defaults)
        context.dialect, context.compiled = self._dialect, self.compiled
        context.isinsert, context.isupdate = self.compiled.isinsert, self.compiled.isupdate
        context.compiled_parameters = [values]
        context._process_execute_defaults()


def _processed(names: Sequence[str], values: Mapping[str, Any], processors: Mapping[str, Any]) -> list[Any]:
    return [processors[name](values[name]) if name in processors else values[name] for name in names]


def _names(
    compiled: SQLCompiler, statement: Any, columns: Sequence[ResultColumnsEntry]
) -> tuple[tuple[str, ...], dict[str, int | None]]:
    """The names of the columns; and each name that SQLAlchemy's row knows, with its position, or None for several."""
    if is_orm(statement) and columns and hasattr(statement, "_returning"):
        names = names_returned(statement)
    elif is_orm(statement) and hasattr(compiled.compile_state, "_entities"):
        entities = cast("Any", compiled.compile_state)._entities
        refuse_other_entities(entities, len(columns))
        names = tuple(entity._label_name for entity in entities)
    else:
        others = [(each, at) for at, column in enumerate(columns) for each in column.objects if isinstance(each, str)]
        own = [(column.name, at) for at, column in enumerate(columns) if "%(" not in column.name]  # that is anonymous
        return tuple(column.keyname for column in columns), _positions(others) | _positions(own)
    return names, _positions((name, at) for at, name in enumerate(names))


def _positions(pairs: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    positions: dict[str, int | None] = {}
    for name, at in pairs:
        positions[name] = at if positions.setdefault(name, at) == at else None
    return positions


def _needs_type(column: ResultColumnsEntry, dialect: Dialect) -> bool:
    """Whether the column's values need a processor, or its type needs the server's to tell.

    A literal column may be several to the server, which is found out by the same question.
    """
    if any(isinstance(each, ColumnClause) and each.is_literal for each in column.objects):
        return True
    asked = _Asked()
    try:
        processor = column.type.dialect_impl(dialect).result_processor(dialect, asked)
    except InvalidRequestError:  # Numeric's, of a type that no server has
        return True
    return processor is not None or asked.asked


class _Asked(int):
    """A type that no server has, which remembers being looked at."""

    asked = False

    def __eq__(self, other: object) -> bool:
        self.asked = True
        return False

    def __hash__(self) -> int:
        self.asked = True
        return -1


class _Lonely:
    """An execution without a connection: a default that wants one is refused."""

    @property
    def root_connection(self) -> NoReturn:
        refuse("a column's default runs a statement of its own, or looks at the connection")


def _defaults_context(dialect: Dialect, compiled: SQLCompiler) -> type[DefaultExecutionContext] | None:
    if not (compiled.insert_prefetch or compiled.update_prefetch):
        return None
    return type("DefaultsContext", (_Lonely, cast("type[Any]", dialect.execution_ctx_cls)), {"execution_options": {}})
