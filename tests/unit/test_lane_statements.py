"""Statements, binds and rows of the direct lane without a server: what is compiled, kept, found and named."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import InvalidRequestError

from pulsepool.errors import ConfigurationError
from pulsepool.lane import binds
from pulsepool.lane.plans import _Asked
from pulsepool.lane.rows import RecordRow, record_row, tuple_row
from pulsepool.lane.statements import Statements

docs = sa.Table(
    "docs",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.String),
    sa.Column("price", sa.Numeric),
    sa.Column("made", sa.Integer, default=lambda: 7),
)
doc = docs.c


class Looking(sa.types.UserDefinedType[Any]):
    """Has a processor for one of the server's types alone."""

    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "TEXT"

    def result_processor(self, dialect: Any, coltype: object) -> Any:
        return str if coltype == 25 else None


@pytest.fixture
def statements() -> Statements:
    return Statements(PGDialect_asyncpg())


def test_a_statement_is_sent_with_the_dialects_own_casts_and_its_values_in_their_places(statements: Statements) -> None:
    plan, sql, arguments = statements.prepare(sa.select(doc.id).where(doc.title == "x", doc.id > 3))
    assert " ".join(sql.split()) == (
        "SELECT docs.id FROM docs WHERE docs.title = $1::VARCHAR AND docs.id > $2::INTEGER"
    )
    assert arguments == ["x", 3]
    assert plan.returns_rows


def test_one_plan_serves_every_value_and_each_gets_its_own(statements: Statements) -> None:
    made = [statements.prepare(sa.select(doc.id).where(doc.id == n, doc.title == str(n))) for n in range(3)]
    assert len({id(each.plan) for each in made}) == 1
    assert [each.arguments for each in made] == [[0, "0"], [1, "1"], [2, "2"]]


def test_lengths_of_in_are_remembered_and_their_number_is_bounded(statements: Statements) -> None:
    for n in [*range(1, binds._SHAPES + 10), 3]:
        plan, sql, arguments = statements.prepare(sa.select(doc.id).where(doc.id.in_(range(n)), doc.title == "x"))
        assert arguments == ["x", *range(n)]
        assert sql.count("::INTEGER") == n
        assert plan._expansions is not None
        assert 0 < len(plan._expansions._shapes) <= binds._SHAPES


def test_a_length_met_before_is_not_left_to_the_compiler(
    statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = sa.bindparam("some", expanding=True)
    statement = sa.select(doc.id).where(doc.id.in_(some), doc.title.in_(["a", "b"]))
    first = statements.prepare(statement, {"some": [1, 2]})
    monkeypatch.setattr(first.plan, "_constructed", None)
    assert statements.prepare(statement, {"some": (3, 4)})[1:] == (first.sql, [3, 4, "a", "b"])
    with pytest.raises(TypeError, match="not callable"):
        statements.prepare(statement, {"some": [3]})


@pytest.mark.parametrize("values", [[], [(1, 2)], [[1]], {1, 2}, range(2)])
def test_lists_that_are_rendered_otherwise_than_by_length_are_not_remembered(
    statements: Statements, values: Any
) -> None:
    some = sa.bindparam("some", expanding=True)
    statement = sa.select(doc.id).where(sa.literal_column("x").in_(some))
    plan = statements.prepare(statement, {"some": ["a"]}).plan
    assert plan._expansions is not None
    assert list(plan._expansions._shapes) == [(1,)]
    assert plan._expansions.lengths(plan.compiled, [], {"some": values}) == ()


def test_the_key_of_a_parameter_may_be_a_columns_quoted_name(statements: Statements) -> None:
    _, sql, arguments = statements.prepare_many(sa.insert(docs), [{"title": "a", "id": 1}, {"id": 2, "title": "b"}])
    assert "(id, title, made) VALUES ($1::INTEGER, $2::VARCHAR, $3::INTEGER)" in sql
    assert arguments == [[1, "a", 7], [2, "b", 7]]


def test_tuples_and_literal_values_are_always_the_compilers(statements: Statements) -> None:
    pairs = sa.tuple_(doc.id, doc.title).in_([(1, "a")])
    literal = doc.id.in_(sa.bindparam("x", [1, 2], expanding=True, literal_execute=True))
    for condition, arguments in ((pairs, [1, "a"]), (literal, [])):
        prepared = statements.prepare(sa.select(doc.id).where(condition))
        assert prepared.plan._expansions is None
        assert prepared.arguments == arguments


def test_an_executemany_of_one_may_have_a_key_that_sqlalchemy_would_fetch(statements: Statements) -> None:
    assert statements.prepare_many(sa.insert(docs), [{"title": "a"}]).arguments == [["a", 7]]


def test_an_engine_that_rewrites_executemany_is_refused() -> None:
    dialect = PGDialect_asyncpg()
    dialect.use_insertmanyvalues_wo_returning = True
    with pytest.raises(ConfigurationError, match="set to rewrite this executemany"):
        Statements(dialect).prepare_many(sa.insert(docs), [{"title": "a"}, {"title": "b"}])


def test_a_default_is_computed_for_each_execution() -> None:
    numbers = iter(range(10))
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("n", sa.Integer, default=lambda: next(numbers)), sa.Column("x", sa.Integer)
    )
    statements = Statements(PGDialect_asyncpg())
    assert [statements.prepare(sa.insert(table).values(x=5)).arguments for _ in range(2)] == [[0, 5], [1, 5]]
    assert statements.prepare_many(sa.insert(table), [{"x": 8}, {"x": 9}]).arguments == [[2, 8], [3, 9]]


def test_an_insert_whose_key_sqlalchemy_fetches_for_itself_gives_no_rows(statements: Statements) -> None:
    plan, sql, _ = statements.prepare(sa.insert(docs).values(title="x"))
    assert sql.endswith("RETURNING docs.id")
    assert not plan.returns_rows
    assert plan.rows([object()]) == []  # type: ignore[list-item] # whatever came


def test_only_columns_whose_values_or_width_depend_on_the_server_are_described_first(statements: Statements) -> None:
    told = {
        "plain": sa.select(doc.id, doc.title),
        "numeric": sa.select(doc.id, doc.price),
        "enum": sa.select(sa.cast("a", sa.Enum("a", name="e"))),
        "literal": sa.select(sa.literal_column("1, 2")),
        "uuid": sa.select(sa.literal(None, sa.Uuid())),
        "uuid as text": sa.select(sa.literal(None, sa.Uuid(as_uuid=False))),
        "a type that looks": sa.select(sa.literal(None, Looking())),
        "text": sa.text("select 1"),
    }
    undescribed = {name for name, statement in told.items() if statements.prepare(statement).plan.undescribed}
    assert undescribed == {"numeric", "enum", "literal", "uuid as text", "a type that looks"}


@pytest.mark.parametrize("look", [lambda t: t == 5, lambda t: t in (1, 2), lambda t: t in {1, 2}, {1: 2}.get])
def test_a_type_that_is_looked_at_remembers_it(look: Any) -> None:
    asked = _Asked()
    assert not asked.asked
    look(asked)
    assert asked.asked


def test_a_refusal_names_the_thing_and_the_remedy(statements: Statements) -> None:
    with pytest.raises(ConfigurationError) as refused:
        statements.prepare(sa.select(doc.id).execution_options(yield_per=5, logging_token="x"))
    assert str(refused.value) == (
        "the direct lane does not run this statement: the execution option yield_per has no effect here\n"
        "  hint: use db.session() or db.read() for it"
    )
    for not_one in (None, 5, "select 1", doc.id, sa.Sequence("s"), object):
        for parameters in (None, {"x": 1}):
            with pytest.raises(ConfigurationError, match="is no select"):
                statements.prepare(not_one, parameters)  # type: ignore[arg-type]


def test_a_row_of_processed_values_is_a_tuple_with_names() -> None:
    row = tuple_row(["id", "title"], {"id": 0, "title": 1, "alias": 1})((5, "x"))
    assert (row.id, row.title, row.alias, row[0], row["title"], row[-1], row[:1]) == (5, "x", "x", 5, "x", "x", (5,))
    assert dict(row) == {"id": 5, "title": "x"}
    assert row == (5, "x")
    assert hash(row) == hash((5, "x"))
    assert repr(row) == "<Row id=5 title='x'>"
    assert ("id" in row, "x" in row, "alias" in row) == (True, False, False)
    assert row.get("nix", 1) == 1
    for read, error in (
        (lambda: row["alias"], KeyError),
        (lambda: row.nix, AttributeError),
        (lambda: row[2], IndexError),
    ):
        with pytest.raises(error):
            read()
    with pytest.raises(AttributeError):
        row.title = "y"


def test_names_that_are_a_rows_own_are_reached_by_index_or_as_a_mapping_alone() -> None:
    names = ["keys", "items", "count", "index", "__len__", "_names", "_positions"]
    row = tuple_row(names, {name: at for at, name in enumerate(names)})(range(7))
    assert (list(row.keys()), len(row), row.count, row.index) == (names, 7, 2, 3)
    assert [row[name] for name in names] == list(range(7))
    shadowed = {"keys", "values", "items", "get", "__len__"}
    assert shadowed.isdisjoint(vars(record_row(dict.fromkeys(shadowed | {"x"}, 0))))


def test_a_name_of_several_columns_is_ambiguous_and_the_rest_are_not() -> None:
    row = tuple_row(["x", "x", "y"], {"x": None, "y": 2})((1, 2, 3))
    assert (row.y, row["y"], tuple(row)) == (3, 3, (1, 2, 3))
    for read in (lambda: row.x, lambda: row["x"], lambda: dict(row)):
        with pytest.raises(InvalidRequestError, match="Ambiguous column name 'x'"):
            read()


def test_rows_of_the_same_names_share_one_class_so_that_the_driver_prepares_once() -> None:
    assert record_row({"a": 0, "b": 1}) is record_row({"a": 0, "b": 1})
    assert record_row({"a": 0}) is not record_row({"b": 0})
    assert issubclass(record_row({"a": 0}), RecordRow)
    one, two = (Statements(PGDialect_asyncpg()).prepare(sa.select(doc.id + 1, sa.func.count())).plan for _ in range(2))
    assert one is not two
    assert one.record_class is two.record_class
