"""The two forms of an address, URL and key=value, read into pairs of name and value.

No error quotes the text: where an address cannot be read, any piece of it may be the password.
"""

import re
from urllib.parse import unquote

from pulsepool.dsn.hosts import pair_hosts, split_ports
from pulsepool.dsn.parameters import ALIASES, KNOWN
from pulsepool.errors import ConfigurationError

Pairs = list[tuple[str, str]]

DRIVERS = {"asyncpg": "asyncpg", "psycopg": "psycopg", "psycopg_async": "psycopg", "psycopg2": "psycopg2"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_.+-]*)://")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PAIR = re.compile(
    r"""\s* ([A-Za-z_][A-Za-z0-9_]*) \s*=\s* (?: '( (?: [^'\\] | \\. )* )' | (?!') ( (?: [^\s\\] | \\. )* ) ) \s*""",
    re.DOTALL | re.ASCII | re.VERBOSE,
)
_ENCODE = "percent-encode special characters in the user and password: @ %40, : %3A, / %2F, ? %3F, % %25"
_FORMS = "postgresql://user:password@host:5432/database, or host=… user=… password=… dbname=…"


def read(text: str) -> tuple[Pairs, str | None]:
    """What `text` says, in its order, and the driver that its scheme names. Raises `ConfigurationError`."""
    if not isinstance(text, str):
        raise ConfigurationError(f"an address is text, not {type(text).__name__}", hint=_FORMS)
    if not text.strip(" \t\r\n"):
        raise ConfigurationError("the address is empty", hint=_FORMS)
    if scheme := _SCHEME.match(text.lstrip(" \t\r\n")):
        dialect, plus, driver = scheme[1].partition("+")
        if dialect.lower() not in ("postgres", "postgresql"):
            raise ConfigurationError(
                f"{scheme[1]}:// is not a PostgreSQL address",
                hint="postgresql:// and postgres://, alone or with a driver: "
                + ", ".join(f"+{name}" for name in DRIVERS),
            )
        rest = text.strip(" \t\r\n")[scheme.end() :]
        return _read_url(rest, spaces=bool(plus)), named_driver(driver) if plus else None
    if "=" in text:
        return _read_keywords(text), None
    raise ConfigurationError("the address is neither a URL nor key=value pairs", hint=_FORMS)


def named_driver(name: str) -> str:
    """The driver that SQLAlchemy calls `name`; `psycopg_async` is psycopg. Raises `ConfigurationError`."""
    if name not in DRIVERS:
        raise ConfigurationError(f"{name!r} is not a driver that pulsepool knows", hint="one of " + ", ".join(DRIVERS))
    return DRIVERS[name]


def _read_keywords(text: str) -> Pairs:
    """Read by libpq's rules: `'` quotes a value that has spaces, a backslash takes the next character as it is."""
    pairs: Pairs = []
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ConfigurationError(
                f"key=value pair {len(pairs) + 1} cannot be read",
                hint="a value with spaces goes in '…', with \\' for a quote and \\\\ for a backslash",
            )
        value = pair[3] if pair[2] is None else pair[2]
        pairs.append((pair[1], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)))
        at = pair.end()
    return pairs


def _read_url(rest: str, *, spaces: bool) -> Pairs:
    """Read what follows `://`, when there is one way to.

    By the rule, the last `@` before any `/` or `?` ends the user's part. A raw `/` or `?` in a password leaves an `@`
    behind it, so an `@` there, after a `:`, casts doubt. Taken then is the rule's reading when it has a user's part of
    its own and that `@` in the value of a known parameter; or, when the rule gives no address, the one other reading.
    (In the rest libpq, asyncpg and SQLAlchemy differ, and a wrong guess would send the password to a stranger.)
    """
    end = next((at for at, character in enumerate(rest) if character in "/?"), len(rest))
    ruled = rest.rfind("@", 0, end)
    late = [at for at in range(end, len(rest)) if rest[at] == "@" and ":" in rest[:at]]
    if not late:
        return _read_at(rest, ruled, spaces=spaces)
    if by_rule := _try_at(rest, ruled, spaces=spaces):
        whole = ruled >= 0 and "@" not in rest[end:].partition("?")[0]
        readings = [by_rule] if whole and all(name in KNOWN or name in ALIASES for name, _ in by_rule) else []
    else:
        readings = [reading for at in late if (reading := _try_at(rest, at, spaces=spaces))]
    if len(readings) != 1:
        raise ConfigurationError("there is no sure way to read the address", hint=_ENCODE)
    return readings[0]


def _try_at(rest: str, at: int, *, spaces: bool) -> Pairs | None:
    try:
        return _read_at(rest, at, spaces=spaces)
    except ConfigurationError:
        return None


def _read_at(rest: str, at: int, *, spaces: bool) -> Pairs:
    """Read `rest` with the `@` at index `at` as the end of the user's part; -1: there is no such part."""
    user, _, password = rest[: max(at, 0)].partition(":")
    place, _, query = rest[at + 1 :].partition("?")
    authority, _, path = place.partition("/")
    if "@" in authority:
        raise ConfigurationError("the host has an @", hint=_ENCODE)
    hosts, ports = split_ports(authority)
    hosts, ports = _decode(hosts, "host"), _decode(ports, "port")
    pair_hosts(hosts, ports, quote=bool(password))
    return [
        ("user", _decode(user, "user")),
        ("password", _decode(password, "password")),
        ("host", hosts),
        ("port", ports),
        ("dbname", _decode(path, "dbname")),
        *_read_query(query, spaces=spaces),
    ]


def _read_query(query: str, *, spaces: bool) -> Pairs:
    """The pairs of a query, SQLAlchemy's several `host=h1:5432` as one. `spaces`: read + as one, as SQLAlchemy does."""
    pairs: Pairs = []
    for item in filter(None, query.split("&")):
        name, is_pair, value = item.partition("=")
        if not is_pair or not _NAME.fullmatch(name):
            raise ConfigurationError(f"parameter {len(pairs) + 1} of the query is not name=value", hint=_ENCODE)
        pairs.append((name, _decode(value.replace("+", " ") if spaces else value, name)))
    hosts = [value for name, value in pairs if name == "host"]
    if len(hosts) > 1:
        pairs = [pair for pair in pairs if pair[0] != "host"] + [("host", ",".join(hosts))]
    return pairs


def _decode(text: str, name: str) -> str:
    """Undo percent-encoding. A % without two hex digits behind it is itself."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    # Outside of the `except`, as that error holds the bytes and would stay with this one.
    raise ConfigurationError(f"the percent-encoded bytes of {name} are not UTF-8", hint="write % itself as %25")
