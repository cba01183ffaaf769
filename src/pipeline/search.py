"""The statements: built once, as building costs as much as running; the values of a question are bound parameters.

Both ways to the database send the same ones: `session.execute(BEST_MATCH, parameters(intent))`.
"""

import math
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Numeric,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    distinct,
    func,
    insert,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from src.models.entities import Base, Contact, Document, QueryAudit, QueryType
from src.pipeline.classify import Intent

ENGLISH: ColumnElement[Any] = literal_column("'english'::regconfig")
IN_DOCUMENT: ColumnElement[Any] = literal_column("'{0, 0.3, 0.9, 1}'::real[]")
IN_CONTACT: ColumnElement[Any] = literal_column("'{0, 0.9, 0.9, 1}'::real[]")
"""What a word is worth where it stands, in PostgreSQL's order from D to A: nowhere, in the text (a contact's role),
among the keywords, in the title (a contact's service). Said again and again it is worth 1 at most."""
ONCE = math.pi**2 / 6
"""What `ts_rank` divides by; undone, a word that stands in one place counts as much as that place is worth."""
PREFERENCE = 0.6
"""How much better a page of the type asked for ranks when the type is certain."""
UNSURE = 0.1
"""The least certainty that the preference goes by: without a cue the type still decides between equals."""
SURE = 0.6
"""The certainty from which the type of the question says what may answer it at all."""
THINGS = (QueryType.CONTACT, QueryType.FORM, QueryType.DOSAGE)
"""Kinds that nothing else stands in for, nor they for anything else: a protocol is no dose and a telephone number no
protocol. The other kinds are texts on a subject, any of which may answer."""
NAMED = (QueryType.CONTACT, QueryType.DOSAGE)
"""Kinds about something with a name, a service or a drug, and wrong for any other."""


class Hit(NamedTuple):
    """One row of `BEST_MATCH`, column for column: a document, or one contact of a service.

    The columns of the kind that it is not are None; `document_id` and `contact_id` tell which it is. `alike`: how many
    of its type score the same, itself among them.
    """

    score: float
    type: QueryType
    document_id: int | None
    slug: Any
    title: Any
    source: Any
    body: Any
    contact_id: int | None
    service: Any
    role: Any
    phone: Any
    pager: Any
    hours: Any
    priority: Any
    note: Any
    alike: int


def parameters(intent: Intent) -> dict[str, Any]:
    """What `BEST_MATCH` needs to know of `intent`."""
    return {
        "terms": list(intent.terms),
        "type": intent.type,
        "types": _answering(intent),
        "preference": 1 + PREFERENCE * max(intent.confidence, UNSURE),
        "named": intent.type in NAMED,
    }


def _answering(intent: Intent) -> list[QueryType]:
    if intent.confidence < SURE:
        return list(QueryType)
    return [intent.type] if intent.type in THINGS else [kind for kind in QueryType if kind not in THINGS]


def _best_match() -> Select[Any]:
    asked = func.unnest(cast(bindparam("terms"), ARRAY(Text))).column_valued("term")
    word = select(func.plainto_tsquery(ENGLISH, asked).label("query")).distinct().cte("word")

    def worth(table: type[Document | Contact], by_place: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.least(1, ONCE * func.ts_rank(by_place, table.search, word.c.query))

    found = union_all(
        select(
            word.c.query,
            Document.type,
            Document.id.label("document_id"),
            Document.title.label("name"),
            worth(Document, IN_DOCUMENT).label("worth"),
        ).join_from(word, Document, Document.search.op("@@")(word.c.query)),
        select(
            word.c.query,
            literal(QueryType.CONTACT, Document.type.type),
            cast(null(), Integer),
            Contact.service,
            func.max(worth(Contact, IN_CONTACT)),
        )
        .join_from(word, Contact, Contact.search.op("@@")(word.c.query))
        .group_by(word.c.query, Contact.service),
    ).cte("found")

    pages = select(func.count()).select_from(Document).scalar_subquery()
    services = select(func.count(distinct(Contact.service))).scalar_subquery()
    rarity = (
        select(
            word.c.query,
            func.ln(1 + (pages + services) / (0.5 + func.coalesce(func.sum(found.c.worth), 0))).label("rarity"),
        )
        .join_from(word, found, found.c.query == word.c.query, isouter=True)
        .where(func.numnode(word.c.query) > 0)
        .group_by(word.c.query)
        .cte("rarity")
    )
    everything = select(func.sum(rarity.c.rarity)).scalar_subquery()
    rarest = select(func.max(rarity.c.rarity)).scalar_subquery()
    # Rounded, as equals differ in the last digit: a place is worth a `real`, and sums have no order.
    score = cast(func.round(cast(func.sum(found.c.worth * rarity.c.rarity) / everything, Numeric), 3), Double)
    kind = Document.type.type
    preferred = found.c.type == bindparam("type", type_=kind)
    must_be_named = or_(bindparam("named", type_=Boolean), found.c.type.in_(NAMED))
    best = (
        select(
            found.c.type,
            found.c.document_id,
            found.c.name,
            score.label("score"),
            func.count().over(partition_by=(found.c.type, score)).label("alike"),
        )
        .join_from(found, rarity, found.c.query == rarity.c.query)
        .where(found.c.type == any_(bindparam("types", type_=ARRAY(kind))))
        .group_by(found.c.type, found.c.document_id, found.c.name)
        .having(or_(not_(must_be_named), func.max(rarity.c.rarity) == rarest))
        .order_by(
            (score * case((preferred, bindparam("preference", type_=Double)), else_=1.0)).desc(),
            func.length(found.c.name),
            found.c.name,
        )
        .limit(1)
        .cte("best")
    )
    return (
        select(
            best.c.score,
            best.c.type,
            Document.id.label("document_id"),
            Document.slug,
            Document.title,
            Document.source,
            Document.body,
            Contact.id.label("contact_id"),
            Contact.service,
            Contact.role,
            Contact.phone,
            Contact.pager,
            Contact.hours,
            Contact.priority,
            Contact.note,
            best.c.alike,
        )
        .select_from(best)
        .outerjoin(Document, Document.id == best.c.document_id)
        .outerjoin(Contact, and_(best.c.document_id.is_(None), Contact.service == best.c.name))
        .order_by(Contact.priority)
    )


BEST_MATCH: Final = _best_match()
"""The document or the service that answers best: one row with the columns of `Hit`, or one for each contact.

`score`, 0 to 1 and rounded to 0.001, says how much of the question was found: each word counts by its rarity (one that
stands nowhere counts most, and one that is only mentioned is rarer than one that pages are called by) and by the place
where it stands. It is a sum over all words, so a page with all of them comes first and one with some is still found.
The type asked for decides between pages that score alike, but adds nothing to the score; when it is `SURE`, it also
keeps out what is no such answer. A dose, or whom to call, is only found with the rarest word of the question, which is
taken for the name of the drug or the service. On a tie the shorter name wins: it says less that was not asked for.
No row when no word was found.
"""

AUDIT: Final = insert(Base.metadata.tables[QueryAudit.__tablename__])
"""Write down what was asked, and what answered it."""
