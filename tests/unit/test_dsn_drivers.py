import inspect
import ssl
from typing import Any

import asyncpg
import psycopg2.extensions
import pytest
from asyncpg import connect_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from pulsepool.dsn import Dsn
from pulsepool.dsn.drivers import _ASKS_ASYNCPG_NOTHING, _ASYNCPG_TRANSLATED
from pulsepool.dsn.parameters import CHOICES, KNOWN, PLACES, SECRETS
from pulsepool.errors import ConfigurationError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    """No `PGHOST` or certificate of the person who runs the tests has a say."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE", "PGAPPNAME", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGUSER", "from-environment")
    return tmp_path


def arguments(dsn: Dsn, driver: str) -> dict[str, Any]:
    """What the driver's `connect` gets at last from SQLAlchemy, by its own code."""
    url = dsn.sqlalchemy_url(driver)
    engine = create_async_engine(url).sync_engine if driver == "asyncpg" else create_engine(url)
    _, given = engine.dialect.create_connect_args(url)
    return {**given, **dsn.connect_args(driver)}


def as_asyncpg_reads(dsn: Dsn) -> tuple[list[Any], Any]:
    """Addresses and parameters, from asyncpg's own code."""
    given = arguments(dsn, "asyncpg")
    given.pop("prepared_statement_cache_size", None)
    bound = inspect.signature(asyncpg.connect).bind(**given)
    bound.apply_defaults()
    wanted = inspect.signature(connect_utils._parse_connect_arguments).parameters
    addresses, parameters, _ = connect_utils._parse_connect_arguments(
        **{name: value for name, value in bound.arguments.items() if name in wanted}
    )
    return addresses, parameters


def as_psycopg_reads(dsn: Dsn) -> dict[str, Any]:
    given = arguments(dsn, "psycopg")
    given.pop("context", None)  # SQLAlchemy's adapters
    return conninfo_to_dict(make_conninfo(**given))


def as_psycopg2_reads(dsn: Dsn) -> dict[str, Any]:
    return psycopg2.extensions.parse_dsn(psycopg2.extensions.make_dsn(**arguments(dsn, "psycopg2")))


@given(user=texts, password=texts, database=texts, port=st.integers(1, 65535))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_user_password_and_database_reach_every_driver_whole(user, password, database, port):
    dsn = Dsn.from_parts(user=user, password=password, host="db1", port=port, database=database)
    expected = {"user": user, "password": password, "host": "db1", "port": str(port), "dbname": database}
    assert as_psycopg_reads(dsn) == expected
    assert as_psycopg2_reads(dsn) == expected
    addresses, parameters = as_asyncpg_reads(dsn)
    assert addresses == [("db1", port)]
    assert (parameters.user, parameters.password, parameters.database) == (user, password, database)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2"])
def test_one_host_with_sslmode_needs_no_arguments_beside_the_url(driver):
    dsn = Dsn.parse("postgresql://ed:p%40ss@db1:5433/edbot?sslmode=require")
    assert dsn.connect_args(driver) == {}
    key = "ssl" if driver == "asyncpg" else "sslmode"
    assert dsn.sqlalchemy_url(driver).render_as_string(hide_password=False) == (
        f"postgresql+{driver}://ed:p%40ss@db1:5433/edbot?{key}=require"
    )
    assert "p%40ss" not in str(dsn.sqlalchemy_url(driver))


def test_the_psycopg_url_serves_async_engines_too():
    url = Dsn.parse("postgresql+asyncpg://ed@db1/edbot").sqlalchemy_url("psycopg")
    assert create_async_engine(url).dialect.is_async
    assert not create_engine(url).dialect.is_async


@pytest.mark.parametrize(
    ("text", "addresses", "host", "port"),
    [
        ("postgresql://db1", [("db1", 5432)], "db1", None),
        ("postgresql://[::1]:5433", [("::1", 5433)], "::1", "5433"),
        ("postgresql://db1:5432,db2:5433", [("db1", 5432), ("db2", 5433)], "db1,db2", "5432,5433"),
        ("postgresql://db1,[::1]", [("db1", 5432), ("::1", 5432)], "db1,::1", None),
        ("postgresql://db1,db2:5433", [("db1", 5432), ("db2", 5433)], "db1,db2", ",5433"),
        ("host=/run/pg", ["/run/pg/.s.PGSQL.5432"], "/run/pg", None),
        ("host=/run/pg port=5433", ["/run/pg/.s.PGSQL.5433"], "/run/pg", "5433"),
        ("host=/run/pg,db1 port=1,2", ["/run/pg/.s.PGSQL.1", ("db1", 2)], "/run/pg,db1", "1,2"),
    ],
)
def test_hosts_and_sockets_mean_the_same_to_every_driver(text, addresses, host, port):
    dsn = Dsn.parse(text)
    assert as_asyncpg_reads(dsn)[0] == addresses
    for read in (as_psycopg_reads(dsn), as_psycopg2_reads(dsn)):
        assert (read["host"], read.get("port")) == (host, port)
    is_in_url = len(addresses) == 1 and not host.startswith("/")
    assert {dsn.sqlalchemy_url(driver).host for driver in ("asyncpg", "psycopg")} == {host if is_in_url else None}


def test_an_address_that_says_nothing_leaves_all_to_the_drivers_environment():
    dsn = Dsn.parse("postgresql://")
    assert as_asyncpg_reads(dsn)[1].user == "from-environment"
    assert [dsn.connect_args(driver) for driver in ("asyncpg", "psycopg", "psycopg2")] == [{}, {}, {}]
    url = Dsn.parse("postgresql://:5433/").sqlalchemy_url("asyncpg")
    assert (url.host, url.port) == (None, 5433)


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_a_mode_that_verifies_nothing_is_that_mode_to_asyncpg(mode):
    parameters = as_asyncpg_reads(Dsn.parse(f"postgresql://db1/?sslmode={mode}"))[1]
    assert parameters.sslmode is connect_utils.SSLMode[mode]
    assert parameters.ssl.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(("mode", "checks_name"), [("require", False), ("verify-ca", False), ("verify-full", True)])
def test_a_mode_with_roots_verifies_as_libpq_does(mode, checks_name, trusted):
    dsn = Dsn.from_parts(host="db1", sslmode=mode, sslrootcert=str(trusted))
    parameters = as_asyncpg_reads(dsn)[1]
    assert parameters.sslmode is connect_utils.SSLMode.parse(mode)
    assert trusted.loaded[0] == str(trusted)
    assert (parameters.ssl.verify_mode, parameters.ssl.check_hostname) == (ssl.CERT_REQUIRED, checks_name)


def test_without_sslmode_and_with_disable_asyncpg_does_as_libpq():
    assert as_asyncpg_reads(Dsn.parse("postgresql://db1"))[1].sslmode is connect_utils.SSLMode.prefer
    disabled = as_asyncpg_reads(Dsn.parse("postgresql://db1?sslmode=disable"))[1]
    assert (disabled.sslmode, disabled.ssl) == (connect_utils.SSLMode.disable, False)


def test_verify_full_without_roots_is_refused_by_asyncpg_as_by_libpq():
    with pytest.raises(asyncpg.exceptions.ClientConfigurationError, match="does not exist"):
        as_asyncpg_reads(Dsn.parse("postgresql://db1?sslmode=verify-full"))


class Trusted:
    """The name of a CA file, and what TLS files were loaded: recorded, not done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loaded: list[Any] = []

    def __str__(self) -> str:
        return self.name


@pytest.fixture
def trusted(bare_environment, monkeypatch):
    trusted = Trusted(str(bare_environment / "ca & more.crt"))
    monkeypatch.setattr(
        ssl.SSLContext, "load_verify_locations", lambda self, cafile: trusted.loaded.append(str(cafile))
    )
    monkeypatch.setattr(
        ssl.SSLContext,
        "load_cert_chain",
        lambda self, certfile, keyfile, password: trusted.loaded.append((str(certfile), str(keyfile), password())),
    )
    return trusted


TLS_FILES = {
    "sslcert": "/c+1.crt",
    "sslkey": "/c 1.key",
    "sslpassword": "s3&cret%",
    "sslcrl": "/r.crl",
    "ssl_min_protocol_version": "TLSv1.3",
    "ssl_max_protocol_version": "TLSv1.3",
}


def test_tls_files_reach_asyncpg_whole(trusted):
    dsn = Dsn.from_parts(host="db1", sslmode="verify-full", sslrootcert=str(trusted), **TLS_FILES)
    context = as_asyncpg_reads(dsn)[1].ssl
    assert trusted.loaded == [str(trusted), "/r.crl", ("/c+1.crt", "/c 1.key", "s3&cret%")]
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_CHAIN


def test_the_systems_roots_check_chain_and_name_for_asyncpg(trusted):
    parameters = as_asyncpg_reads(Dsn.parse("postgresql://db1?sslrootcert=system"))[1]
    assert parameters.sslmode >= connect_utils.SSLMode.require
    assert (parameters.ssl.verify_mode, parameters.ssl.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert parameters.ssl.minimum_version is ssl.TLSVersion.TLSv1_2
    assert trusted.loaded == []


def test_the_systems_roots_are_openssls_own(monkeypatch):
    asked = []

    def record(context):
        asked.append(context)

    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", record)
    dsn = Dsn.parse("postgresql://db1?sslrootcert=system&sslmode=verify-full")
    assert asked == [dsn.connect_args("asyncpg")["ssl"]]


def test_the_systems_roots_go_with_the_other_tls_files(trusted, monkeypatch):
    offered = []
    monkeypatch.setattr(ssl.SSLContext, "set_alpn_protocols", lambda self, protocols: offered.extend(protocols))
    dsn = Dsn.from_parts(host="db1", sslrootcert="system", sslnegotiation="direct", **TLS_FILES)
    parameters = as_asyncpg_reads(dsn)[1]
    assert trusted.loaded == ["/r.crl", ("/c+1.crt", "/c 1.key", "s3&cret%")]
    assert parameters.ssl.minimum_version == parameters.ssl.maximum_version == ssl.TLSVersion.TLSv1_3
    assert parameters.ssl.verify_flags & ssl.VERIFY_CRL_CHECK_CHAIN
    assert parameters.ssl_negotiation is connect_utils.SSLNegotiation.direct
    assert offered == ["postgresql"]  # PostgreSQL takes no direct TLS without it


def test_the_systems_roots_go_with_the_files_at_home_and_in_the_environment(trusted, bare_environment, monkeypatch):
    home = bare_environment / ".postgresql"
    home.mkdir()
    (home / "postgresql.crt").touch()
    monkeypatch.setenv("PGSSLCRL", "/env.crl")
    Dsn.parse("postgresql://db1?sslrootcert=system").connect_args("asyncpg")
    assert trusted.loaded == ["/env.crl", (str(home / "postgresql.crt"), "None", "")]


def test_a_tls_file_that_cannot_be_used_is_named():
    dsn = Dsn.parse("postgresql://db1?sslrootcert=system&sslcert=/no/such.crt")
    with pytest.raises(ConfigurationError, match=r"TLS file /no/such\.crt cannot be used: No such file"):
        dsn.connect_args("asyncpg")


def test_session_parameters_reach_asyncpg():
    dsn = Dsn.parse(
        "postgresql://a,b/?application_name=ed&fallback_application_name=x&options=-c%20jit%3Doff&connect_timeout=5"
        "&target_session_attrs=read-write&krbsrvname=pg&gsslib=gssapi&passfile=/p&sslnegotiation=postgres"
        "&command_timeout=2.5&statement_cache_size=0&prepared_statement_cache_size=0&plugin=pulsepool"
    )
    assert dsn.connect_args("asyncpg") == {
        "host": ["a", "b"],
        "timeout": 10.0,  # for both
        "server_settings": {"application_name": "ed", "options": "-c jit=off"},
        "target_session_attrs": "read-write",
        "krbsrvname": "pg",
        "gsslib": "gssapi",
        "passfile": "/p",
        "direct_tls": False,
        "command_timeout": 2.5,
        "statement_cache_size": 0,
    }
    assert arguments(dsn, "asyncpg")["prepared_statement_cache_size"] == 0
    parameters = as_asyncpg_reads(dsn)[1]
    assert parameters.target_session_attrs.value == "read-write"
    assert parameters.server_settings == {"application_name": "ed", "options": "-c jit=off"}


def test_a_connect_timeout_of_zero_is_no_limit_and_one_host_has_it_alone():
    assert Dsn.parse("postgresql://a?connect_timeout=0").connect_args("asyncpg") == {"timeout": None}
    assert Dsn.parse("postgresql://?connect_timeout=7").connect_args("asyncpg") == {"timeout": 7.0}


def test_the_fallback_name_stands_behind_the_environments(monkeypatch):
    dsn = Dsn.parse("postgresql://a?fallback_application_name=x")
    assert dsn.connect_args("asyncpg") == {"server_settings": {"application_name": "x"}}
    monkeypatch.setenv("PGAPPNAME", "env")
    assert dsn.connect_args("asyncpg") == {"server_settings": {"application_name": "env"}}


def test_libpqs_drivers_get_every_parameter_as_it_is():
    values = {name: choices[-1] for name, choices in CHOICES.items()}
    values |= {"connect_timeout": "5", "sslrootcert": "/ca 1.crt", "options": "-c search_path=a\\ b", "passfile": "/p'"}
    values |= {"sslpassword": "s3'cret", "require_auth": "scram-sha-256", "krbsrvname": "pg"}
    expected = {"host": "db1", **values}
    dsn = Dsn.from_parts(**expected, plugin="pulsepool", command_timeout=2, prepared_statement_cache_size=0)
    assert as_psycopg_reads(dsn) == expected
    of_psycopg2 = as_psycopg2_reads(dsn.replace(min_protocol_version=None, max_protocol_version=None))  # libpq 17
    assert of_psycopg2 == {name: v for name, v in expected.items() if not name.startswith(("min_", "max_"))}


WORTH = {"connect_timeout": 5, "hostaddr": "::1", "require_auth": "md5", "command_timeout": 1}


@pytest.mark.parametrize("name", sorted(KNOWN - PLACES - _ASYNCPG_TRANSLATED - {"service"}))
def test_what_asyncpg_cannot_do_is_refused_unless_it_asks_for_nothing(name):
    harmless = _ASKS_ASYNCPG_NOTHING.get(name, ())
    for value in harmless:
        assert Dsn.from_parts(host="db1", **{name: value}).connect_args("asyncpg") == {}
    wishes = [choice for choice in CHOICES.get(name, (WORTH.get(name, "7"),)) if choice not in harmless]
    for value in wishes:
        dsn = Dsn.from_parts(host="db1", **{name: value})
        with pytest.raises(ConfigurationError, match=f"asyncpg cannot honour {name}") as caught:
            dsn.connect_args("asyncpg")
        assert caught.value.hint
    assert wishes or name == "sslcompression" or name == "keepalives" or name == "max_protocol_version"


def test_no_demand_for_security_is_harmless_to_asyncpg():
    for name, value in [
        ("channel_binding", "require"),
        ("gssencmode", "require"),
        ("sslcertmode", "require"),
        ("require_auth", "scram-sha-256"),
        ("requirepeer", "postgres"),
        ("sslcrldir", "/crl"),
        ("min_protocol_version", "3.2"),
    ]:
        with pytest.raises(ConfigurationError, match=f"asyncpg cannot honour {name}"):
            Dsn.from_parts(host="db1", **{name: value}).connect_args("asyncpg")


def test_a_refusal_tells_which_driver_can_and_quotes_no_secret():
    with pytest.raises(ConfigurationError) as caught:
        Dsn.parse("postgresql://db1?channel_binding=require").connect_args("asyncpg")
    assert str(caught.value) == (
        "asyncpg cannot honour channel_binding=require\n"
        "  hint: remove it, or connect with psycopg or psycopg2, which can"
    )
    for name in SECRETS - {"password", "sslpassword"}:
        with pytest.raises(ConfigurationError, match=f"^asyncpg cannot honour {name}\n"):
            Dsn.from_parts(**{name: "hunter2"}).connect_args("asyncpg")


def test_an_abstract_socket_is_refused_for_asyncpg():
    dsn = Dsn.parse("host=@ed dbname=edbot")
    assert as_psycopg_reads(dsn)["host"] == "@ed"
    with pytest.raises(ConfigurationError, match="abstract socket"):
        dsn.connect_args("asyncpg")


def test_an_unknown_driver_is_refused_by_name():
    dsn = Dsn.parse("postgresql://db1")
    for ask in (dsn.sqlalchemy_url, dsn.connect_args):
        with pytest.raises(ConfigurationError, match="'pg8000' is not a driver"):
            ask("pg8000")
