from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from pulsepool.dsn import Dsn, Host
from pulsepool.dsn.parameters import CHOICES, KNOWN
from pulsepool.errors import ConfigurationError


def resolvable(name: str) -> bool:
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
labels = st.from_regex(r"[a-zäß0-9_-]{1,10}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(resolvable)
sockets = texts.filter(lambda text: "," not in text).map(lambda text: "/" + text)
hosts = st.builds(
    Host, st.one_of(names, sockets, st.ip_addresses(v=6).map(str)), st.one_of(st.none(), st.integers(1, 65535))
)
some = st.none() | texts
addresses = st.fixed_dictionaries(
    {"user": some, "password": some, "database": some, "application_name": some, "sslpassword": some, "options": some}
)


def secret(dsn: Dsn) -> str | None:
    return dsn.password.get_secret_value() if dsn.password else None


def reveal(dsn: Dsn) -> str:
    return dsn.render(hide_password=False)


def from_parts(servers: list[Host], parts: Mapping[str, str | None], driver: str | None = None) -> Dsn:
    ports = [str(server.port or "") for server in servers]
    return Dsn.from_parts(
        host=",".join(server.host for server in servers) or None,
        port=",".join(ports) if any(ports) else None,
        driver=driver,
        **parts,
    )


def as_libpq_has_it(dsn: Dsn) -> dict[str, str]:
    """What libpq's own parser would find in the same address."""
    found = {"user": dsn.user, "password": secret(dsn), "dbname": dsn.database, **dsn.parameters}
    found["host"] = ",".join(host.host for host in dsn.hosts)
    if any(host.port for host in dsn.hosts):
        found["port"] = ",".join(str(host.port or "") for host in dsn.hosts)
    found |= {name: value.get_secret_value() for name, value in dsn.secrets.items()}
    return {name: value for name, value in found.items() if value}


@given(st.lists(hosts, max_size=3), addresses, st.sampled_from([None, "asyncpg", "psycopg", "psycopg2"]))
def test_what_was_rendered_parses_to_the_same(servers, parts, driver):
    dsn = from_parts(servers, parts, driver)
    assert (dsn.user, secret(dsn), dsn.database) == (parts["user"], parts["password"], parts["database"])
    assert dsn.hosts == tuple(servers)
    again = Dsn.parse(reveal(dsn))
    assert again == dsn
    assert hash(again) == hash(dsn)
    assert reveal(again) == reveal(dsn)


@given(st.lists(hosts, max_size=3), addresses)
def test_libpq_reads_a_rendered_address_as_we_do(servers, parts):
    dsn = from_parts(servers, parts)
    of_libpq = conninfo_to_dict(reveal(dsn))
    if not str(of_libpq.get("port", "")).strip(","):
        of_libpq.pop("port", None)  # a list of empty ports
    assert of_libpq == as_libpq_has_it(dsn)


@given(addresses, st.sampled_from(["=", " = ", "=\t"]))
def test_key_value_pairs_are_read_as_libpq_reads_them(parts, equals):
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    spelled = {"database": "dbname"}
    text = "host=db1 " + " ".join(f"{spelled.get(n, n)}{equals}{quoted(v)}" for n, v in parts.items() if v is not None)
    dsn = Dsn.parse(text)
    assert as_libpq_has_it(dsn) == conninfo_to_dict(text)
    assert Dsn.parse(reveal(dsn)) == dsn


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0%"), min_size=1))
@settings(max_examples=300)
def test_a_raw_password_is_taken_whole_or_not_at_all(password):
    text = f"postgresql://ed:{password}@db1/edbot"
    if "/" in password or "?" in password:
        try:
            dsn = Dsn.parse(text)
        except ConfigurationError:
            return
    else:
        dsn = Dsn.parse(text)
    assert (dsn.user, secret(dsn), dsn.hosts, dsn.database) == ("ed", password, (Host("db1"),), "edbot")


@pytest.mark.parametrize(
    ("raw", "password"),
    [
        ("p@ss:w/rd#?", "p@ss:w/rd#?"),
        ("p:w", "p:w"),
        ("p#w", "p#w"),
        ("p w", "p w"),
        ("p/w", "p/w"),
        ("p?w", "p?w"),
        ("p?w=x", "p?w=x"),
        ("p@ss?word", "p@ss?word"),
        ("@@", "@@"),
        ("p/@", "p/@"),
        ("a/b:c?d@e", "a/b:c?d@e"),
        ("100%", "100%"),
        ("100%zz", "100%zz"),
        ("p%40w", "p@w"),
        ("p%2fw", "p/w"),
        ("p+w", "p+w"),
        ("pässwörd", "pässwörd"),
    ],
)
def test_special_characters_in_a_password_may_be_raw(raw, password):
    dsn = Dsn.parse(f"postgresql://ed:{raw}@db1:5433/edbot?sslmode=require")
    assert (dsn.user, secret(dsn), dsn.where, dsn.database) == ("ed", password, "db1:5433", "edbot")
    assert dsn.parameters == {"sslmode": "require"}


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ed:12/w@db1/edbot",  # or port 12 of host ed
        "postgresql://ed:p@ss/w@db1/edbot",  # or host ss
        "postgresql://ed:p/w@db1/edbot?application_name=me@home",  # or host home
        "postgresql://ed:p@ss?w=x@db1/edbot",
        "postgresql://ed:p@db1/edbot?aplication_name=me@home",
        "postgresql://db1:5432/edbot?application_name=me@home",  # SQLAlchemy sees a password here, asyncpg a port
        "postgresql://db1:5432?application_name=me@home",  # libpq too sees a password here
        "postgresql://corp/ed:pw@db1/edbot",  # or host corp
        "postgresql://ed:12/w@db1:port/edbot",  # by the rule, host ed: never the mended password
        "postgresql://ed:pw@db1/me@home",
        "postgresql://ed:x:y/p@a b/",
        "postgresql://ed:p/w@/@",
    ],
)
def test_an_address_without_a_sure_reading_is_refused(text):
    with pytest.raises(ConfigurationError, match="no sure way") as caught:
        Dsn.parse(text)
    assert "/ %2F" in caught.value.hint


def test_an_at_in_a_parameter_after_a_whole_address_is_no_riddle():
    dsn = Dsn.parse("postgresql://ed:pw@db1/edbot?application_name=me@home")
    assert (dsn.where, dsn.parameters["application_name"]) == ("db1", "me@home")
    assert Dsn.parse("postgresql://db1/edbot?application_name=me@home").where == "db1"
    assert Dsn.parse("postgresql://ed@db1/me@home").database == "me@home"


def test_a_user_of_the_form_name_at_server_is_one_user():
    dsn = Dsn.parse("postgresql://ed@corp:pw@db1/edbot")
    assert (dsn.user, secret(dsn), dsn.where) == ("ed@corp", "pw", "db1")


@pytest.mark.parametrize(
    ("scheme", "driver"),
    [
        ("postgres", None),
        ("postgresql", None),
        ("PostgreSQL", None),
        ("postgresql+asyncpg", "asyncpg"),
        ("postgresql+psycopg", "psycopg"),
        ("postgresql+psycopg_async", "psycopg"),
        ("postgresql+psycopg2", "psycopg2"),
    ],
)
def test_the_driver_that_the_scheme_names_is_remembered(scheme, driver):
    dsn = Dsn.parse(f" {scheme}://ed:pw@db1/edbot\n")
    assert dsn == Dsn.from_parts(user="ed", password="pw", host="db1", database="edbot", driver=driver)


@pytest.mark.parametrize(
    ("text", "where", "database"),
    [
        ("postgresql://", "the default host", None),
        ("postgresql:///edbot", "the default host", "edbot"),
        ("postgresql://:5433/edbot", "the default host:5433", "edbot"),
        ("postgresql://db1:5432,db2:5433/edbot", "db1:5432, db2:5433", "edbot"),
        ("postgresql://db1,db2:5433", "db1, db2:5433", None),
        ("postgresql://db1,db2/edbot?port=5433", "db1:5433, db2:5433", "edbot"),
        ("postgresql://[::1]:5432,db2/edbot", "[::1]:5432, db2", "edbot"),
        ("postgresql://[fe80::1%25eth0]/edbot", "[fe80::1%eth0]", "edbot"),
        ("postgresql://%2Frun%2Fpostgresql:5433/edbot", "/run/postgresql:5433", "edbot"),
        ("postgresql://%64b1:5432/%65dbot", "db1:5432", "edbot"),
        ("postgresql:///edbot?host=/sock", "/sock", "edbot"),
        ("postgresql://:5433/edbot?host=/sock", "/sock:5433", "edbot"),
        ("postgresql://?host=db1&port=5433&dbname=edbot", "db1:5433", "edbot"),
        ("postgresql:///edbot?host=db1:5432&host=db2:5433", "db1:5432, db2:5433", "edbot"),
        ("postgresql:///edbot?host=db1:5432&host=[::1]:5433&", "db1:5432, [::1]:5433", "edbot"),
        ("postgresql:///edbot?host=db1,db2&port=5432,5433", "db1:5432, db2:5433", "edbot"),
        ("postgresql://db1/edbot?host=db1&database=edbot", "db1", "edbot"),
        ("postgresql://db1/a/b#c", "db1", "a/b#c"),
        ("host=db1,db2 port=5433", "db1:5433, db2:5433", None),
        ("host=::1 port=5433", "[::1]:5433", None),
        ("host=[::1] dbname=edbot", "[::1]", "edbot"),
        ("host=/run/postgresql database=edbot", "/run/postgresql", "edbot"),
        ("host=@abstract", "@abstract", None),
        ("host='' dbname=edbot", "the default host", "edbot"),
    ],
)
def test_every_way_to_name_servers_is_understood(text, where, database):
    dsn = Dsn.parse(text)
    assert (dsn.where, dsn.database) == (where, database)
    assert Dsn.parse(reveal(dsn)) == dsn


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("postgresql+asyncpg://db1/?ssl=verify-full", {"sslmode": "verify-full"}),
        ("postgresql://db1/?ssl=true", {"sslmode": "require"}),
        ("postgresql+psycopg2://db1/?options=-c+search_path%3Dapp", {"options": "-c search_path=app"}),
        ("postgresql://db1/?application_name=a+b", {"application_name": "a+b"}),  # as libpq
        ("postgresql+asyncpg://db1/?prepared_statement_cache_size=0", {"prepared_statement_cache_size": "0"}),
        ("postgresql+asyncpg://db1/?plugin=other&plugin=pulsepool", {"plugin": "other,pulsepool"}),
        ("postgresql://db1/?sslmode=require&sslmode=require", {"sslmode": "require"}),
        ("postgresql://db1/?application_name=&sslcert=", {}),
        ("host=db1 require_auth=!password,!md5", {"require_auth": "!password,!md5"}),
        ("host=a,b hostaddr=10.0.0.1,::1", {"hostaddr": "10.0.0.1,::1"}),
    ],
)
def test_parameters_come_under_the_names_of_libpq(text, parameters):
    dsn = Dsn.parse(text)
    assert dsn.parameters == parameters
    assert Dsn.parse(reveal(dsn)) == dsn


def test_several_plugins_render_as_sqlalchemy_wants_them():
    assert str(Dsn.parse("postgresql://db1?plugin=a&plugin=b")) == "postgresql://db1?plugin=a&plugin=b"


def test_every_keyword_of_libpq_is_known():
    of_libpq = {option.keyword.decode() for option in Conninfo.get_defaults()}
    assert len(of_libpq) > 40
    assert of_libpq <= KNOWN


@pytest.mark.parametrize("name", CHOICES)
def test_a_value_that_is_no_choice_is_refused_with_the_choices(name):
    for choice in CHOICES[name]:
        assert Dsn.from_parts(**{name: choice}).parameters == {name: choice}
    for wrong in ("nonsense", ""):
        with pytest.raises(ConfigurationError, match=f"{name}='{wrong}' is not a ") as caught:
            Dsn.from_parts(**{name: wrong})
        assert caught.value.hint == "one of " + ", ".join(CHOICES[name])


def test_a_refusal_tells_what_is_allowed():
    with pytest.raises(ConfigurationError) as caught:
        Dsn.parse("postgresql://db1/edbot?sslmode=requires")
    assert str(caught.value) == (
        "sslmode='requires' is not a mode\n  hint: one of disable, allow, prefer, require, verify-ca, verify-full"
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (" \n", "the address is empty", "postgresql://user:password@host:5432/database"),
        ("db1", "neither a URL nor key=value", "host=…"),
        ("mysql://ed:pw@db1/x", "^mysql:// is not", "postgres://"),
        ("postgresql+pg8000://db1", "'pg8000' is not a driver", "asyncpg, psycopg, psycopg_async, psycopg2"),
        ("postgresql://ed:pw@db1:0/x", "port=0 of host 1 of 1 is not", "1 to 65535"),
        ("postgresql://ed:pw@db1,db2:65536/x", "port=65536 of host 2 of 2 is not", "1 to 65535"),
        ("postgresql://ed:pw@db1:abc/x", "^port of host 1 of 1 is not", "1 to 65535"),
        ("host=db1 port=-1", "port=-1 of host 1 of 1 is not", "1 to 65535"),
        ("host=db1 port=٣", "^port of host 1 of 1 is not", "1 to 65535"),
        ("host=a,b,c port=1,2", "2 ports for 3 hosts", "one for each"),
        ("port=1,2", "2 ports for 1 hosts", "one for each"),
        ("postgresql://db1,/x", "host 2 of 2 is empty", "name each"),
        ("postgresql://[::g]/x", "host 1 of 1 is not an IPv6", "percent-encode"),
        ("host='a b'", "host 1 of 1 has a character", "percent-encode"),
        ("postgresql://db1[/x", "host 1 of 1 has a character", "percent-encode"),
        ("postgresql://db1/x?sslmode", "parameter 1 of the query", "percent-encode"),
        ("postgresql://db1/x?sslmode=require&a.b=c", "parameter 2 of the query", "percent-encode"),
        ("postgresql://db1/%FF", "bytes of dbname are not UTF-8", "%25"),
        ("host=db1 password='open", "pair 2 cannot be read", r"\'"),
        ("host=db1 password=two words", "pair 3 cannot be read", r"\'"),
        ("host=db1 user", "pair 2 cannot be read", r"\'"),
        ("postgresql://db1/x?sslmod=require", "unknown parameter 'sslmod'", "did you mean 'sslmode'?"),
        ("host=db1 username=ed", "unknown parameter 'username'", "did you mean 'user'?"),
        ("host=db1 jit=off", "unknown parameter 'jit'", "in options: -c jit=value"),
        ("host=a host=b", "host is given twice, and differently", "keep one host"),
        ("postgresql://db1/x?host=db2", "host is given twice", "keep one host"),
        ("postgresql://db1:1/x?port=2", "port is given twice", "keep one port"),
        ("postgresql://db1/x?dbname=y", "dbname is given twice", "keep one dbname"),
        ("postgresql://ed@db1/x?user=eve", "user is given twice", "keep one user"),
        ("postgresql://ed:a@db1/x?password=b", "password is given twice", "keep one password"),
        ("postgresql://db1/x?sslmode=require&ssl=prefer", "sslmode is given twice", "keep one sslmode"),
        ("postgresql://ed%00@db1", "user holds a NUL", "remove"),
        ("host=db1 dbname=\udc80", "dbname is not Unicode", "UTF-8"),
        ("host=db1 connect_timeout=-1", "connect_timeout='-1' is not a whole number", "0 for no limit"),
        ("host=db1 connect_timeout=2.5", "connect_timeout='2.5' is not a whole number", "0 for no limit"),
        ("host=db1 keepalives_idle=9999999999", "keepalives_idle='9999999999' is not a whole", "from 0 to 999999999"),
        ("host=db1 command_timeout=0", "command_timeout='0' is not a time", "more than 0"),
        ("host=db1 command_timeout=soon", "command_timeout='soon' is not a time", "more than 0"),
        ("host=db1 require_auth=sha", "require_auth='sha' names an unknown", "scram-sha-256"),
        ("host=db1 require_auth=''", "require_auth='' names an unknown", "scram-sha-256"),
        ("host=db1 require_auth=md5,!password", "require_auth both requires and forbids", "!"),
        ("host=db1 hostaddr=db1", "hostaddr is not an IP", "host"),
        ("host=db1 hostaddr=''", "hostaddr is empty", "IP"),
        ("host=a,b hostaddr=10.0.0.1", "1 addresses in hostaddr for 2 hosts", "each"),
        ("host=db1 sslrootcert=system sslmode=require", "system contradicts sslmode=require", "verify-full"),
        ("host=db1 sslnegotiation=direct sslmode=prefer", "direct contradicts sslmode=prefer", "verify-ca"),
        (
            "host=db1 ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "ssl_min_protocol_version=TLSv1.3 is above",
            "raise",
        ),
        ("host=db1 min_protocol_version=3.2 max_protocol_version=3.0", "min_protocol_version=3.2 is above", "raise"),
        ("host=db1 sslmode=a/b:c@d", "the value of sslmode is not a mode", "require"),
    ],
)
def test_a_wrong_address_is_refused_by_name_with_a_remedy(text, message, hint):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Dsn.parse(text)
    assert hint in caught.value.hint


def test_parts_may_be_changed_and_taken_away():
    dsn = Dsn.parse("postgresql+psycopg://ed:pw@db1:5433/edbot?sslmode=require&application_name=ed")
    assert str(dsn.replace(database="test_1", sslmode=None)) == (
        "postgresql+psycopg://ed:***@db1:5433/test_1?application_name=ed"
    )
    assert dsn.replace(host="db2", port=None, password="new", driver=None, options="-c jit=off") == Dsn.parse(
        "postgresql://ed:new@db2/edbot?sslmode=require&application_name=ed&options=-c%20jit%3Doff"
    )
    assert dsn.replace() == dsn
    with pytest.raises(ConfigurationError, match="unknown parameter 'pasword'"):
        dsn.replace(pasword="x")


def test_merged_parts_fill_gaps_and_may_not_contradict():
    dsn = Dsn.parse("postgresql://ed@db1/edbot")
    assert dsn.merge(user="ed", password="pw", port=5433, host=None) == Dsn.parse("postgresql://ed:pw@db1:5433/edbot")
    with pytest.raises(ConfigurationError, match="dbname is given twice"):
        dsn.merge(database="other")


def test_parts_are_taken_as_they_are():
    dsn = Dsn.from_parts(
        user="e%40d", password="p@ss:w/rd", host="db1,db2", port=5433, database="a/b", connect_timeout=5
    )
    assert str(dsn) == "postgresql://e%2540d:***@db1:5433,db2:5433/a%2Fb?connect_timeout=5"
    assert secret(dsn) == "p@ss:w/rd"


@pytest.fixture
def service_file(tmp_path, monkeypatch):
    file = tmp_path / "services.conf"
    file.write_text(
        "# ours\n[other]\nhost=wrong\n[edbot]\nhost=db1\nport=5433\n\n# no comment\nuser=ed\n"
        "password=p%ss=w#rd\nsslmode=verify-full\n[last]\nhost=wrong\nservice=edbot\n[torn]\nhost\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.delenv("PGSYSCONFDIR", raising=False)
    return file


def test_a_service_is_looked_up_and_the_address_comes_first(service_file):
    dsn = Dsn.parse("service=edbot user=eve dbname=edbot")
    assert dsn == Dsn.parse("postgresql://eve:p%25ss%3Dw%23rd@db1:5433/edbot?sslmode=verify-full")


def test_a_service_is_also_looked_for_at_home_and_in_the_system(service_file, monkeypatch, tmp_path):
    monkeypatch.delenv("PGSERVICEFILE")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    with pytest.raises(ConfigurationError, match=r"no service 'edbot' in .*/nobody/\.pg_service\.conf\n"):
        Dsn.parse("postgresql://?service=edbot")
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    service_file.rename(tmp_path / "pg_service.conf")
    assert Dsn.parse("postgresql://?service=edbot").where == "db1:5433"


@pytest.mark.parametrize(
    ("service", "message"), [("none", "no service 'none' in "), ("last", "line 14 of "), ("torn", "line 16 of ")]
)
def test_a_service_that_cannot_be_had_is_refused(service_file, service, message):
    with pytest.raises(ConfigurationError, match=message):
        Dsn.from_parts(service=service)


def test_a_service_file_that_cannot_be_read_is_named(service_file):
    service_file.write_bytes(b"[edbot]\nuser=\xff")
    with pytest.raises(ConfigurationError, match=r"services\.conf cannot be read: UnicodeDecodeError"):
        Dsn.from_parts(service="edbot")


@pytest.mark.parametrize("host", ["db..internal", "x" * 64, f"{'x' * 64}.example"])
def test_a_name_that_no_resolver_would_take_is_refused(host):
    with pytest.raises(ConfigurationError, match="is no host name"):
        Dsn.parse(f"postgresql://ed@{host}/edbot")
