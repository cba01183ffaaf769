"""What the direct lane makes of a statement is what SQLAlchemy makes of it, value by value and type by type."""

import asyncio
import dataclasses
import datetime as dt
import enum
import random
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    aliased,
    composite,
    load_only,
    mapped_column,
    with_loader_criteria,
)
from sqlalchemy.schema import CreateTable

from pulsepool.embedded import EmbeddedPostgres
from pulsepool.errors import ConfigurationError
from pulsepool.lane.rows import RecordRow, TupleRow
from pulsepool.lane.statements import Statements


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Shouted(sa.TypeDecorator[str]):
    """Kept in upper case, given back in lower."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


class Cents(sa.TypeDecorator[int]):
    """A processor on top of one that looks at the server's type."""

    impl = sa.Numeric(10, 2)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> Decimal | None:
        return None if value is None else Decimal(value) / 100

    def process_result_value(self, value: Any, dialect: Any) -> int | None:
        return None if value is None else int(value * 100)


class Wrapped(sa.types.UserDefinedType[str]):
    """Bound and read through functions of the server."""

    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "TEXT"

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.reverse(bindvalue, type_=sa.String)

    def column_expression(self, column: Any) -> Any:
        return sa.func.reverse(column, type_=self)


class Base(DeclarativeBase):
    pass


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column("doc_title")
    made: Mapped[int] = mapped_column(default=7)


class Report(Doc):
    __tablename__ = "reports"
    id: Mapped[int] = mapped_column(sa.ForeignKey("docs.id"), primary_key=True)


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Spot(Base):
    __tablename__ = "spots"
    id: Mapped[int] = mapped_column(primary_key=True)
    point: Mapped[Point] = composite(mapped_column("x"), mapped_column("y"))


class Animal(Base):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Cat(Animal):
    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012


meta = sa.MetaData()
TYPES: dict[str, tuple[Any, list[Any]]] = {
    "small": (sa.SmallInteger(), [1, None]),
    "big": (sa.BigInteger(), [2**40, -1]),
    "flag": (sa.Boolean(), [True, None]),
    "word": (sa.String(), ["x", "ü"]),
    "char": (sa.CHAR(3), ["abc", "x"]),
    "body": (sa.Text(), ["", "long"]),
    "ratio": (sa.Float(), [1.5, None]),
    "precise": (sa.Float(asdecimal=True), [Decimal("1.25"), None]),
    "double": (sa.Double(), [1e300, 0.1]),
    "price": (sa.Numeric(10, 2), [Decimal("9.90"), Decimal(0)]),
    "loose": (sa.Numeric(10, 2, asdecimal=False), [9.9, None]),
    "uid": (sa.Uuid(), [uuid.UUID(int=5), None]),
    "uid_text": (sa.Uuid(as_uuid=False), [str(uuid.UUID(int=6)), None]),
    "pg_uid_text": (pg.UUID(as_uuid=False), [str(uuid.UUID(int=6)), None]),
    "colour": (sa.Enum(Colour), [Colour.RED, None]),
    "colour_value": (sa.Enum(Colour, name="by_value", values_callable=lambda e: [c.value for c in e]), [Colour.GREEN]),
    "colour_text": (sa.Enum("a", "b", name="ab", native_enum=False), ["a", "b"]),
    "json": (sa.JSON(), [{"a": [1, None]}, [], None]),
    "jsonb": (pg.JSONB(none_as_null=True), [{"a": 1.5}, "text", None]),
    "day": (sa.Date(), [dt.date(2026, 1, 2)]),
    "clock": (sa.Time(), [dt.time(3, 4, 5)]),
    "naive": (sa.DateTime(), [dt.datetime(2026, 1, 2, 3)]),  # noqa: DTZ001 - the very thing
    "aware": (sa.DateTime(timezone=True), [dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))]),
    "span": (sa.Interval(), [dt.timedelta(days=1, seconds=5)]),
    "pg_span": (pg.INTERVAL(precision=3), [dt.timedelta(hours=1)]),
    "blob": (sa.LargeBinary(), [b"\x00\xff"]),
    "array": (sa.ARRAY(sa.Integer), [[1, 2, None], []]),
    "grid": (pg.ARRAY(sa.Integer, dimensions=2), [[[1, 2], [3, 4]]]),
    "tuples": (pg.ARRAY(sa.String, as_tuple=True), [["a", "b"]]),
    "colours": (pg.ARRAY(sa.Enum(Colour, name="array_colour")), [[Colour.RED, Colour.GREEN]]),
    "range": (pg.INT4RANGE(), [pg.Range(1, 5)]),
    "ranges": (pg.INT4MULTIRANGE(), [[pg.Range(1, 5), pg.Range(7, 9)]]),
    "inet": (pg.INET(), ["10.0.0.1"]),
    "bits": (pg.BIT(4), [pg.BitString("0101")]),
    "shouted": (Shouted(), ["Hello", None]),
    "cents": (Cents(), [990, None]),
    "wrapped": (Wrapped(), ["abc"]),
    "pickled": (sa.PickleType(), [{"a": (1, 2)}]),
    "variant": (sa.String().with_variant(pg.CITEXT(), "sqlite"), ["v"]),
}
TABLES = {
    name: sa.Table(f"type_{name}", meta, sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", type_))
    for name, (type_, _) in TYPES.items()
}
users = sa.Table(
    "users",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("login", sa.String, key="name"),
    sa.Column("colour", sa.Enum(Colour, name="users_colour"), default=Colour.GREEN),
    sa.Column("balance", sa.Numeric(12, 2), default=lambda: Decimal("1.50")),
    sa.Column("tag", sa.String, default=lambda context: f"tag-{context.get_current_parameters()['name']}"),
    sa.Column("seen", sa.Integer, server_default="3", onupdate=lambda: 9),
)
orders = sa.Table(
    "orders",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer),
    sa.Column("total", sa.Numeric(12, 2)),
    sa.Column("keys", sa.String),
)
asking = sa.Table(
    "asking",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("x", sa.Integer, default=lambda context: context.connection.scalar(sa.select(sa.literal(1)))),
)


class Both:
    """The same statement through SQLAlchemy and on the lane, over one driver connection."""

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection) -> None:
        self.connection, self.driver = connection, driver
        self.statements = Statements(connection.dialect)

    async def lane(self, statement: Any, parameters: Any = None) -> list[Any]:
        plan, sql, arguments = self.statements.prepare(statement, parameters)
        if plan.undescribed:
            await plan.describe(self.driver, sql)
        return list(plan.rows(await self.driver.fetch(sql, *arguments, record_class=plan.record_class)))

    async def alchemy(self, statement: Any, parameters: Any = None, *, session: bool = False) -> list[Any]:
        whose: Any = AsyncSession(self.connection) if session else self.connection
        result = await whose.execute(statement, parameters)
        return list(result.all()) if getattr(result, "returns_rows", True) else []

    async def agree(self, make: Callable[[], Any], parameters: Any = None, *, session: bool = False) -> list[Any]:
        """Each way in a transaction of its own, undone, and the lane twice: compiled, and then from its plans."""
        expected = await self.undone(lambda: self.alchemy(make(), parameters, session=session))
        for _ in range(2):
            found = await self.undone(lambda: self.lane(make(), parameters))
            assert len(found) == len(expected)
            for ours, theirs in zip(found, expected, strict=True):
                assert tuple(ours) == tuple(theirs)
                assert [type(value) for value in ours] == [type(value) for value in theirs]
                assert list(ours.keys()) == list(theirs._mapping.keys())
                names = list(theirs._mapping.keys())
                if len(set(names)) == len(names):
                    assert dict(ours) == dict(theirs._mapping)
                for name in theirs._key_to_index:
                    if isinstance(name, str) and name.isidentifier() and name not in {"keys", "items", "values", "get"}:
                        assert getattr(ours, name) == theirs._mapping[name]
        return found

    async def undone(self, work: Callable[[], Any]) -> Any:
        await self.driver.execute("begin")
        try:
            return await work()
        finally:
            await self.driver.execute("rollback")


@pytest.fixture(scope="module")
def filled(pg_server: EmbeddedPostgres) -> Iterator[str]:
    """A database with all of the tables; whatever a test does to it is undone."""
    pg_server.create_database("lane")
    url = pg_server.url("lane").replace("postgresql://", "postgresql+asyncpg://")

    async def fill() -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(meta.create_all)
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(users.insert(), [{"id": n, "name": f"u{n}"} for n in range(1, 6)])
            await connection.execute(users.update().where(users.c.id == 2).values(colour=None, tag=None))
            rows = [{"id": n, "user_id": n % 3, "total": n, "keys": f"k{n}"} for n in range(1, 8)]
            await connection.execute(orders.insert(), rows)
            await connection.execute(sa.insert(Doc.__table__), [{"id": n, "doc_title": f"d{n}"} for n in range(1, 4)])
            await connection.execute(sa.insert(Cat.__table__).values(kind="cat"))
            for table in ("users", "orders", "docs"):
                await connection.execute(sa.text(f"select setval('{table}_id_seq', 1000)"))
        await engine.dispose()

    asyncio.run(fill())
    yield url
    pg_server.drop_database("lane", force=True)


@pytest.fixture
async def both(filled: str) -> AsyncIterator[Both]:
    engine = create_async_engine(filled, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        assert isinstance(raw.driver_connection, asyncpg.Connection)
        yield Both(connection, raw.driver_connection)
    await engine.dispose()


@pytest.mark.parametrize("name", TYPES)
async def test_a_type_is_bound_and_read_as_sqlalchemy_does(both: Both, name: str) -> None:
    table, values = TABLES[name], TYPES[name][1]
    for value in values:
        statement = sa.insert(table).values(id=100, v=value).returning(table.c.v, table)
        await both.agree(lambda: statement)  # noqa: B023 - called at once
        await both.lane(sa.insert(table).values(v=value))
    assert len(await both.agree(lambda: sa.select(table).order_by(table.c.id))) == len(values)
    if name != "json":  # which has no equality
        await both.agree(lambda: sa.select(table.c.v).where(table.c.v == values[0]))
        await both.agree(lambda: sa.select(table.c.id).where(table.c.v.in_(values)))
        await both.agree(lambda: sa.select(sa.literal(values[0], TYPES[name][0]).label("x")))


user, order = users.c, orders.c
recent = sa.select(order.user_id, sa.func.sum(order.total).label("spent")).group_by(order.user_id).cte("recent")
STATEMENTS: dict[str, Callable[[], Any]] = {
    "all columns": lambda: sa.select(users).order_by(user.id),
    "no rows": lambda: sa.select(users).where(user.id == 99),
    "a bind": lambda: sa.select(user.id, user.name).where(user.id == 3),
    "a bind used twice": lambda: sa.select(user.id).where(
        sa.or_(user.id == sa.bindparam("x", 2), user.id > sa.bindparam("x", 2))
    ),
    "a callable bind": lambda: sa.select(user.id).where(user.id == sa.bindparam("x", callable_=lambda: 4)),
    "in": lambda: sa.select(user.id, user.name).where(user.id.in_([1, 3, 99])),
    "in with another length": lambda: sa.select(user.id, user.name).where(user.id.in_([1])),
    "in nothing": lambda: sa.select(user.id).where(user.id.in_([])),
    "not in nothing": lambda: sa.select(user.id).where(user.id.not_in([])),
    "in between binds": lambda: (
        sa.select(user.id).where(user.id > 0, user.id.in_([1, 2, 3]), user.name != "u2").limit(2)
    ),
    "two ins": lambda: sa.select(user.id).where(user.id.in_([1, 2, 3]), user.name.in_(["u2", "u3"])),
    "one list in two places": lambda: sa.select(user.id).where(
        sa.or_(
            user.id.in_(ids := sa.bindparam("ids", [1, 2, 7], expanding=True)), user.id + 5 == sa.any_(pg.array([9]))
        ),
        user.id.not_in(sa.select(order.id).where(order.id.in_(ids), order.user_id == 2)),
    ),
    "in of an update": lambda: sa.update(orders).where(order.id.in_([1, 2])).values(keys="x").returning(orders),
    "in of an update with a default": lambda: (
        sa.update(users).where(user.id.in_([1, 2])).values(name="x").returning(users)
    ),
    "in of enums": lambda: sa.select(user.id).where(user.colour.in_([Colour.GREEN, Colour.RED])),
    "in of tuples": lambda: sa.select(user.id).where(sa.tuple_(user.id, user.name).in_([(1, "u1"), (2, "x")])),
    "in a wrapped type": lambda: sa.select(TABLES["wrapped"].c.id).where(TABLES["wrapped"].c.v.in_(["a", "b"])),
    "in literally": lambda: sa.select(user.id).where(
        user.id.in_(sa.bindparam("x", [1, 2], expanding=True, literal_execute=True))
    ),
    "a literal bind": lambda: sa.select(user.id).where(
        user.id == sa.bindparam("x", 4, sa.Integer, literal_execute=True)
    ),
    "a percent sign": lambda: sa.select(user.id, sa.literal_column("'100%'").label("p")).where(user.name.like("u%")),
    "a join": lambda: sa.select(users, orders).join_from(users, orders, user.id == order.user_id).order_by(order.id),
    "the same column twice": lambda: sa.select(user.id, user.id, user.id.label("again")),
    "two columns of one name": lambda: sa.select(user.id.label("x"), user.name.label("x")),
    "two labels, one converted": lambda: sa.select(user.id.label("x"), user.colour.label("x"), user.name),
    "a label like another column's long name": lambda: sa.select(user.name.label("orders_id"), order.id).join_from(
        users, orders, user.id == order.id
    ),
    "an expression": lambda: sa.select(user.id + 1, user.name.is_(None), -user.balance, sa.func.lower(user.name)),
    "without a label": lambda: sa.select(sa.literal_column("1 + 1"), user.id),
    "count": lambda: sa.select(sa.func.count()).select_from(users),
    "a name that is a method": lambda: sa.select(orders).order_by(order.id),
    "case": lambda: sa.select(sa.case((user.id > 2, "many"), else_="few").label("c"), sa.cast(user.id, sa.String)),
    "a cte": lambda: sa.select(recent.c.spent, user.name).join_from(recent, users, recent.c.user_id == user.id),
    "a subquery": lambda: sa.select(user.id).where(user.id.in_(sa.select(order.user_id).where(order.total > 2))),
    "a union": lambda: sa.union_all(sa.select(user.id, user.colour), sa.select(order.id, sa.null())).order_by("id"),
    "window": lambda: sa.select(user.id, sa.func.row_number().over(order_by=user.id.desc()).label("n")),
    "exists": lambda: sa.select(sa.exists().where(user.id == 1)),
    "values": lambda: sa.select(sa.values(sa.column("a", sa.Integer), name="v").data([(1,), (2,)])),
    "limit and offset": lambda: sa.select(user.id).order_by(user.id).limit(2).offset(1),
    "for update": lambda: sa.select(user.id).where(user.id == 1).with_for_update(skip_locked=True),
    "json path": lambda: sa.select(sa.literal({"a": {"b": 1}}, pg.JSONB)["a", "b"].as_integer()),
    "coerced": lambda: sa.select(sa.type_coerce(user.name, Shouted)),
    "text": lambda: sa.text("select id, login from users where id > :x order by id").bindparams(x=2),
    "text without rows": lambda: sa.text("update users set login = 'x' where id = :x").bindparams(x=2),
    "text of two names": lambda: sa.text("select 1 as x, 2 as x"),
    "text with in": lambda: sa.text("select id from users where id in :x").bindparams(
        sa.bindparam("x", [1, 2], expanding=True)
    ),
    "insert": lambda: sa.insert(users).values(name="new"),
    "insert returning": lambda: sa.insert(users).values(id=70, name="new").returning(users),
    "insert of nothing": lambda: sa.insert(orders).returning(order.total, order["keys"]),
    "insert of expressions": lambda: (
        sa.insert(users).values(id=sa.func.abs(-71), name=sa.func.upper("a"), tag=None).returning(users)
    ),
    "insert of many": lambda: (
        sa.insert(users).values([{"id": 70, "name": "a"}, {"id": 71, "name": "b"}]).returning(users)
    ),
    "insert from select": lambda: (
        sa.insert(orders).from_select(["user_id"], sa.select(user.id)).returning(order.user_id)
    ),
    "insert return_defaults": lambda: sa.insert(orders).values(keys="x").return_defaults(),
    "upsert": lambda: (
        pg.insert(users)
        .values(id=1, name="up")
        .on_conflict_do_update(index_elements=[user.id], set_={"name": "was", "seen": 5})
        .returning(users)
    ),
    "upsert of nothing": lambda: pg.insert(users).values(id=1, name="up").on_conflict_do_nothing().returning(user.id),
    "update": lambda: sa.update(users).where(user.id == 2).values(name="x", balance=user.balance * 2).returning(users),
    "update from": lambda: (
        sa.update(users)
        .where(user.id == order.user_id, order.id == 2)
        .values(tag=order["keys"])
        .returning(user.id, user.tag)
    ),
    "delete": lambda: sa.delete(users).where(user.id.in_([1, 2])).returning(user.id, user.colour),
    "delete without returning": lambda: sa.delete(users).where(user.id == 1),
    "dml in a cte": lambda: sa.select(sa.delete(users).where(user.id < 3).returning(user.name).cte("gone")),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_core_statement_gives_what_sqlalchemy_gives(both: Both, name: str) -> None:
    await both.agree(STATEMENTS[name])


OTHER = aliased(Doc)


async def test_random_statements_in_turn_never_get_each_others_values_names_or_types(both: Both) -> None:
    chance = random.Random(20)  # noqa: S311 - the same statements in every run
    columns = [
        *users.c,
        *(column.label(f"{column.name}_") for column in users.c),
        user.id + 1,
        sa.func.upper(user.name),
    ]
    conditions: list[Callable[[], Any]] = [
        lambda: user.id.in_(chance.sample(range(9), chance.randint(0, 4))),
        lambda: user.id > chance.randint(0, 5),
        lambda: user.colour == chance.choice(list(Colour)),
        lambda: user.colour.in_(chance.sample(list(Colour), chance.randint(1, 2))),
        lambda: user.balance < Decimal(chance.randint(0, 9)),
        lambda: sa.tuple_(user.id, user.name).in_([(n, f"u{n}") for n in range(chance.randint(1, 3))]),
        lambda: user.name != f"u{chance.randint(1, 5)}",
    ]
    lengths = set()
    for _ in range(250):
        chosen = [make() for make in chance.sample(conditions, chance.randint(0, 3))]
        statement = sa.select(*chance.sample(columns, chance.randint(1, 4))).where(*chosen).order_by(user.id)
        lengths.add(len(await both.agree(lambda: statement)))  # noqa: B023 - called at once
    assert len(lengths) > 3
    assert len(both.statements._plans) > 100


ORM_STATEMENTS: dict[str, Callable[[], Any]] = {
    "attributes": lambda: sa.select(Doc.id, Doc.title).where(Doc.id == 2),
    "attributes by another table": lambda: sa.select(Doc.title, user.id, user.colour).join_from(
        Doc, users, Doc.id == user.id
    ),
    "an alias": lambda: sa.select(Doc.id, OTHER.id, OTHER.title).join_from(Doc, OTHER, Doc.id == OTHER.id),
    "the same twice": lambda: sa.select(Doc.id, Doc.id),
    "a label": lambda: sa.select(Doc.title.label("t"), sa.func.count(Doc.id)).group_by(Doc.title),
    "only a function": lambda: sa.select(sa.func.max(Doc.id)),
    "a filter on attributes": lambda: sa.select(user.id).where(user.id.in_(sa.select(Doc.id).where(Doc.title != "d1"))),
    "a union": lambda: sa.union(sa.select(Doc.id, Doc.title), sa.select(Doc.made, Doc.title)),
    "a union of entities": lambda: sa.union(sa.select(Doc), sa.select(Doc)),
    "one name twice": lambda: sa.select(Doc.title.label("x"), Doc.id.label("x")),
    "returning an expression": lambda: sa.delete(Doc).returning((Doc.id + 1).label("n"), Doc.title.label("t")),
    "returning a table": lambda: sa.delete(Doc).returning(Doc.__table__),
    "from a subquery of entities": lambda: sa.select(sa.select(Doc).subquery()),
    "an exists": lambda: sa.select(sa.exists(sa.select(Doc)).label("e")),
    "an inherited class": lambda: sa.select(Cat.id, Cat.kind),
    "insert": lambda: sa.insert(Doc).values(title="new"),
    "insert returning": lambda: sa.insert(Doc).values(id=50, title="new").returning(Doc.id, Doc.title, Doc.made),
    "update": lambda: sa.update(Doc).where(Doc.id == 1).values(title="x"),
    "update returning": lambda: sa.update(Doc).where(Doc.id == 1).values({Doc.title: "x"}).returning(Doc.title, Doc.id),
    "delete": lambda: sa.delete(Doc).where(Doc.title.in_(["d1", "d2"])).returning(Doc.id),
}


@pytest.mark.parametrize("name", ORM_STATEMENTS)
async def test_a_statement_of_orm_attributes_gives_what_a_session_gives(both: Both, name: str) -> None:
    await both.agree(ORM_STATEMENTS[name], session=True)


async def test_values_of_bindparams_are_given_beside_the_statement(both: Both) -> None:
    x, some = sa.bindparam("x"), sa.bindparam("some", expanding=True)
    one = sa.select(user.id, user.colour).where(user.id == x)
    assert [row.id for row in await both.agree(lambda: one, {"x": 3, "unused": 1})] == [3]
    for ids in ([1, 2], [4, 5], [3], []):
        rows = await both.agree(lambda: sa.select(user.id).where(user.id.in_(some), user.id > x), {"some": ids, "x": 1})
        assert sorted(row.id for row in rows) == [each for each in ids if each > 1]
    await both.agree(
        lambda: sa.select(user.id).where(user.colour == sa.bindparam("c", type_=user.colour.type)), {"c": Colour.RED}
    )
    await both.agree(lambda: sa.text("select id from users where id = :x"), {"x": 2})
    await both.agree(lambda: sa.insert(users).returning(users), {"id": 90, "name": "n"})
    await both.agree(lambda: one.params(x=4))
    kept = sa.select(user.id).where(user.id == sa.bindparam("x", 2))
    listed = sa.select(user.id).where(user.id.in_(sa.bindparam("x", [1, 2], expanding=True)))
    for _ in range(2):
        assert await both.agree(lambda: kept) == [(2,)]
        assert await both.agree(lambda: kept.params(x=4)) == [(4,)]
        assert len(await both.agree(lambda: listed)) == 2
        assert await both.agree(lambda: listed.params(x=[3, 9])) == [(3,)]
    with pytest.raises(InvalidRequestError, match="value is required for bind parameter 'x'"):
        both.statements.prepare(one)
    with pytest.raises(InvalidRequestError, match="value is required for bind parameter 'x'"):
        both.statements.prepare(one, {"y": 1})


async def test_the_same_text_with_other_values_is_compiled_once(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    compiler = both.connection.dialect.statement_compiler
    monkeypatch.setattr(
        compiler, "__init__", lambda *a, _init=compiler.__init__, **k: (compiled.append(a), _init(*a, **k))[1]
    )
    plans = {id(both.statements.prepare(sa.select(user.id).where(user.id == n)).plan) for n in range(5)}
    assert (len(plans), len(compiled)) == (1, 1)
    values = [both.statements.prepare(sa.select(user.id).where(user.id.in_(range(n)))).arguments for n in (1, 2, 3, 2)]
    assert values == [[0], [0, 1], [0, 1, 2], [0, 1]]
    assert len(compiled) == 2


async def test_no_more_plans_are_kept_than_its_capacity(both: Both) -> None:
    statements = Statements(both.connection.dialect, capacity=10)
    for n in range(100):
        statements.prepare(sa.select(user.id.label(f"x{n}")))
    assert repr(statements) == f"<Statements plans={len(statements._plans)}>"
    assert 10 <= len(statements._plans) <= 15  # SQLAlchemy's own margin of a half


which = sa.bindparam("which")
MANY: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "insert": (sa.insert(users), [{"id": 80 + n, "name": f"n{n}", "colour": Colour.RED} for n in range(3)]),
    "insert of one": (sa.insert(users), [{"id": 80, "name": "n"}]),
    "insert of processed values": (sa.insert(TABLES["cents"]), [{"id": n, "v": n} for n in range(70, 75)]),
    "update": (sa.update(users).where(user.id == which), [{"which": n, "name": f"w{n}"} for n in (1, 2)]),
    "delete": (sa.delete(users).where(user.id == which), [{"which": n} for n in (1, 2)]),
    "upsert": (pg.insert(users).on_conflict_do_nothing(), [{"id": n, "name": "x"} for n in (1, 99)]),
}


@pytest.mark.parametrize("name", MANY)
async def test_executemany_writes_what_sqlalchemy_writes(both: Both, name: str) -> None:
    statement, parameters = MANY[name]

    async def table() -> list[Any]:
        return await both.alchemy(sa.select(statement.table).order_by(statement.table.c.id))

    async def after_alchemy() -> list[Any]:
        await both.connection.execute(statement, parameters)
        return await table()

    async def after_lane() -> list[Any]:
        _, sql, arguments = both.statements.prepare_many(statement, parameters)
        await both.driver.executemany(sql, arguments)
        return await table()

    before, expected = await table(), await both.undone(after_alchemy)
    assert await both.undone(after_lane) == expected != before


async def test_a_dictionary_that_lacks_a_column_is_named_as_sqlalchemy_names_it(both: Both) -> None:
    with pytest.raises(InvalidRequestError, match="value is required for bind parameter 'name'"):
        both.statements.prepare_many(sa.insert(users), [{"id": 1, "name": "a"}, {"id": 2}])


async def test_records_are_handed_on_untouched_where_nothing_is_to_be_done_to_them(both: Both) -> None:
    for column in (user.name, user.balance):  # the second is described before it is known
        plan, sql, arguments = both.statements.prepare(sa.select(user.id, column).where(user.id == 1))
        if plan.undescribed:
            await plan.describe(both.driver, sql)
        records = await both.driver.fetch(sql, *arguments, record_class=plan.record_class)
        assert plan.rows(records) is records
        assert isinstance(records[0], RecordRow)


@pytest.mark.parametrize("converted", [False, True])
async def test_a_row_is_read_by_attribute_by_index_and_as_a_mapping(both: Both, *, converted: bool) -> None:
    column = user.colour if converted else user.tag
    (row,) = await both.lane(
        sa.select(user.id, column, order["keys"]).join_from(users, orders, user.id == order.id).where(user.id == 1)
    )
    value = Colour.GREEN if converted else "tag-u1"
    assert isinstance(row, TupleRow if converted else RecordRow)
    assert (row.id, row[1], row[column.name], getattr(row, column.name), row[-1]) == (1, value, value, value, "k1")
    assert dict(row) == {"id": 1, column.name: value, "keys": "k1"}
    assert tuple(row) == row[:] == (1, value, "k1") == row
    assert list(row.keys()) == ["id", column.name, "keys"]
    assert list(row.values()) == [1, value, "k1"]
    assert list(row.items()) == list(zip(row.keys(), row.values(), strict=True))
    assert (row["keys"], row.get("keys"), row.get("none"), row.get("none", 5)) == ("k1", "k1", None, 5)
    assert "id" in row
    assert "k1" not in row
    assert repr(row) == f"<Row id=1 {column.name}={value!r} keys='k1'>"
    assert hash(row) == hash((1, value, "k1"))
    with pytest.raises(KeyError, match="nix"):
        row["nix"]
    with pytest.raises(AttributeError, match=f"no column 'nix', but id, {column.name}, keys"):
        row.nix  # noqa: B018
    with pytest.raises(IndexError):
        row[3]


async def test_a_name_that_two_columns_share_is_ambiguous(both: Both) -> None:
    for column in (user.name, user.colour):
        (row,) = await both.lane(sa.select(user.id.label("x"), column.label("x")).where(user.id == 1))
        for read in (lambda row: row.x, lambda row: row["x"]):
            with pytest.raises(InvalidRequestError, match="Ambiguous column name 'x'"):
                read(row)


class Unkeyed(sa.types.UserDefinedType[str]):
    cache_ok = False

    def get_col_spec(self, **kw: Any) -> str:
        return "TEXT"


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an entity": (lambda: sa.select(Doc), "Doc is an ORM entity"),
    "an aliased entity": (lambda: sa.select(OTHER), "is an ORM entity"),
    "an entity beside a column": (lambda: sa.select(Doc.id, Doc), "Doc is an ORM entity"),
    "a bundle": (lambda: sa.select(Bundle("b", Doc.id, Doc.title)), "b is an ORM entity"),
    "entities of a text": (lambda: sa.select(Doc).from_statement(sa.text("select 1")), "FromStatement"),
    "loader options": (lambda: sa.select(Doc.id).options(load_only(Doc.id)), "Load"),
    "loader criteria": (
        lambda: sa.select(Doc.id).options(with_loader_criteria(Doc, Doc.id > 1)),
        "LoaderCriteriaOption",
    ),
    "returning a bundle": (lambda: sa.delete(Doc).returning(Bundle("b", Doc.id, Doc.title)), "is an ORM entity"),
    "deleting and returning": (lambda: sa.delete(Doc).returning(Doc.id, Doc), "Doc is an ORM entity"),
    "returning an entity": (lambda: sa.insert(Doc).values(title="x").returning(Doc), "Doc is an ORM entity"),
    "returning one name twice": (
        lambda: sa.delete(Doc).returning(Doc.id, Doc.id),
        "a column without a name of its own",
    ),
    "returning no name": (lambda: sa.delete(Doc).returning(Doc.id + 1), "a column without a name of its own"),
    "a composite": (lambda: sa.select(Spot.id, Spot.point), "point is an ORM entity"),
    "a union of texts": (
        lambda: sa.union_all(*2 * [sa.text("select 1 as x").columns(sa.column("x", sa.Integer))]),
        "text\\(\\) or '\\*' stands among the columns",
    ),
    "a polymorphic write": (lambda: sa.update(Animal).values(kind="x"), "writing Animal is the ORM's work"),
    "a write of two tables": (lambda: sa.insert(Report).values(title="x"), "writing Report is the ORM's work"),
    "an inherited write": (lambda: sa.insert(Cat).values(kind="x"), "writing Cat is the ORM's work"),
    "ddl": (lambda: CreateTable(users), "CreateTable is no select"),
    "a bare function": (sa.func.now, "now is no select"),
    "a column": (lambda: user.id, "Column is no select"),
    "a sequence": (lambda: sa.Sequence("s"), "Sequence is no select"),
    "a lambda": (lambda: sa.lambda_stmt(lambda: sa.select(user.id)), "StatementLambdaElement is no select"),
    "a text with columns": (lambda: sa.text("select 1 as x").columns(x=sa.Integer), "TextualSelect is no select"),
    "a string": (lambda: "select 1", "str is no select"),
    "text among columns": (
        lambda: sa.select(sa.text("1 as x"), user.id),
        "text\\(\\) or '\\*' stands among the columns",
    ),
    "a star": (lambda: sa.select("*").select_from(users), "text\\(\\) or '\\*' stands among the columns"),
    "translated schemas": (
        lambda: sa.select(user.id).execution_options(schema_translate_map={None: "x"}),
        "schema_translate_map",
    ),
    "yield_per": (lambda: sa.select(user.id).execution_options(yield_per=5), "yield_per"),
    "a server-side cursor": (lambda: sa.select(user.id).execution_options(stream_results=True), "stream_results"),
    "a default that asks the connection": (lambda: sa.insert(asking).values(id=1), "looks at the connection"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_it_could_not_do_the_same_is_refused_by_name_with_a_remedy(both: Both, name: str) -> None:
    make, said = REFUSED[name]
    for _ in range(2):  # nothing of it is remembered as fit
        with pytest.raises(
            ConfigurationError, match=f"the direct lane does not run this statement: .*{said}"
        ) as refused:
            both.statements.prepare(make())
        assert re.search(r"db.session\(\)|label\(\)", refused.value.hint)


async def test_an_executemany_that_it_could_not_do_the_same_is_refused_by_name(both: Both) -> None:
    two = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    for statement, parameters, said in [
        (sa.insert(users), [], "no parameters"),
        (sa.insert(users).returning(user.id), two, "what returns rows cannot be used with executemany"),
        (sa.insert(users).returning(user.id), two[:1], "what returns rows cannot be used with executemany"),
        (sa.update(users).where(user.id.in_([1])), two[:1], "in_\\(\\) and literal_execute"),
        (sa.update(users).where(user.id.in_([1])), two, "in_\\(\\) and literal_execute"),
        (sa.update(users).where(user.id == sa.bindparam("id_", 1, literal_execute=True)), two, "in_\\(\\) and literal"),
        (sa.insert(Doc), two, "bulk write"),
    ]:
        with pytest.raises(ConfigurationError, match=said):
            both.statements.prepare_many(statement, parameters)
    with pytest.raises(ConfigurationError, match="bulk write"):
        both.statements.prepare(sa.update(Doc), {"title": "x"})


async def test_a_literal_that_is_several_columns_is_refused_before_it_is_run(both: Both) -> None:
    statement = sa.delete(users).returning(sa.literal_column("id, login"))
    with pytest.raises(ConfigurationError, match="its 1 column expressions are 2 columns to the server"):
        await both.lane(statement)
    assert await both.driver.fetchval("select count(*) from users") == 5


async def test_options_without_effect_are_let_pass(both: Both) -> None:
    await both.agree(lambda: sa.select(user.id).execution_options(logging_token="x", preserve_rowcount=True))


async def test_a_statement_without_a_cache_key_is_compiled_each_time_and_not_kept(both: Both) -> None:
    await both.agree(lambda: sa.select(sa.cast(user.name, Unkeyed())).where(user.id == 2))
    assert len(both.statements._plans) == 0
