"""The statements behind the lists and the pages; the asynchronous and the synchronous endpoints send the same ones."""

from typing import Final

from sqlalchemy import Select, bindparam, func, select

from src.models.entities import Contact, Document, QueryType

DOCUMENT: Final = select(
    Document.id,
    Document.slug,
    Document.type,
    Document.title,
    Document.source,
    Document.keywords,
    Document.body,
).where(Document.id == bindparam("id"))
"""One document by its `id`, as columns: no entity, so that the direct lane can have it, too."""


def documents(kind: QueryType | None, *, limit: int, offset: int) -> Select[Document]:
    """Documents by slug, of one type or of all."""
    statement = select(Document).order_by(Document.slug).limit(limit).offset(offset)
    return statement if kind is None else statement.where(Document.type == kind)


def count_documents(kind: QueryType | None) -> Select[int]:
    """How many `documents` would give without a limit."""
    statement = select(func.count()).select_from(Document)
    return statement if kind is None else statement.where(Document.type == kind)


def contacts(service: str | None, *, limit: int, offset: int) -> Select[Contact]:
    """On-call contacts by service, whoever is called first coming first; `service` in any case."""
    statement = select(Contact).order_by(Contact.service, Contact.priority, Contact.role).limit(limit).offset(offset)
    return statement if service is None else statement.where(func.lower(Contact.service) == service.lower())


def count_contacts(service: str | None) -> Select[int]:
    """How many `contacts` would give without a limit."""
    statement = select(func.count()).select_from(Contact)
    return statement if service is None else statement.where(func.lower(Contact.service) == service.lower())
