"""What an address may say: every keyword of libpq, the values each can have, and what contradicts what.

The keywords are those of libpq 18 (PostgreSQL documentation, "Parameter Key Words"), with asyncpg's own beside them.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from pulsepool.dsn.hosts import split_ports
from pulsepool.errors import ConfigurationError

V = TypeVar("V")

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_PROTOCOLS = ("3.0", "3.2", "latest")
_THREE_WILLS = ("disable", "prefer", "require")
_SWITCH = ("0", "1")

CHOICES: dict[str, tuple[str, ...]] = {
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "sslcertmode": ("disable", "allow", "require"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "min_protocol_version": _PROTOCOLS,
    "max_protocol_version": _PROTOCOLS,
    "channel_binding": _THREE_WILLS,
    "gssencmode": _THREE_WILLS,
    "gsslib": ("gssapi", "sspi"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
    "replication": ("database", "true", "on", "yes", "1", "false", "off", "no", "0"),
    "sslsni": _SWITCH,
    "sslcompression": _SWITCH,
    "keepalives": _SWITCH,
    "gssdelegation": _SWITCH,
}
ASYNCPG_WHOLE_NUMBERS = frozenset(
    {"statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size"}
)
# The first is that of SQLAlchemy's dialect, the others are asyncpg.connect's; none means a thing to libpq.
ASYNCPG_OWN = ASYNCPG_WHOLE_NUMBERS | {"prepared_statement_cache_size", "command_timeout"}
_WHOLE_NUMBERS = (ASYNCPG_OWN - {"command_timeout"}) | {
    "connect_timeout",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
}
SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
PLACES = frozenset({"user", "password", "host", "port", "dbname"})  # `Dsn` has a field for each
_LISTS = frozenset({"hostaddr", "require_auth"})
_TEXTS = frozenset(
    {
        *("service", "passfile", "options", "application_name", "fallback_application_name", "client_encoding"),
        *("sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir", "sslkeylogfile", "requirepeer", "krbsrvname"),
        *("oauth_issuer", "oauth_client_id", "oauth_scope"),
        "plugin",  # SQLAlchemy's: plugins of create_engine, for no driver's eyes
    }
)
_EMPTY_SAYS_NOTHING = _TEXTS | SECRETS | PLACES
KNOWN = frozenset(CHOICES) | _WHOLE_NUMBERS | ASYNCPG_OWN | _LISTS | _EMPTY_SAYS_NOTHING
ALIASES = {"database": "dbname", "ssl": "sslmode"}  # asyncpg's and SQLAlchemy's spelling

_AUTH_METHODS = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")
_INT32_DIGITS = 9  # libpq's integers are int32: below a billion all is well
_HARMLESS_LOOK = re.compile(r"[\w.,+!-]{0,30}")  # what may be quoted: no @, / or : of an address misread


class Frozen(Mapping[str, V], Generic[V]):
    """A mapping that stays as it was made, in the order of its names, and can be hashed, as a `Dsn` must be."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V]) -> None:
        self._items = dict(sorted(items.items()))

    def __getitem__(self, name: str) -> V:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def gather(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Bring what an address says under libpq's own names, each once; what says nothing is left out.

    Raises `ConfigurationError` for an unknown name, one given twice differently, and text PostgreSQL cannot take.
    """
    found: dict[str, str] = {}
    previous = ""
    for given, text in pairs:
        name = ALIASES.get(given, given)
        if name not in KNOWN:
            raise _unknown(given, after=previous)
        previous = name
        value = "require" if (given, text) == ("ssl", "true") else text  # libpq takes JDBC's ssl=true so
        if name == "host":
            value, ports = split_ports(value)
            _put(found, "port", ports)
        elif name == "plugin" and name in found:
            value = found.pop(name) + "," + value  # SQLAlchemy repeats it for several
        _put(found, name, value)
    return found


def _put(found: dict[str, str], name: str, value: str) -> None:
    if not value and name in _EMPTY_SAYS_NOTHING:
        return
    if "\0" in value:
        raise ConfigurationError(f"{name} holds a NUL character", hint="PostgreSQL cannot take one; remove it")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigurationError(f"{name} is not Unicode text", hint="it holds bytes that were not UTF-8")
    if found.setdefault(name, value) != value:
        raise ConfigurationError(f"{name} is given twice, and differently", hint=f"keep one {name}")


def _unknown(name: str, *, after: str) -> ConfigurationError:
    if after in SECRETS:  # then the "name" may be the rest of an unquoted secret
        return ConfigurationError(
            f"what follows {after} is not a parameter",
            hint=f"if it belongs to {after}: quote it in key=value form, percent-encode & as %26 in a URL",
        )
    near = difflib.get_close_matches(name, KNOWN | ALIASES.keys(), n=1, cutoff=0.55)
    return ConfigurationError(
        f"unknown parameter {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"a setting of the server goes in options: -c {name}=value",
    )


def check(keywords: Mapping[str, str]) -> None:
    """Refuse a value that its parameter cannot have, and parameters that contradict each other."""
    for name, value in keywords.items():
        if name in CHOICES and value not in CHOICES[name]:
            noun = "a mode" if name.endswith("mode") else "a choice"
            choices = ", ".join(CHOICES[name])
            raise ConfigurationError(f"{_subject(name, value)} is not {noun}", hint=f"one of {choices}")
        if name in _WHOLE_NUMBERS and not re.fullmatch(rf"[0-9]{{1,{_INT32_DIGITS}}}", value):
            zero = ", 0 for no limit" if name == "connect_timeout" else ""
            raise ConfigurationError(
                f"{_subject(name, value)} is not a whole number", hint=f"from 0 to {10**_INT32_DIGITS - 1}{zero}"
            )
    _check_command_timeout(keywords.get("command_timeout", "1"))
    _check_require_auth(keywords.get("require_auth", "none"))
    _check_hostaddr(keywords.get("hostaddr"), keywords.get("host"))
    _check_tls(keywords)
    _check_range(keywords, "ssl_min_protocol_version", "ssl_max_protocol_version")
    _check_range(keywords, "min_protocol_version", "max_protocol_version")


def _subject(name: str, value: str) -> str:
    return f"{name}={value!r}" if _HARMLESS_LOOK.fullmatch(value) else f"the value of {name}"


def _check_command_timeout(value: str) -> None:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or float(value) == 0:
        raise ConfigurationError(f"{_subject('command_timeout', value)} is not a time", hint="seconds, more than 0")


def _check_require_auth(value: str) -> None:
    methods = value.split(",")
    negated = [method for method in methods if method.startswith("!")]
    if {method.removeprefix("!") for method in methods} - set(_AUTH_METHODS):
        raise ConfigurationError(
            f"{_subject('require_auth', value)} names an unknown method", hint="any of " + ", ".join(_AUTH_METHODS)
        )
    if negated and len(negated) < len(methods):
        raise ConfigurationError("require_auth both requires and forbids", hint="put ! before every method, or none")


def _check_hostaddr(addresses: str | None, hosts: str | None) -> None:
    if not addresses:
        if addresses == "":
            raise ConfigurationError("hostaddr is empty", hint="an IP address for each host")
        return
    listed = addresses.split(",")
    if hosts and hosts.count(",") + 1 != len(listed):
        raise ConfigurationError(
            f"{len(listed)} addresses in hostaddr for {hosts.count(',') + 1} hosts", hint="give one for each host"
        )
    for address in filter(None, listed):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ConfigurationError("hostaddr is not an IP address", hint="a name goes in host") from None


def _check_tls(keywords: Mapping[str, str]) -> None:
    """Refuse weak modes where libpq does: `system` roots want verify-full, direct TLS wants require or stronger."""
    mode = keywords.get("sslmode")
    if keywords.get("sslrootcert") == "system" and mode not in (None, "verify-full"):
        raise ConfigurationError(
            f"sslrootcert=system contradicts sslmode={mode}",
            hint="use sslmode=verify-full: anyone can have a certificate that the system's roots trust",
        )
    if keywords.get("sslnegotiation") == "direct" and mode in SSL_MODES[:3]:
        raise ConfigurationError(
            f"sslnegotiation=direct contradicts sslmode={mode}", hint="use sslmode=require, verify-ca or verify-full"
        )


def _check_range(keywords: Mapping[str, str], least: str, most: str) -> None:
    low, high = keywords.get(least), keywords.get(most)
    if low and high and CHOICES[least].index(low) > CHOICES[most].index(high):
        raise ConfigurationError(f"{least}={low} is above {most}={high}", hint=f"raise {most}, or lower {least}")
