"""Where the database is when nobody says so, and that whoever says so is heard."""

import os
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import text

from pulsepool import ConfigurationError, Database
from src.address import address


@pytest.fixture(autouse=True)
def _no_address(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL")


@pytest.fixture
def ground():
    """A folder that the server's own user can reach, when the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.mark.parametrize(
    ("name", "value", "said"), [("DATABASE_URL", "postgres://db1/d", "url"), ("DB_HOST", "db1", "host")]
)
def test_an_address_of_ones_own_is_left_alone_and_nothing_is_started(monkeypatch, tmp_path, name, value, said):
    monkeypatch.setenv(name, value)
    with address(tmp_path / "data") as where:
        assert where == f"of your own ({said})"
        assert os.environ[name] == value
    assert list(tmp_path.iterdir()) == []


def test_without_one_an_embedded_server_is_started_which_keeps_its_data_and_its_password(monkeypatch, ground):
    for statement in ("create table kept (n int)", "insert into kept values (1)"):
        monkeypatch.setenv("DATABASE_URL", "")  # which says nothing
        with address(ground / "new" / "data") as where:
            assert where.startswith("embedded, on 127.0.0.1:")
            db = Database(os.environ["DATABASE_URL"])
            with db.sync_session() as s:
                s.execute(text(statement))
            db.sync_engine.dispose()


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "taken").write_text("")
    own = address(tmp_path / "taken" / "data")
    with pytest.raises(ConfigurationError, match="no PostgreSQL of our own in ") as refused, own:
        pytest.fail("a server was started")
    assert "set DATABASE_URL" in refused.value.hint
