"""Which statements the direct lane refuses, and in what words: whatever it could not do just as SQLAlchemy does.

The rule is a list of what is known to be the same, so what a later SQLAlchemy adds is refused until looked at.
"""

# ruff: noqa: SLF001 - SQLAlchemy has no public way to ask a statement or its compiled form these questions

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from sqlalchemy import CompoundSelect, Delete, Insert, Select, TextClause, Update
from sqlalchemy.orm.context import _ColumnEntity
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement, ColumnClause, ColumnElement, Label

from pulsepool.errors import ConfigurationError

_KINDS = (Select, CompoundSelect, Insert, Update, Delete, TextClause)
_WITHOUT_EFFECT = frozenset({"compiled_cache", "logging_token", "preserve_rowcount"})
"""Execution options that change neither what is sent nor what comes back."""
_SESSION = "use db.session() or db.read() for it"


def refuse_kind(statement: object) -> None:
    """Raise `ConfigurationError` unless this is a select, insert, update, delete or `text()`, none of it an entity."""
    if not isinstance(statement, _KINDS):
        refuse(f"{type(statement).__name__} is no select(), insert(), update(), delete() or text()")
    if options := [type(option).__name__ for option in getattr(statement, "_with_options", ())]:
        refuse(f"the ORM's options are a session's business: {', '.join(options)}")
    if not is_orm(statement):
        return
    if isinstance(statement, Insert | Update | Delete):
        mapper = statement._propagate_attrs["plugin_subject"].mapper
        if mapper.inherits is not None or mapper.polymorphic_on is not None:
            refuse(f"writing {mapper.class_.__name__} is the ORM's work, as its table is part of an inheritance")
        for returned in statement._returning:
            if not isinstance(returned, ColumnElement) and (notes := returned._annotations):
                _refuse_entity(notes["parententity"].mapper.class_.__name__ if "parententity" in notes else "a bundle")
    elif isinstance(statement, Select):
        for column in statement.column_descriptions:
            if isinstance(column["type"], type):
                _refuse_entity(column["name"])


def _refuse_entity(name: str) -> None:
    refuse(f"{name} is an ORM entity, which only a session makes", "name the columns, or use db.session() or db.read()")


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` when an execution option means anything."""
    if meant := sorted(set(options) - _WITHOUT_EFFECT):
        refuse(f"the execution option {', '.join(meant)} has no effect here")


def refuse_parameters_of_entities(statement: ClauseElement) -> None:
    """Raise `ConfigurationError`: a session takes parameters beside an ORM write for rows to be written in bulk."""
    if is_orm(statement) and isinstance(statement, Insert | Update | Delete):
        table = statement._propagate_attrs["plugin_subject"].mapper.class_.__name__
        refuse(f"parameters beside a write to the ORM's {table} ask for its bulk write", f"write to {table}.__table__")


def refuse_compiled(compiled: SQLCompiler) -> None:
    """Raise `ConfigurationError` when the columns of the result are not known from the statement."""
    if compiled._textual_ordered_columns or not compiled._ordered_columns:
        refuse("text() or '*' stands among the columns, so their number and types are not known")


def refuse_many(compiled: SQLCompiler) -> None:
    """Raise `ConfigurationError` for what cannot be run for many dictionaries of parameters at once."""
    if compiled.literal_execute_params or compiled.post_compile_params:
        refuse("in_() and literal_execute parameters cannot be used with executemany")
    if compiled._result_columns and not compiled.implicit_returning:
        refuse("what returns rows cannot be used with executemany here", f"fetch them one by one, or {_SESSION}")
    if compiled.for_executemany and compiled._insertmanyvalues:
        refuse("the engine is set to rewrite this executemany into INSERTs of many rows")


def refuse_other_entities(entities: Sequence[Any], width: int) -> None:
    """Raise `ConfigurationError` unless each of the ORM's entities is one column, in the order of the statement."""
    if len(entities) != width or not all(isinstance(entity, _ColumnEntity) for entity in entities):
        refuse(
            "the ORM would put these rows together from several columns",
            "name the columns in another order, or use db.session() or db.read()",
        )


def names_returned(statement: Any) -> tuple[str, ...]:
    """The names that a session gives to what an ORM write returns; `ConfigurationError` unless each is plain."""
    columns = statement._all_selected_columns
    names = [
        str(column._annotations.get("proxy_key") or (column.name if isinstance(column, ColumnClause | Label) else ""))
        for column in columns
    ]
    if "" in names or len(set(names)) != len(names):
        refuse("its RETURNING has a column without a name of its own", "give each a name of its own with .label()")
    return tuple(names)


def is_orm(statement: Any) -> bool:
    """Whether the ORM takes part in compiling this statement."""
    return bool(statement._propagate_attrs.get("compile_state_plugin") == "orm")


def refuse(what: str, remedy: str = _SESSION) -> NoReturn:
    """Raise the `ConfigurationError` that says `what`."""
    raise ConfigurationError(f"the direct lane does not run this statement: {what}", hint=remedy)
