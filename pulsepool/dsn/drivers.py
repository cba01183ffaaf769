"""What each driver must be told, so that one address means the same to all.

psycopg and psycopg2 are libpq and take its parameters as they are. asyncpg is its own client: each parameter is
translated for it, or asks it for nothing, or is refused; none is dropped.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from sqlalchemy.engine import URL

from pulsepool.dsn.parameters import ASYNCPG_OWN, ASYNCPG_WHOLE_NUMBERS
from pulsepool.errors import ConfigurationError

if TYPE_CHECKING:
    from pulsepool.dsn.address import Dsn

_IN_URL = frozenset({"sslmode", "prepared_statement_cache_size", "plugin"})  # `plugin`: create_engine's, no driver's

_ASYNCPG_ARGUMENTS = frozenset({"passfile", "krbsrvname", "gsslib", "target_session_attrs"})  # under the same name
_ASYNCPG_TLS = frozenset(  # only its dsn= takes these
    {"sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"}
)
_ASYNCPG_TRANSLATED = (
    _IN_URL
    | ASYNCPG_OWN
    | _ASYNCPG_ARGUMENTS
    | _ASYNCPG_TLS
    | {"connect_timeout", "application_name", "fallback_application_name", "options", "sslnegotiation", "sslpassword"}
)
# asyncpg talks protocol 3.0 in UTF-8, sends the server's name in TLS, binds no channel, and encrypts with TLS alone.
_ASKS_ASYNCPG_NOTHING: dict[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "sslsni": ("1",),
    "sslcompression": ("0", "1"),  # libpq has ignored it since version 14
    "sslcertmode": ("allow",),
    "load_balance_hosts": ("disable",),
    "keepalives": ("0", "1"),
    "keepalives_idle": ("0",),
    "keepalives_interval": ("0",),
    "keepalives_count": ("0",),
    "tcp_user_timeout": ("0",),
    "min_protocol_version": ("3.0",),
    "max_protocol_version": ("3.0", "3.2", "latest"),  # a bound from above
    "replication": ("false", "off", "no", "0"),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8", "unicode", "UNICODE"),
}
_REMEDIES = {
    "hostaddr": "put the address in host",
    "sslcrldir": "name the file, in sslcrl",
    "sslkeylogfile": "set SSLKEYLOGFILE in the environment",
    "tcp_user_timeout": "leave it out: the pool's own keepalive finds dead connections",
    "keepalives_idle": "leave it out: the pool's own keepalive finds dead connections",
    "keepalives_interval": "leave it out: the pool's own keepalive finds dead connections",
    "keepalives_count": "leave it out: the pool's own keepalive finds dead connections",
}


def sqlalchemy_url(dsn: "Dsn", driver: str) -> URL:
    """See `Dsn.sqlalchemy_url`."""
    _require_known(driver)
    host = None if _needs_host_arguments(dsn) or not dsn.hosts else dsn.hosts[0]
    query = {}
    if "sslmode" in dsn.parameters:
        query["ssl" if driver == "asyncpg" else "sslmode"] = dsn.parameters["sslmode"]
    if driver == "asyncpg" and "prepared_statement_cache_size" in dsn.parameters:
        query["prepared_statement_cache_size"] = dsn.parameters["prepared_statement_cache_size"]
    return URL.create(
        f"postgresql+{driver}",
        username=dsn.user,
        password=dsn.password.get_secret_value() if dsn.password else None,
        host=(host.host or None) if host else None,
        port=host.port if host else None,
        database=dsn.database,
        query=query,
    )


def connect_args(dsn: "Dsn", driver: str) -> dict[str, Any]:
    """See `Dsn.connect_args`."""
    _require_known(driver)
    return _asyncpg_arguments(dsn) if driver == "asyncpg" else _libpq_arguments(dsn)


def _require_known(driver: str) -> None:
    if driver not in ("asyncpg", "psycopg", "psycopg2"):
        raise ConfigurationError(f"{driver!r} is not a driver", hint="one of asyncpg, psycopg, psycopg2")


def _needs_host_arguments(dsn: "Dsn") -> bool:
    """Several hosts and sockets have no form in a URL that SQLAlchemy reads alike for every driver."""
    return len(dsn.hosts) > 1 or any(host.is_socket for host in dsn.hosts)


def _libpq_arguments(dsn: "Dsn") -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if _needs_host_arguments(dsn):
        arguments["host"] = ",".join(host.host for host in dsn.hosts)
        if any(host.port for host in dsn.hosts):
            arguments["port"] = ",".join(str(host.port or "") for host in dsn.hosts)
    arguments |= {name: value for name, value in dsn.parameters.items() if name not in _IN_URL | ASYNCPG_OWN}
    return arguments | {name: value.get_secret_value() for name, value in dsn.secrets.items()}


def _asyncpg_arguments(dsn: "Dsn") -> dict[str, Any]:
    _refuse_what_asyncpg_cannot(dsn)
    given = dsn.parameters
    arguments: dict[str, Any] = {}
    if _needs_host_arguments(dsn):
        arguments["host"] = [host.host for host in dsn.hosts]
        if any(host.port for host in dsn.hosts):
            arguments["port"] = [host.port or 5432 for host in dsn.hosts]
    if "connect_timeout" in given:
        # libpq gives each host that time, asyncpg all of them together; 0 is no limit.
        arguments["timeout"] = float(given["connect_timeout"]) * max(1, len(dsn.hosts)) or None
    if settings := _server_settings(given):
        arguments["server_settings"] = settings
    if "sslnegotiation" in given:
        arguments["direct_tls"] = given["sslnegotiation"] == "direct"
    if "command_timeout" in given:
        arguments["command_timeout"] = float(given["command_timeout"])
    arguments |= {name: value for name, value in given.items() if name in _ASYNCPG_ARGUMENTS}
    arguments |= {name: int(value) for name, value in given.items() if name in ASYNCPG_WHOLE_NUMBERS}
    return arguments | _asyncpg_tls(dsn)


def _refuse_what_asyncpg_cannot(dsn: "Dsn") -> None:
    for name in (*dsn.parameters, *dsn.secrets):
        if name in _ASYNCPG_TRANSLATED or dsn.parameters.get(name) in _ASKS_ASYNCPG_NOTHING.get(name, ()):
            continue
        value = f"={dsn.parameters[name]}" if name in _ASKS_ASYNCPG_NOTHING else ""
        raise ConfigurationError(
            f"asyncpg cannot honour {name}{value}",
            hint=_REMEDIES.get(name, "remove it, or connect with psycopg or psycopg2, which can"),
        )
    if any(host.host.startswith("@") for host in dsn.hosts):
        raise ConfigurationError(
            "asyncpg cannot connect to an abstract socket", hint="use psycopg or psycopg2, or a socket in a directory"
        )


def _server_settings(given: Mapping[str, str]) -> dict[str, str]:
    """What the server reads at its start; libpq's `fallback_application_name` stands behind `PGAPPNAME`."""
    fallback = os.environ.get("PGAPPNAME") or given.get("fallback_application_name")
    settings = {"application_name": given.get("application_name") or fallback, "options": given.get("options")}
    return {name: value for name, value in settings.items() if value}


def _asyncpg_tls(dsn: "Dsn") -> dict[str, Any]:
    if dsn.parameters.get("sslrootcert") == "system":
        return {"ssl": _system_trust(dsn)}
    files = {name: value for name, value in dsn.parameters.items() if name in _ASYNCPG_TLS}
    if "sslpassword" in dsn.secrets:
        files["sslpassword"] = dsn.secrets["sslpassword"].get_secret_value()
    return {"dsn": f"postgresql://?{urlencode(files)}"} if files else {}


def _system_trust(dsn: "Dsn") -> ssl.SSLContext:
    """What `sslrootcert=system` means to libpq (to asyncpg, a file's name): OpenSSL's own roots, and verify-full.

    All else is as libpq has it: TLS 1.2 at least, and the files of `~/.postgresql` when they are there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the chain and the server's name
    context.set_default_verify_paths()
    context.set_alpn_protocols(["postgresql"])
    context.minimum_version = _tls_version(dsn.parameters.get("ssl_min_protocol_version", "TLSv1.2"))
    if "ssl_max_protocol_version" in dsn.parameters:
        context.maximum_version = _tls_version(dsn.parameters["ssl_max_protocol_version"])
    crl, certificate = _tls_file(dsn, "sslcrl", "root.crl"), _tls_file(dsn, "sslcert", "postgresql.crt")
    file = crl
    try:
        if crl:
            context.load_verify_locations(cafile=crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        file = certificate
        if certificate:
            context.load_cert_chain(certificate, _tls_file(dsn, "sslkey", "postgresql.key"), lambda: _key_password(dsn))
    except OSError as error:
        raise ConfigurationError(f"the TLS file {file} cannot be used: {error.strerror or error}") from None
    return context


def _tls_version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]


def _tls_file(dsn: "Dsn", name: str, default: str) -> str | None:
    named = dsn.parameters.get(name) or os.environ.get(f"PG{name.upper()}")
    usual = Path("~/.postgresql", default).expanduser()
    return named or (str(usual) if usual.exists() else None)


def _key_password(dsn: "Dsn") -> str:
    secret = dsn.secrets.get("sslpassword")
    return secret.get_secret_value() if secret else ""  # "" also keeps OpenSSL from asking at the terminal
