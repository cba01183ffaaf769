import pytest
from sqlalchemy.engine import make_url

from pulsepool import ConfigurationError
from src.config.settings import Settings


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "DB_USER", "DB_PASSWORD", "DB_HOST", "DB_PORT", "DB_NAME", "ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


def test_without_any_setting_it_is_a_developers_machine():
    settings = Settings()
    assert settings.database_url == "postgresql+psycopg2://postgres:postgres@localhost:5432/edbotv8"
    assert settings.async_database_url == "postgresql+asyncpg://postgres:postgres@localhost:5432/edbotv8"
    assert settings.is_development


def test_any_character_in_a_password_reaches_both_drivers(monkeypatch):
    password = "p@ss:w/rd#?%25 &=+é"
    monkeypatch.setenv("DB_PASSWORD", password)
    settings = Settings()
    for url in (settings.database_url, settings.async_database_url):
        assert make_url(url).password == password
        assert (make_url(url).host, make_url(url).database) == ("localhost", "edbotv8")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_one_address_of_any_kind_serves_both_drivers(scheme):
    settings = Settings(url=f"{scheme}://ed:s%40crt@db1:6432/edbot")
    assert settings.database_url == "postgresql+psycopg2://ed:s%40crt@db1:6432/edbot"
    assert settings.async_database_url == "postgresql+asyncpg://ed:s%40crt@db1:6432/edbot"


def test_parts_that_contradict_the_address_are_refused(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://ed@db1/edbot")
    monkeypatch.setenv("DB_HOST", "db2")
    with pytest.raises(ConfigurationError, match="host"):
        _ = Settings().dsn


def test_an_argument_wins_over_the_environment_down_to_the_pool(monkeypatch):
    monkeypatch.setenv("DB_USER", "from_environment")
    monkeypatch.setenv("DB_MAX_SIZE", "7")
    settings = Settings(db_user="from_argument")
    assert settings.database.dsn.user == "from_argument"
    assert settings.database.max_size == 7


@pytest.mark.parametrize(("name", "value"), [("DB_PORT", "0"), ("ENVIRONMENT", "moon"), ("LOG_LEVEL", "LOUD")])
def test_a_bad_value_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name.lower()):
        Settings()


def test_the_settings_never_show_a_password():
    settings = Settings(
        url="postgresql://ed:planted@db1/edbot", redis_url="redis://:planted@r", llm_url="http://l?k=planted"
    )
    assert "planted" not in repr(settings) + str(settings) + repr(settings.dsn) + repr(settings.database)


@pytest.mark.parametrize(
    "address", ["postgresql://u@h1,h2:5433/d", "postgresql://u@/d?host=/run/pg", "postgresql://u@h/d?options=-cx"]
)
def test_an_address_that_no_url_can_carry_is_refused_rather_than_cut(address):
    settings = Settings(url=address)
    with pytest.raises(ConfigurationError, match="more than a URL"):
        _ = settings.database_url
    with pytest.raises(ConfigurationError, match="more than a URL"):
        _ = settings.async_database_url


def test_an_integer_given_for_a_password_is_refused_and_not_shown():
    with pytest.raises(ConfigurationError) as refused:
        Settings(db_password=123456)
    assert "db_password" in str(refused.value)
    assert "123456" not in str(refused.value)
