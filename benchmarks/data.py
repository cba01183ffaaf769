"""The table that every peer asks, and the statements that they ask it with."""

import itertools
from datetime import datetime

import asyncpg
from sqlalchemy import Select, Update, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROWS = 1_000
ID = 5

SCHEMA = f"""
    drop table if exists item;
    create table item (id int primary key, title text not null, stock int not null, made timestamptz not null);
    insert into item select n, 'item ' || n, 0, now() from generate_series(1, {ROWS}) n;
    alter table item set (fillfactor = 50);
    vacuum full item;
    analyze item;
"""  # noqa: S608 - our own constant. Half-full pages, so that updates stay on theirs and the last round is no slower.

ONE = "select id, title, stock, made from item where id = $1"
ONE_PSYCOPG = "select id, title, stock, made from item where id = %s"
SOME = "select id, title, stock, made from item where id <= $1"
NAP = "select pg_sleep({seconds})"

ONE_TEXT = text("select id, title, stock, made from item where id = :id")
_ids = itertools.cycle(range(1, ROWS + 1))


class Base(DeclarativeBase):
    """What the one table hangs on."""


class Item(Base):
    """One row, as the ORM sees it."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    stock: Mapped[int]
    made: Mapped[datetime]


def some(rows: int) -> Select[int, str, int, datetime]:
    """The Core statement for the first `rows` rows, made anew each time as an endpoint makes it."""
    return select(Item.id, Item.title, Item.stock, Item.made).where(Item.id <= rows)


def one() -> Select[int, str, int, datetime]:
    """The Core statement for one row."""
    return select(Item.id, Item.title, Item.stock, Item.made).where(Item.id == ID)


def whole() -> Select[Item]:
    """The ORM's query for one object."""
    return select(Item).where(Item.id == ID)


def increment() -> Update:
    """The statement of a write; each time of another row, so that nobody waits for another's lock."""
    return update(Item).where(Item.id == next(_ids)).values(stock=Item.stock + 1)


async def create(url: str) -> str:
    """Make the table, and fill it; gives the server's version."""
    connection = await asyncpg.connect(url)
    try:
        for statement in filter(str.strip, SCHEMA.split(";")):
            await connection.execute(statement)
        return str(await connection.fetchval("show server_version"))
    finally:
        await connection.close()
