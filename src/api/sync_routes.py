"""The same endpoints the way they were before, synchronously and in threads; PRP-27 keeps both for a while."""

from fastapi import APIRouter, HTTPException

from src.api.dependencies import SyncDb
from src.api.routes import NO_DOCUMENT, DocumentId, Kind, Limit, Offset, Service
from src.api.schemas import AnswerOut, ContactPage, DocumentOut, DocumentPage, QueryIn
from src.models import catalogue
from src.pipeline.answer import answer_sync

router = APIRouter(prefix="/api/v1/sync", tags=["EDBotv8, synchronous"])


@router.post("/query")
def query(question: QueryIn, db: SyncDb) -> AnswerOut:
    """Answer a question from the department's documents, citing the source; the question is kept for audit."""
    return AnswerOut.model_validate(answer_sync(db, question.query))


@router.get("/documents")
def documents(
    db: SyncDb,
    kind: Kind = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> DocumentPage:
    """List documents by slug."""
    total = db.scalar(catalogue.count_documents(kind))
    items = db.scalars(catalogue.documents(kind, limit=limit, offset=offset))
    return DocumentPage.model_validate({"total": total, "items": items.all()}, from_attributes=True)


@router.get("/documents/{document_id}", responses={404: {"description": NO_DOCUMENT}})
def document(document_id: DocumentId, db: SyncDb) -> DocumentOut:
    """One document, whole."""
    found = db.execute(catalogue.DOCUMENT, {"id": document_id}).one_or_none()
    if found is None:
        raise HTTPException(404, NO_DOCUMENT)
    return DocumentOut.model_validate(found)


@router.get("/contacts")
def contacts(db: SyncDb, service: Service = None, limit: Limit = 50, offset: Offset = 0) -> ContactPage:
    """List on-call contacts by service, whoever is called first coming first."""
    total = db.scalar(catalogue.count_contacts(service))
    items = db.scalars(catalogue.contacts(service, limit=limit, offset=offset))
    return ContactPage.model_validate({"total": total, "items": items.all()}, from_attributes=True)
