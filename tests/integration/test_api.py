"""EDBotv8 over HTTP, on its real database: questions answered, bad input refused with a reason, both twins alike."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Annotated
from unittest.mock import AsyncMock

import httpx2
import pytest
from fastapi import Depends
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from src.api import health_routes
from src.api.app import LARGEST_BODY, app
from src.api.dependencies import AsyncDb, SyncDb, get_async_db, get_db_session, sync_admission
from src.config import settings
from src.models.database import SessionLocal
from src.models.entities import QueryType
from src.observability.health import ComponentType, HealthCheck, HealthStatus, SystemHealth

BOTH = pytest.mark.parametrize("prefix", ["/api/v1", "/api/v1/sync"])


@pytest.fixture
async def client(edbot):
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    new_client = httpx2.AsyncClient(transport=transport, base_url="http://edbot")
    async with app.router.lifespan_context(app), new_client as client:
        yield client


def audit_rows() -> int:
    with SessionLocal() as session:
        return session.scalar(text("select count(*) from query_audit"))


@BOTH
@pytest.mark.parametrize(
    ("query", "kind", "source"),
    [
        ("what is the ED STEMI protocol", QueryType.PROTOCOL, "ed-stemi-protocol"),
        ("show me the blood transfusion form", QueryType.FORM, "blood-transfusion-form"),
    ],
)
async def test_a_question_is_answered_with_its_source_and_kept_for_audit(client, prefix, query, kind, source):
    before = audit_rows()
    answer = (await client.post(f"{prefix}/query", json={"query": query})).json()
    assert (answer["found"], answer["type"], answer["sources"][0]["slug"]) == (True, kind, source)
    assert "SAMPLE, NOT FOR CLINICAL USE" in answer["answer"]
    assert 0 < answer["confidence"] <= 1
    assert audit_rows() == before + 1


@BOTH
async def test_who_is_on_call_gives_whom_to_call_first(client, prefix):
    answer = (await client.post(f"{prefix}/query", json={"query": "who is on call for cardiology"})).json()
    assert answer["type"] == QueryType.CONTACT
    assert answer["sources"][0]["title"] == "On-call list"
    assert {contact["service"] for contact in answer["contacts"]} == {"Cardiology"}
    assert [contact["priority"] for contact in answer["contacts"]] == sorted(
        contact["priority"] for contact in answer["contacts"]
    )


@BOTH
async def test_what_is_not_there_is_not_invented(client, prefix):
    answer = (await client.post(f"{prefix}/query", json={"query": "who won the football yesterday"})).json()
    assert (answer["found"], answer["confidence"], answer["sources"], answer["contacts"]) == (False, 0, [], [])


@BOTH
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"query": ""}, "at least 1 character"),
        ({"query": " \t\n "}, "the query is empty"),
        ({"query": "x" * 2_001}, "at most 2000 characters"),
        ({"query": "stemi\0"}, "NUL character"),
        ({"query": 5}, "valid string"),
        ({}, "Field required"),
    ],
)
async def test_a_question_that_is_none_is_refused_with_the_reason_and_not_kept(client, prefix, body, reason):
    before = audit_rows()
    refused = await client.post(f"{prefix}/query", json=body)
    assert refused.status_code == 422
    assert reason in refused.json()["detail"][0]["msg"]
    assert "input" not in refused.json()["detail"][0], "a question is nobody's to echo"
    assert audit_rows() == before


@BOTH
@pytest.mark.parametrize("body", [b'{"query": "\xff\xfe"}', b'{"query": "\\ud800"}'])
async def test_a_question_that_is_no_unicode_is_unprocessable(client, prefix, body):
    refused = await client.post(f"{prefix}/query", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 422
    assert refused.json()["detail"]


@BOTH
async def test_a_body_that_is_no_json_is_refused(client, prefix):
    refused = await client.post(f"{prefix}/query", content=b"{", headers={"content-type": "application/json"})
    assert refused.status_code == 422


@BOTH
async def test_a_huge_body_is_refused_before_it_is_read(client, prefix):
    body = json.dumps({"query": "x" * LARGEST_BODY})
    refused = await client.post(f"{prefix}/query", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 413


@BOTH
async def test_documents_are_listed_by_type_and_page_and_read_whole(client, prefix):
    everything = (await client.get(f"{prefix}/documents", params={"limit": 200})).json()
    assert everything["total"] == len(everything["items"]) >= 60
    protocols = (await client.get(f"{prefix}/documents", params={"type": "PROTOCOL", "limit": 2, "offset": 1})).json()
    assert len(protocols["items"]) == 2 < protocols["total"]
    assert {item["type"] for item in protocols["items"]} == {"PROTOCOL"}
    one = (await client.get(f"{prefix}/documents/{protocols['items'][0]['id']}")).json()
    assert one["title"] == protocols["items"][0]["title"]
    assert one["body"]


@BOTH
@pytest.mark.parametrize(("document", "status"), [("999999", 404), ("0", 422), ("one", 422), (str(2**40), 422)])
async def test_an_unknown_document_is_404_and_an_impossible_one_422(client, prefix, document, status):
    refused = await client.get(f"{prefix}/documents/{document}")
    assert refused.status_code == status
    assert refused.json()["detail"]


@BOTH
async def test_contacts_are_listed_by_service_in_any_case(client, prefix):
    everything = (await client.get(f"{prefix}/contacts", params={"limit": 200})).json()
    assert everything["total"] == len(everything["items"]) >= 30
    cardiology = (await client.get(f"{prefix}/contacts", params={"service": "cardiology"})).json()
    assert {contact["service"] for contact in cardiology["items"]} == {"Cardiology"}
    assert (await client.get(f"{prefix}/contacts", params={"service": "\0"})).status_code == 422


async def test_both_twins_answer_alike(client):
    for method, path, body in [
        ("POST", "/query", {"query": "sepsis protocol"}),
        ("GET", "/documents?limit=7&offset=3", None),
        ("GET", "/contacts?service=Cardiology", None),
    ]:
        one = await client.request(method, f"/api/v1{path}", json=body)
        other = await client.request(method, f"/api/v1/sync{path}", json=body)
        assert one.json() == other.json()


@pytest.mark.parametrize("prefix", ["/api/v1/sync", "/api/v1"])
async def test_a_storm_of_requests_is_answered_whole(client, prefix):
    """FastAPI has 40 worker threads; 120 requests that all want one, and a connection, must not lock each other out."""
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(client.get(f"{prefix}/documents") for _ in range(120)))
    assert {answer.status_code for answer in answers} == {200}


async def test_as_many_synchronous_requests_are_let_in_as_there_are_connections():
    admission = sync_admission()
    for _ in range(settings.database.max_size):
        assert not admission.locked()
        await admission.acquire()
    assert admission.locked()


async def test_a_client_that_reads_slowly_keeps_no_place_from_others(client, monkeypatch):
    monkeypatch.setattr(app.router, "routes", list(app.router.routes))
    monkeypatch.setattr(app.state, "sync_admission", asyncio.Semaphore(1))

    @app.get("/streams")
    def streams(db: SyncDb) -> StreamingResponse:
        inside = app.state.sync_admission.locked()

        async def body():
            yield f"{inside} {app.state.sync_admission.locked()}"

        return StreamingResponse(body())

    assert (await client.get("/streams")).text == "True False"


async def test_a_synchronous_request_that_finds_no_place_is_503(client, monkeypatch):
    monkeypatch.setattr(app.state, "sync_admission", asyncio.Semaphore(0))
    monkeypatch.setitem(settings.database.__dict__, "acquire_timeout", 0.1)
    refused = await client.get("/api/v1/sync/documents")
    assert refused.status_code == 503
    assert refused.json()["title"] == "Busy"
    assert (await client.get("/api/v1/documents")).status_code == 200


async def test_only_the_database_takes_the_service_out(client, monkeypatch):
    for component, code in {ComponentType.LLM_BACKEND: 200, ComponentType.DATABASE: 503}.items():
        down = HealthCheck(component, HealthStatus.UNHEALTHY, 1.0, "down")
        whole = SystemHealth.from_checks([down], datetime.now(UTC))
        monkeypatch.setattr(health_routes.monitor, "check_system_health", AsyncMock(return_value=whole))
        for path in ("/health", "/api/v1/health"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (code, "unhealthy")


@pytest.fixture
def failing_routes(client):
    """Two endpoints whose commit a deferred constraint refuses, one for each kind of session."""
    with SessionLocal.begin() as session:
        session.execute(text("create table if not exists twice (name text unique deferrable initially deferred)"))
        session.execute(text("truncate twice"))
    insert = text("insert into twice values ('one'), ('one')")

    async def by_async(db: AsyncDb) -> None:
        await db.execute(insert)

    def by_sync(db: SyncDb) -> None:
        db.execute(insert)

    async def by_plain_async(db: Annotated[AsyncSession, Depends(get_async_db)]) -> None:
        await db.execute(insert)

    def by_plain_sync(db: Annotated[Session, Depends(get_db_session)]) -> None:
        db.execute(insert)

    routes = list(app.router.routes)
    app.post("/fails/async")(by_async)
    app.post("/fails/sync")(by_sync)
    app.post("/fails/plain-async")(by_plain_async)
    app.post("/fails/plain-sync")(by_plain_sync)
    yield
    app.router.routes[:] = routes
    with SessionLocal.begin() as session:
        assert session.scalar(text("select count(*) from twice")) == 0
        session.execute(text("drop table twice"))


@pytest.mark.usefixtures("failing_routes")
@pytest.mark.parametrize("kind", ["async", "sync", "plain-async", "plain-sync"])
async def test_a_commit_that_fails_is_never_answered_with_a_success(client, kind):
    assert (await client.post(f"/fails/{kind}")).status_code == 500


async def test_health_in_two_words_and_in_full(client):
    brief = await client.get("/health")
    assert brief.json() == {"status": "healthy", "health_score": 1.0}
    assert brief.headers["cache-control"] == "no-store"
    whole = (await client.get("/api/v1/health")).json()
    assert [part["component"] for part in whole["components"]] == ["database"]
    assert whole["components"][0]["response_time_ms"] < 500
    assert whole["components"][0]["details"]["database_name"] == "edbotv8"


async def test_the_page_is_one_file_under_a_policy_that_lets_nothing_else_in(client):
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].count("'sha256-") == 2
    assert "SAMPLE, NOT FOR CLINICAL USE" in page.text


async def test_the_openapi_document_has_both_twins_and_not_the_page(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/api/v1/query", "/api/v1/sync/query", "/health"} <= set(paths)
    assert "/" not in paths


def test_the_constraint_of_the_failing_routes_really_is_deferred(edbot):
    with SessionLocal() as session:
        session.execute(text("create temp table t (name text unique deferrable initially deferred)"))
        session.execute(text("insert into t values ('one'), ('one')"))
        with pytest.raises(IntegrityError):
            session.commit()
