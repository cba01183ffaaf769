"""What the service keeps: documents, contacts, and what was asked of them.

The tables are made by the migrations alone (`src.models.migrate`): `search` needs the function `keywords_text` that
they create, as PostgreSQL's own `array_to_string` may not stand in a generated column.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import (
    BigInteger,
    Computed,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
    false,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class QueryType(StrEnum):
    """The six kinds of question; a document is of the kind of question that it answers."""

    CONTACT = "CONTACT"
    FORM = "FORM"
    PROTOCOL = "PROTOCOL"
    CRITERIA = "CRITERIA"
    DOSAGE = "DOSAGE"
    SUMMARY = "SUMMARY"


class Base(DeclarativeBase):
    """All tables; constraints have names that a migration can call them by."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        float: Double,
        datetime: DateTime(timezone=True),
        list[str]: ARRAY(Text),
        # A checked text and no PostgreSQL enum: asyncpg asks the server about each enum, once per connection.
        QueryType: Enum(QueryType, name="type", native_enum=False, length=16, create_constraint=True),
    }


def _search(heaviest: str, lightest: str) -> Computed:
    """A text search vector in which `heaviest` counts as title (A), the keywords as B and `lightest` as C.

    Written as PostgreSQL prints it, casts included, so that a migration's check can compare the two.
    """
    return Computed(
        f"setweight(to_tsvector('english'::regconfig, {heaviest}), 'A'::\"char\")"
        " || setweight(to_tsvector('english'::regconfig, keywords_text(keywords)), 'B'::\"char\")"
        f" || setweight(to_tsvector('english'::regconfig, {lightest}), 'C'::\"char\")",
        persisted=True,
    )


class Document(Base):
    """A page of the department's own: what an answer is taken from, word for word."""

    __tablename__ = "document"
    __table_args__ = (Index(None, "search", postgresql_using="gin"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    type: Mapped[QueryType]
    title: Mapped[str]
    source: Mapped[str]
    """The citation: which handbook, which section."""
    keywords: Mapped[list[str]]
    body: Mapped[str]
    sample: Mapped[bool] = mapped_column(server_default=false())
    """Whether it is of the corpus that comes with the service; seeding touches these alone."""
    search: Mapped[str] = mapped_column(TSVECTOR, _search("title", "body"), deferred=True)


class Contact(Base):
    """A role that can be called. Of a service's contacts the one with the lowest `priority` is called first."""

    __tablename__ = "contact"
    __table_args__ = (UniqueConstraint("service", "role"), Index(None, "search", postgresql_using="gin"))

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    service: Mapped[str]
    role: Mapped[str]
    phone: Mapped[str]
    pager: Mapped[str]
    hours: Mapped[str]
    priority: Mapped[int]
    keywords: Mapped[list[str]]
    note: Mapped[str]
    sample: Mapped[bool] = mapped_column(server_default=false())
    """As for a document."""
    search: Mapped[str] = mapped_column(TSVECTOR, _search("service", "role"), deferred=True)


class QueryAudit(Base):
    """One question, and what it was answered from; neither id is set when nothing was found, or when it is gone."""

    __tablename__ = "query_audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    asked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    query: Mapped[str]
    type: Mapped[QueryType]
    confidence: Mapped[float]
    """0 to 1."""
    found: Mapped[bool]
    document_id: Mapped[int | None] = mapped_column(ForeignKey("document.id", ondelete="SET NULL"))
    contact_id: Mapped[int | None] = mapped_column(ForeignKey("contact.id", ondelete="SET NULL"))
