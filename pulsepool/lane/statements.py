"""SQLAlchemy Core statements for the direct lane: compiled once for each cache key, bounded."""

# ruff: noqa: SLF001 - compiling through SQLAlchemy's cache key has no public entry

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy.engine import Dialect
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.sql.compiler import WARN_LINTING, SQLCompiler
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.util import LRUCache

from pulsepool.lane.binds import Parameters
from pulsepool.lane.plans import Plan
from pulsepool.lane.refusals import (
    refuse,
    refuse_compiled,
    refuse_kind,
    refuse_many,
    refuse_options,
    refuse_parameters_of_entities,
)

_CAPACITY = 500
"""As many plans as SQLAlchemy's engine keeps compiled statements by default (`query_cache_size`)."""


class Prepared(NamedTuple):
    """A statement ready for `connection.fetch(sql, *arguments, record_class=plan.record_class)`.

    For an executemany, `arguments` has one list for each dictionary of parameters.
    """

    plan: Plan
    sql: str
    arguments: list[Any]


class Statements:
    """The plans of one engine. `dialect`: its asyncpg dialect, after its first connection. Plans are kept by use."""

    def __init__(self, dialect: Dialect, *, capacity: int = _CAPACITY) -> None:
        self._dialect = dialect
        self._plans: LRUCache[Any, Plan] = LRUCache(capacity)

    def __repr__(self) -> str:
        return f"<Statements plans={len(self._plans)}>"

    def prepare(self, statement: ClauseElement, parameters: Parameters | None = None) -> Prepared:
        """The plan, text and arguments of one execution.

        `parameters`: values for the statement's own `bindparam()`s, or the columns of an insert or update. Raises
        `ConfigurationError` for what the lane does not do, and what SQLAlchemy's compiler and a type's processors
        raise, as it is: only a session wraps the latter in a `StatementError`.
        """
        key = self._key(statement)
        columns: tuple[str, ...] = ()
        if parameters:
            refuse_parameters_of_entities(statement)
            columns = tuple(sorted(parameters))
        if key is None:
            plan, collected = self._compile(statement, columns)
            sql, arguments = plan.arguments(None, parameters, collected)
            return Prepared(plan, sql, arguments)
        plan = self._plans.get((key.key, columns)) or self._keep((key.key, columns), statement, columns)
        sql, arguments = plan.arguments(key.bindparams, parameters, key.params)
        return Prepared(plan, sql, arguments)

    def prepare_many(self, statement: ClauseElement, parameters: Sequence[Parameters]) -> Prepared:
        """The plan, text and arguments of an executemany; the first dictionary says which columns there are.

        Raises as `prepare` does, and `ConfigurationError` for a statement that returns rows, for an `in_()`, and for
        an empty sequence, for which SQLAlchemy would run the statement once without any values.
        """
        if not parameters:
            refuse("there are no parameters to run it with", "leave the call out when there is nothing to write")
        if len(parameters) == 1:
            plan, sql, arguments = self.prepare(statement, parameters[0])
            refuse_many(plan.compiled)
            return Prepared(plan, sql, [arguments])
        key = self._key(statement)
        refuse_parameters_of_entities(statement)
        columns = tuple(sorted(parameters[0]))
        if key is None:
            plan, collected = self._compile(statement, columns, many=True)
            return Prepared(plan, plan.sql, plan.many(None, parameters, collected))
        plan = self._plans.get((key.key, columns, True)) or self._keep(
            (key.key, columns, True), statement, columns, many=True
        )
        return Prepared(plan, plan.sql, plan.many(key.bindparams, parameters, key.params))

    @staticmethod
    def _key(statement: Any) -> CacheKey | None:
        """The cache key, which has the statement's structure but not its execution options, so those are seen first."""
        try:
            if options := statement._execution_options:
                refuse_options(options)
            return cast("CacheKey | None", statement._generate_cache_key())
        except AttributeError:
            refuse_kind(statement)  # a string, a class, a sequence
            raise

    def _keep(self, key: Any, statement: ClauseElement, columns: tuple[str, ...], *, many: bool = False) -> Plan:
        self._plans[key] = plan = self._compile(statement, columns, many=many)[0]
        return plan

    def _compile(
        self, statement: ClauseElement, columns: tuple[str, ...], *, many: bool = False
    ) -> tuple[Plan, Parameters | None]:
        """A plan, and the values that SQLAlchemy collected from a statement that has no cache key."""
        refuse_kind(statement)
        compiled, _, collected, _ = statement._compile_w_cache(
            self._dialect,
            compiled_cache={},
            column_keys=list(columns),
            for_executemany=many,
            linting=self._dialect.compiler_linting | WARN_LINTING,
        )
        compiled = cast("SQLCompiler", compiled)
        refuse_compiled(compiled)
        if many:
            refuse_many(compiled)
        return Plan(self._dialect, compiled, statement, frozenset(columns)), collected
