"""What goes over the wire."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from src.models.entities import QueryType

LONGEST_QUERY = 2_000
"""Characters; a question longer than a page is pasted text."""


def _readable(text: str) -> str:
    if "\0" in text:
        raise ValueError("the query holds a NUL character, which is no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the query holds half of a surrogate pair, which is no text") from None
    if not text.strip():
        raise ValueError("the query is empty; ask something")
    return text.strip()


class QueryIn(BaseModel):
    """A question."""

    query: Annotated[str, Field(min_length=1, max_length=LONGEST_QUERY), AfterValidator(_readable)]


class SourceOut(BaseModel):
    """Where an answer comes from."""

    model_config = ConfigDict(from_attributes=True)

    slug: str
    title: str
    source: str


class ContactOut(BaseModel):
    """Somebody to call."""

    model_config = ConfigDict(from_attributes=True)

    service: str
    role: str
    phone: str
    pager: str
    hours: str
    priority: int


class AnswerOut(BaseModel):
    """An answer with its source; or, with `found` false, the plain word that there is none."""

    model_config = ConfigDict(from_attributes=True)

    type: QueryType
    found: bool
    answer: str
    confidence: float = Field(ge=0, le=1)
    sources: list[SourceOut]
    contacts: list[ContactOut]


class DocumentLine(SourceOut):
    """A document in a list."""

    id: int
    type: QueryType


class DocumentOut(DocumentLine):
    """A whole document."""

    keywords: list[str]
    body: str


class DocumentPage(BaseModel):
    """Some of the documents, and how many there are."""

    total: int
    items: list[DocumentLine]


class ContactPage(BaseModel):
    """Some of the contacts, and how many there are."""

    total: int
    items: list[ContactOut]


class HealthOut(BaseModel):
    """The state of the whole in two words."""

    status: str
    health_score: float = Field(ge=0, le=1)


class ComponentOut(BaseModel):
    """One part's state."""

    component: str
    status: str
    response_time_ms: float
    message: str
    details: dict[str, Any]


class SystemHealthOut(HealthOut):
    """The state of the whole and of its parts."""

    timestamp: datetime
    components: list[ComponentOut]
