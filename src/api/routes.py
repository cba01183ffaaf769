"""Questions, documents and contacts, asynchronously."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query

from pulsepool.fastapi import DatabaseDep, ReadDep
from src.api.dependencies import AsyncDb
from src.api.schemas import AnswerOut, ContactPage, DocumentOut, DocumentPage, QueryIn
from src.models import catalogue
from src.models.entities import QueryType
from src.pipeline.answer import answer

DocumentId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Kind = Annotated[QueryType | None, Query(alias="type")]
Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0, le=10_000)]
Service = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
NO_DOCUMENT = "There is no document with this id."

router = APIRouter(prefix="/api/v1", tags=["EDBotv8"])


@router.post("/query")
async def query(question: QueryIn, db: AsyncDb) -> AnswerOut:
    """Answer a question from the department's documents, citing the source; the question is kept for audit."""
    return AnswerOut.model_validate(await answer(db, question.query))


@router.get("/documents")
async def documents(
    db: ReadDep,
    kind: Kind = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> DocumentPage:
    """List documents by slug."""
    total = await db.scalar(catalogue.count_documents(kind))
    items = await db.scalars(catalogue.documents(kind, limit=limit, offset=offset))
    return DocumentPage.model_validate({"total": total, "items": items.all()}, from_attributes=True)


@router.get("/documents/{document_id}", responses={404: {"description": NO_DOCUMENT}})
async def document(document_id: DocumentId, db: DatabaseDep) -> DocumentOut:
    """One document, whole."""
    found = await db.fetchrow(catalogue.DOCUMENT, {"id": document_id})
    if found is None:
        raise HTTPException(404, NO_DOCUMENT)
    return DocumentOut.model_validate(found)


@router.get("/contacts")
async def contacts(db: ReadDep, service: Service = None, limit: Limit = 50, offset: Offset = 0) -> ContactPage:
    """List on-call contacts by service, whoever is called first coming first."""
    total = await db.scalar(catalogue.count_contacts(service))
    items = await db.scalars(catalogue.contacts(service, limit=limit, offset=offset))
    return ContactPage.model_validate({"total": total, "items": items.all()}, from_attributes=True)
