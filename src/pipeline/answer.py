"""From what was found to what is said. Nothing is said that does not stand in the documents or among the contacts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from src.models.entities import QueryType
from src.pipeline.classify import Intent, classify
from src.pipeline.search import AUDIT, BEST_MATCH, Hit, parameters

ENOUGH = 0.6
"""The least `Hit.score` that is an answer: one word of two is none. A wrong page is worse than none."""
MANY = 3
"""With more than so many of a type that score alike, the question chooses none: "dose" stands on every sheet."""
NOTHING = "The department's documents and contacts have no answer to this."


@dataclass(frozen=True, slots=True)
class Source:
    """Where an answer stands."""

    slug: str
    title: str
    source: str


@dataclass(frozen=True, slots=True)
class Line:
    """One contact of an answer."""

    service: str
    role: str
    phone: str
    pager: str
    hours: str
    priority: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or `found` is False, the confidence 0 and the text says so.

    `type`: of what was found, else of the question. `answer`: the document's own text, or the contacts, one a line, the
    first to call first. `confidence`: 0 to 1, how much of the question was found in it. The ids are for the audit.
    """

    type: QueryType
    found: bool
    answer: str
    confidence: float
    sources: tuple[Source, ...] = ()
    contacts: tuple[Line, ...] = ()
    document_id: int | None = None
    contact_id: int | None = None


ON_CALL = Source("on-call-list", "On-call list", "Switchboard, on-call list (sample)")
"""Where contacts stand."""


async def answer(session: AsyncSession, query: str) -> Answer:
    """Answer `query`, any text, and write down that it was asked: two statements in the session's transaction."""
    intent = classify(query)
    found = await session.execute(BEST_MATCH, parameters(intent))
    reply = compose(intent, [Hit(*row) for row in found])
    await session.execute(AUDIT, _entry(intent, reply))
    return reply


def answer_sync(session: Session, query: str) -> Answer:
    """The same for a synchronous session."""
    intent = classify(query)
    found = session.execute(BEST_MATCH, parameters(intent))
    reply = compose(intent, [Hit(*row) for row in found])
    session.execute(AUDIT, _entry(intent, reply))
    return reply


def compose(intent: Intent, hits: Sequence[Hit]) -> Answer:
    """Put the answer to `intent` together from what `BEST_MATCH` found. Pure."""
    if not hits or hits[0].score < ENOUGH or hits[0].alike > MANY:
        return Answer(intent.type, found=False, answer=NOTHING, confidence=0.0)
    best = hits[0]
    if best.document_id is not None:
        source = Source(best.slug, best.title, best.source)
        return Answer(
            best.type,
            found=True,
            answer=best.body.strip(),
            confidence=best.score,
            sources=(source,),
            document_id=best.document_id,
        )
    lines = tuple(Line(hit.service, hit.role, hit.phone, hit.pager, hit.hours, hit.priority) for hit in hits)
    return Answer(
        best.type,
        found=True,
        answer=_directory(hits),
        confidence=best.score,
        sources=(ON_CALL,),
        contacts=lines,
        contact_id=best.contact_id,
    )


def _directory(hits: Sequence[Hit]) -> str:
    whom = "call the first whose hours cover the moment; no answer, call the next" if len(hits) > 1 else "call"
    lines = (
        f"{number}. {hit.role}: {hit.phone}, pager {hit.pager}, {hit.hours}. {hit.note}"
        for number, hit in enumerate(hits, 1)
    )
    return "\n".join((f"{hits[0].service}: {whom}", *lines))


def _entry(intent: Intent, reply: Answer) -> dict[str, Any]:
    return {
        "query": intent.query,
        "type": reply.type,
        "confidence": reply.confidence,
        "found": reply.found,
        "document_id": reply.document_id,
        "contact_id": reply.contact_id,
    }
