import pytest
from pydantic import SecretStr

from pulsepool import ConfigurationError, DatabaseSettings
from pulsepool.settings import DatabaseOptions


@pytest.fixture(autouse=True)
def _no_address(monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_environment_sets_address_and_knobs(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://ed:s3cret@db1:6432/edbot")
    monkeypatch.setenv("DB_MAX_SIZE", "20")
    settings = DatabaseSettings()
    assert settings.max_size == 20
    assert settings.dsn.render(hide_password=False) == "postgresql://ed:s3cret@db1:6432/edbot"


def test_an_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("DB_MAX_SIZE", "20")
    assert DatabaseSettings(max_size=7).max_size == 7


def test_a_dotenv_file_is_read_and_its_other_names_are_left_alone(tmp_path):
    (tmp_path / ".env").write_text("DATABASE_URL=postgres://h/d\nDB_ACQUIRE_TIMEOUT=1.5\nSOMEBODY_ELSES=1\n")
    settings = DatabaseSettings()
    assert settings.acquire_timeout == 1.5
    assert settings.dsn.database == "d"


def test_an_address_may_come_in_parts_with_any_character_in_the_password(monkeypatch):
    for part, value in {
        "USER": "ed",
        "PASSWORD": "p@ss:w/rd#?%",
        "HOST": "db1",
        "PORT": "6432",
        "NAME": "edbot",
    }.items():
        monkeypatch.setenv(f"DB_{part}", value)
    dsn = DatabaseSettings().dsn
    assert dsn.sqlalchemy_url("asyncpg").password == "p@ss:w/rd#?%"
    assert (dsn.user, dsn.where, dsn.database) == ("ed", "db1:6432", "edbot")


def test_a_password_apart_from_the_url_completes_it():
    settings = DatabaseSettings(url=SecretStr("postgres://ed@db1/edbot"), password=SecretStr("apart"))
    assert settings.dsn.sqlalchemy_url("psycopg2").password == "apart"


def test_parts_that_contradict_the_url_are_refused_by_name_and_without_a_secret():
    settings = DatabaseSettings(
        url=SecretStr("postgres://ed:one-secret@db1/edbot"), password=SecretStr("another-secret")
    )
    with pytest.raises(ConfigurationError, match="password") as refused:
        _ = settings.dsn
    for secret in ("one-secret", "another-secret"):
        assert secret not in str(refused.value)


def test_without_any_address_the_error_says_what_to_set():
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        _ = DatabaseSettings().dsn


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("max_size", 0, "greater than or equal to 1"),
        ("min_size", -1, "greater than or equal to 0"),
        ("acquire_timeout", 0, "greater than 0"),
        ("acquire_timeout", float("inf"), "finite"),
        ("connect_timeout", 100_000, "less than or equal to 86400"),
        ("validate_after", -0.1, "greater than or equal to 0"),
        ("max_waiting", -1, "greater than or equal to 0"),
        ("pgbouncer", "maybe", "'auto', 'on' or 'off'"),
        ("port", 65_536, "less than or equal to 65535"),
        ("application_name", "x" * 64, "at most 63"),
        ("max_size", "many", "valid integer"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_field_value_and_bound(field, value, bound):
    with pytest.raises(ConfigurationError) as refused:
        DatabaseSettings(**{field: value})
    assert f"{field}={value!r}" in refused.value.message
    assert bound in refused.value.message
    assert f"{field} or DB_{field.upper()}" in refused.value.hint


def test_the_hint_names_the_variable_of_the_prefix_that_was_read(monkeypatch):
    monkeypatch.setenv("AUDIT_MAX_SIZE", "0")
    with pytest.raises(ConfigurationError) as refused:
        DatabaseSettings.from_env("AUDIT_")
    assert refused.value.hint == "mend max_size or AUDIT_MAX_SIZE"


@pytest.mark.parametrize("part", ["host", "port", "user", "name", "url"])
def test_a_part_of_the_address_is_no_option_beside_an_address(part):
    with pytest.raises(ConfigurationError, match="belongs into the address"):
        DatabaseSettings.explicit(**{part: "1"})


def test_an_empty_variable_says_nothing(monkeypatch):
    monkeypatch.setenv("DB_MAX_SIZE", "")
    assert DatabaseSettings().max_size == 10


def test_a_port_apart_that_contradicts_the_url_is_refused():
    with pytest.raises(ConfigurationError, match="port"):
        _ = DatabaseSettings(url=SecretStr("postgres://h:5432/d"), port=6432).dsn


def test_the_file_of_settings_may_be_another(tmp_path):
    (tmp_path / "other.env").write_text("DB_MAX_SIZE=4\n")
    assert DatabaseSettings.from_env(env_file=tmp_path / "other.env").max_size == 4


@pytest.mark.parametrize("content", [b"DB_PASSWORD=\xfc\n", None])
def test_a_settings_file_that_cannot_be_read_is_said_plainly(tmp_path, content):
    if content is None:
        (tmp_path / ".env").mkdir()
        assert DatabaseSettings().max_size == 10  # a folder is no file
        return
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match="settings file cannot be read"):
        DatabaseSettings()


def test_a_minimum_above_the_maximum_is_refused():
    with pytest.raises(ConfigurationError, match="min_size=5 is more than max_size=4"):
        DatabaseSettings(min_size=5, max_size=4)


def test_a_misspelt_name_is_refused_with_the_right_one():
    with pytest.raises(ConfigurationError, match="max_sise") as refused:
        DatabaseSettings.explicit(max_sise=5)
    assert "max_size" in refused.value.hint


def test_a_wrong_secret_is_named_and_not_shown():
    with pytest.raises(ConfigurationError) as refused:
        DatabaseSettings(password=["planted-secret"], url=["planted-secret"])
    assert "password" in str(refused.value)
    assert "planted-secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_explicit_settings_do_not_listen_to_the_environment(monkeypatch):
    monkeypatch.setenv("DB_MAX_SIZE", "20")
    monkeypatch.setenv("DATABASE_URL", "postgres://h/d")
    settings = DatabaseSettings.explicit()
    assert (settings.max_size, settings.url) == (10, None)


def test_another_prefix_is_another_database(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://h/main")
    monkeypatch.setenv("AUDIT_MAX_SIZE", "3")
    with pytest.raises(ConfigurationError, match="no database address") as refused:
        _ = DatabaseSettings.from_env("AUDIT_").dsn
    assert refused.value.hint == "set AUDIT_URL, or AUDIT_HOST and AUDIT_USER and AUDIT_PASSWORD and AUDIT_NAME"
    monkeypatch.setenv("AUDIT_URL", "postgres://h/audit")
    settings = DatabaseSettings.from_env("AUDIT_")
    assert (settings.dsn.database, settings.max_size) == ("audit", 3)


def test_the_typed_options_of_database_are_the_settings_without_the_address():
    address = {"url", "user", "host", "port", "name"}
    assert set(DatabaseOptions.__annotations__) == set(DatabaseSettings.model_fields) - address


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        DatabaseSettings().max_size = 5
