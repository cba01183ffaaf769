"""The schema: what the migrations make is what the entities say, and two processes that migrate take turns."""

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, NullPool, create_engine, func, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from pulsepool import Dsn, PulsePoolError
from src.models import migrate
from src.models.entities import Base, Contact, Document, QueryAudit, QueryType
from src.pipeline.seed import CorpusError

ROOT = Path(__file__).parents[2]
TABLES = {"document", "contact", "query_audit"}
LOCK = 0x7065_6462
DOCUMENT = {
    "slug": "sepsis",
    "type": QueryType.PROTOCOL,
    "title": "Sepsis",
    "source": "s",
    "keywords": ["septic shock"],
    "body": "lactate",
}


@pytest.fixture
def dsn(pg_url: str) -> Dsn:
    return Dsn.parse(pg_url)


@pytest.fixture
def engine(dsn: Dsn) -> Engine:
    return create_engine(dsn.sqlalchemy_url("psycopg"), poolclass=NullPool)


@pytest.fixture
def shorten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run the same migrations with one of their limits at 400 ms, from a folder with a hard name."""

    def shorten(limit: str) -> None:
        folder = tmp_path / "100% %(here)s"
        shutil.copytree(migrate.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        patient = (folder / "env.py").read_text()
        hasty, found = re.subn(rf"^{limit} = [\d_]+$", f"{limit} = 400", patient, flags=re.MULTILINE)
        assert found == 1
        (folder / "env.py").write_text(hasty)
        monkeypatch.setattr(migrate, "MIGRATIONS", folder)

    return shorten


def by_hand(*arguments: str, dsn: Dsn) -> subprocess.Popen[str]:
    """Alembic as people run it: from the root of the repository, with the address in the environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn.render(hide_password=False)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_what_the_migrations_make_is_what_the_entities_say(dsn: Dsn, engine: Engine):
    migrate.upgrade(dsn)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert (
            compare_metadata(context, Base.metadata) == []
        )  # it warns of generated columns, and a warning is an error
    for table in Base.metadata.sorted_tables:
        assert {c["name"] for c in inspect(engine).get_check_constraints(table.name)} == {
            c.name for c in table.constraints if isinstance(c, CheckConstraint)
        }


def test_a_database_goes_down_to_nothing_and_up_again(dsn: Dsn, engine: Engine):
    migrate.upgrade(engine)
    assert tables(engine) == TABLES
    with engine.connect() as connection:
        command.downgrade(migrate.configuration(connection), "base")
    assert tables(engine) == set()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT to_regproc('keywords_text')")) is None
    migrate.upgrade(engine)
    assert tables(engine) == TABLES


def test_upgrading_twice_leaves_what_is_there(engine: Engine):
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(insert(Document).values(DOCUMENT))
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Document)) == 1


def test_a_title_weighs_more_than_a_keyword_and_a_keyword_more_than_the_text(engine: Engine):
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(insert(Document).values(DOCUMENT))
        search = connection.scalar(select(Document.search))
    assert search == "'lactat':4C 'sepsi':1A 'septic':2B 'shock':3B"


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Document, {**DOCUMENT, "type": text("'RUMOUR'")}),
        (Document, {**DOCUMENT, "slug": "taken"}),
        (Contact, {**dict.fromkeys(("service", "role", "phone", "pager", "hours", "note"), "x"), "priority": 1}),
        (QueryAudit, {"query": "?", "type": text("'RUMOUR'"), "confidence": 0.5, "found": False}),
        (QueryAudit, {"query": "?", "type": "FORM", "confidence": 0.5, "found": True, "document_id": -1}),
    ],
    ids=["unknown type", "slug twice", "role of a service twice", "unknown type of question", "document that is none"],
)
def test_the_database_itself_refuses_what_cannot_be(engine: Engine, table: type[Base], values: dict[str, object]):
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(insert(Document).values({**DOCUMENT, "slug": "taken"}))
        if table is Contact:
            values = {**values, "keywords": []}
            connection.execute(insert(Contact).values(values))
        with pytest.raises(IntegrityError):
            connection.execute(insert(table).values(values))


def test_the_audit_outlives_the_document_that_answered(engine: Engine):
    migrate.upgrade(engine)
    with engine.begin() as connection:
        document = connection.scalar(insert(Document).values(DOCUMENT).returning(Document.id))
        connection.execute(
            insert(QueryAudit).values(query="?", type="FORM", confidence=1, found=True, document_id=document)
        )
        connection.execute(text("DELETE FROM document"))
        assert connection.execute(select(QueryAudit.found, QueryAudit.document_id)).all() == [(True, None)]


def test_two_who_upgrade_by_hand_at_the_same_time_take_turns(dsn: Dsn, engine: Engine):
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    ends = time.monotonic() + 30
    with contextlib.ExitStack() as stack:
        with engine.begin() as holder:
            holder.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            both = [stack.enter_context(by_hand("upgrade", "head", dsn=dsn)) for _ in range(2)]
            while holder.scalar(waiting) != 2:
                assert time.monotonic() < ends, "they never came to wait"
                time.sleep(0.02)
            assert tables(engine) == set()
        assert [
            (process.communicate(timeout=30)[1].count("Running upgrade"), process.returncode) for process in both
        ] in (
            [(1, 0), (0, 0)],
            [(0, 0), (1, 0)],
        )
    assert tables(engine) == TABLES


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_turn_that_does_not_come_ends_the_wait_and_changes_nothing(
    dsn: Dsn, engine: Engine, shorten: Callable[[str], None], driver: Literal["psycopg", "psycopg2"]
):
    """The service's own limit for a statement, here shorter than the wait for a turn, must not cut that short."""
    shorten("QUEUE_LIMIT")
    hurried = create_engine(
        dsn.sqlalchemy_url(driver), connect_args={"options": "-c statement_timeout=200"}, poolclass=NullPool
    )
    with engine.begin() as holder:
        holder.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        with pytest.raises(migrate.MigrationBlocked, match="not free in time"):
            migrate.upgrade(hurried)
    assert tables(engine) == set()


def test_a_table_that_somebody_holds_ends_the_wait_and_changes_nothing(
    dsn: Dsn, engine: Engine, shorten: Callable[[str], None]
):
    migrate.upgrade(dsn)
    shorten("LOCK_LIMIT")
    with engine.begin() as holder, engine.connect() as connection:
        holder.execute(text("SELECT FROM query_audit"))
        with pytest.raises(OperationalError, match="lock timeout"):
            command.downgrade(migrate.configuration(connection), "base")
    assert tables(engine) == TABLES


@pytest.fixture
def stranger(dsn: Dsn, engine: Engine) -> Iterator[Dsn]:
    """A user with a hard name who may connect and nothing else."""
    name = 'a "stranger" %s'
    with engine.begin() as connection:
        quoted = connection.scalar(text("SELECT quote_ident(:name)"), {"name": name})
        connection.exec_driver_sql(f"CREATE ROLE {quoted.replace('%', '%%')} LOGIN PASSWORD 'p'")
    yield dsn.replace(user=name, password="p")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {quoted.replace('%', '%%')}")
        connection.exec_driver_sql(f"DROP ROLE {quoted.replace('%', '%%')}")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("withdrawn", ["CREATE", "ALL"])
def test_a_right_that_is_missing_is_named_and_once_granted_the_migration_runs(
    stranger: Dsn, engine: Engine, driver: str, withdrawn: str
):
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE {withdrawn} ON SCHEMA public FROM PUBLIC"))
    with pytest.raises(migrate.MigrationRefused, match=r"permission denied|no schema has been selected") as refused:
        migrate.upgrade(stranger.replace(driver=driver))
    assert tables(engine) == set()
    grant = 'GRANT USAGE, CREATE ON SCHEMA public TO "a ""stranger"" %s"'
    assert grant in refused.value.hint
    with engine.begin() as connection:
        connection.exec_driver_sql(grant.replace("%", "%%"))
    migrate.upgrade(stranger)
    assert tables(engine) == TABLES


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("CREATE TABLE contact (name text)", "contact"),
        ("CREATE DOMAIN query_audit AS text", "query_audit"),
        ("CREATE FUNCTION keywords_text(text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$", "keywords_text"),
    ],
    ids=["a table", "a type", "a function"],
)
def test_what_is_in_the_way_is_named_and_left_as_it_is(dsn: Dsn, engine: Engine, own: str, name: str):
    with engine.begin() as connection:
        connection.execute(text(own))
    before = tables(engine)
    with pytest.raises(migrate.MigrationRefused, match=f'"{name}".* already exists') as refused:
        migrate.upgrade(dsn)
    assert "rename it" in refused.value.hint
    assert "\n" not in refused.value.message
    assert tables(engine) == before


def test_every_other_error_speaks_for_itself(dsn: Dsn, engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (other text)"))
    with pytest.raises(ProgrammingError, match="version_num"):
        migrate.upgrade(dsn)


@pytest.mark.parametrize(
    ("named", "used"), [(None, "psycopg2"), ("psycopg2", "psycopg2"), ("asyncpg", "psycopg2"), ("psycopg", "psycopg")]
)
def test_the_driver_is_the_services_own_unless_the_address_names_another_that_can(
    dsn: Dsn, monkeypatch: pytest.MonkeyPatch, named: str | None, used: str
):
    address = dsn.replace(driver=named)
    with migrate.connect(address) as connection:
        assert connection.engine.driver == used
    monkeypatch.setattr(migrate, "find_spec", lambda name: None)
    with migrate.connect(address) as connection:
        assert connection.engine.driver == "psycopg2"


@pytest.mark.parametrize("error", [migrate.MigrationBlocked, migrate.MigrationRefused, CorpusError])
def test_an_error_of_the_service_shows_the_room_it_is_from(error: type[PulsePoolError]):
    module, _, name = traceback.format_exception_only(error("x"))[0].partition(":")[0].rpartition(".")
    assert getattr(importlib.import_module(module), name) is error
    assert module.startswith("src.")


def test_the_script_for_those_who_run_it_themselves_needs_no_database(capsys: pytest.CaptureFixture[str]):
    config = migrate.configuration(None)
    command.upgrade(config, "head", sql=True)
    assert "CREATE TABLE query_audit" in capsys.readouterr().out
