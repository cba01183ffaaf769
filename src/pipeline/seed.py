"""The corpus: read from its files, checked, and put into the database."""

import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Table, and_, delete, not_, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from pulsepool.errors import PulsePoolError
from src.models.entities import Base, Contact, Document, QueryType

CORPUS = Path(__file__).parent / "corpus"
MARKER = "SAMPLE, NOT FOR CLINICAL USE"
"""What every text of this corpus must say about itself."""
CONTACTS, QUESTIONS = "oncall", "questions"
BATCH = 50
"""Entries for one statement; progress is told after each."""


class CorpusError(PulsePoolError, ValueError):
    """A file of the corpus is wrong; the text names file, entry and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A document as its file has it; the type is the file's name."""

    slug: str
    type: QueryType
    title: str
    source: str
    keywords: list[str]
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnCall:
    """A contact as its file has it; `priority` counts from 1 within a service."""

    service: str
    role: str
    phone: str
    pager: str
    hours: str
    priority: int
    keywords: list[str]
    note: str


Entry = TypeVar("Entry", Page, OnCall)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All that answers come from."""

    pages: tuple[Page, ...]
    contacts: tuple[OnCall, ...]

    def __len__(self) -> int:
        return len(self.pages) + len(self.contacts)


def load_corpus(folder: Path = CORPUS) -> Corpus:
    """Read and check `folder`: `<type>.toml` with `[[document]]`s, `oncall.toml` with `[[contact]]`s.

    `questions.toml` is passed over: it is for measuring. Raises `CorpusError`.
    """
    pages: list[Page] = []
    contacts: list[OnCall] = []
    for path in sorted(folder.glob("*.toml")):
        if path.stem == CONTACTS:
            contacts += _read(path, "contact", OnCall)
        elif path.stem != QUESTIONS:
            try:
                kind = QueryType(path.stem.upper())
            except ValueError:
                raise CorpusError(
                    f"{path.name}: there is no type {path.stem.upper()!r}", hint=f"one of {', '.join(QueryType)}"
                ) from None
            pages += _read(path, "document", Page, type=kind)
    if not (pages and contacts):
        raise CorpusError(
            f"{folder}: {len(pages)} documents and {len(contacts)} contacts", hint="the corpus needs both"
        )
    _refuse_twins("documents", (page.slug for page in pages))
    _refuse_twins("contacts", (f"{contact.service}, {contact.role}" for contact in contacts))
    _refuse_twins("contacts", (f"{contact.service}, priority {contact.priority}" for contact in contacts))
    return Corpus(tuple(pages), tuple(contacts))


class Seeded(NamedTuple):
    """What seeding did. `changed`: rows. `left_out`: entries whose place the database's owner has taken, by key."""

    changed: int
    left_out: tuple[str, ...]


def seed(session: Session, corpus: Corpus, progress: Callable[[int, int], None] | None = None) -> Seeded:
    """Make the database's samples those of `corpus`, in the session's transaction; no other row is ever touched.

    What is new comes in, what differs is changed, what is gone goes; the rest is not touched, so doing it twice costs
    little. Where the owner has a document with the same slug, or a contact with the same service and role, theirs stays
    and the sample is left out. `progress` is told entries done and entries in all.
    """
    connection = session.connection()
    changed, done = 0, 0
    left_out: list[str] = []
    for table, key, entries in (
        (_table(Document), ("slug",), corpus.pages),
        (_table(Contact), ("service", "role"), corpus.contacts),
    ):
        rows = [{**asdict(entry), "sample": True} for entry in entries]
        columns = [table.c[name] for name in key]
        in_corpus = tuple_(*columns).in_([tuple(row[name] for name in key) for row in rows])
        changed += connection.execute(delete(table).where(table.c.sample, not_(in_corpus))).rowcount
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            changed += _upsert(connection, table, key, batch)
            done += len(batch)
            if progress is not None:
                progress(done, len(corpus))
        taken = connection.execute(select(*columns).where(not_(table.c.sample), in_corpus).order_by(*columns))
        left_out += (", ".join(row) for row in taken)
    return Seeded(changed, tuple(left_out))


def _upsert(connection: Connection, table: Table, key: Sequence[str], rows: list[dict[str, Any]]) -> int:
    new = insert(table).values(rows)
    others = [name for name in rows[0] if name not in key]
    statement = new.on_conflict_do_update(
        index_elements=key,
        set_={name: new.excluded[name] for name in others},
        where=and_(table.c.sample, or_(*(table.c[name].is_distinct_from(new.excluded[name]) for name in others))),
    )
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def _table(entity: type[Base]) -> Table:
    return Base.metadata.tables[entity.__tablename__]


def _read(path: Path, name: str, kind: type[Entry], **given: Any) -> Iterator[Entry]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path.name} cannot be read: {error}") from error
    entries = found.pop(name, [])
    if found or not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise CorpusError(f"{path.name} has something else than [[{name}]]: {', '.join(found) or name}")
    for number, entry in enumerate(entries, 1):
        problem = _problem(kind, entry, given)
        if problem:
            label = next(iter(entry.values()), "empty")
            raise CorpusError(f"{path.name}, {name} {number} ({label}): {problem}")
        yield kind(**given, **entry)


def _problem(kind: type[Page | OnCall], entry: dict[str, Any], given: dict[str, Any]) -> str | None:
    """What is wrong with `entry`; None when nothing is."""
    expected = {field.name: field.type for field in fields(kind) if field.name not in given}
    if entry.keys() != expected.keys():
        return "; ".join(
            f"{what} {', '.join(sorted(names))}"
            for what, names in (
                ("lacks", expected.keys() - entry.keys()),
                ("does not know", entry.keys() - expected.keys()),
            )
            if names
        )
    for name, value in entry.items():
        if expected[name] is str and not (isinstance(value, str) and value.strip()):
            return f"{name} is not a text"
        if expected[name] is int and not (type(value) is int and value >= 1):
            return f"{name} is not a number from 1"
        if name == "keywords" and not (
            isinstance(value, list) and value and all(isinstance(word, str) for word in value)
        ):
            return "keywords is not a list of texts"
    if MARKER not in "".join(map(str, entry.values())):
        return f"does not say {MARKER!r}"
    return None


def _refuse_twins(what: str, keys: Iterable[str]) -> None:
    twins = [key for key, count in Counter(keys).items() if count > 1]
    if twins:
        raise CorpusError(f"{what} are there twice: {'; '.join(twins)}", hint="give each its own")
