"""`Dsn`: where a database is and how to get in, as one value that can be shown to anybody.

Why no password shows: each is held in pydantic's `SecretStr`, whose `str`, `repr` and `format` are stars, also among a
traceback's locals; the only ways out are `render(hide_password=False)` and what drivers are given. What makes a `Dsn`
is handed bare text, so an error made there is cut off from every frame that held it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, Self, TypeVar
from urllib.parse import quote

from pydantic import SecretStr
from sqlalchemy.engine import URL

from pulsepool.dsn import drivers
from pulsepool.dsn.hosts import Host, pair_hosts
from pulsepool.dsn.parameters import ALIASES, PLACES, SECRETS, Frozen, check, gather
from pulsepool.dsn.parse import Pairs, named_driver, read
from pulsepool.dsn.service import look_up
from pulsepool.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")
Part = str | int | SecretStr | None


def _sealed(make: Callable[P, R]) -> Callable[P, R]:
    """Let a refusal leave `make` without the frames, and so the locals, that hold the text it was given."""

    @wraps(make)
    def sealed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return make(*args, **kwargs)
        except ConfigurationError as error:
            refusal = error.with_traceback(None)
        refusal.__context__ = None
        del args, kwargs
        raise refusal

    return sealed


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dsn:
    """A PostgreSQL address: frozen, hashable, equal when it means the same, safe to print.

    Make one with `parse` or `from_parts`, which check it. None and () leave a thing to the driver, which then asks its
    environment variables (`PGHOST`…). `driver`: the one that the address named (`postgresql+psycopg://`).
    `parameters`: all else, as text, by libpq's names; `secrets`: what of it nobody should read, such as `sslpassword`.
    """

    user: str | None = None
    password: SecretStr | None = None
    hosts: tuple[Host, ...] = ()
    database: str | None = None
    driver: str | None = None
    parameters: Mapping[str, str] = field(default_factory=lambda: Frozen({}))
    secrets: Mapping[str, SecretStr] = field(default_factory=lambda: Frozen({}))

    @classmethod
    @_sealed
    def parse(cls, text: str) -> Self:
        """Read a URL (libpq's or SQLAlchemy's) or libpq's key=value pairs.

        Special characters in a user or password may be raw where that leaves one way to read the address. A `service`
        is looked up, here and once, in libpq's service files; what the address says itself comes first. Raises
        `ConfigurationError`, whose text never quotes what could be a secret.
        """
        pairs, driver = read(text)
        return cls._build(pairs, driver)

    @classmethod
    @_sealed
    def from_parts(
        cls,
        *,
        user: str | None = None,
        password: str | SecretStr | None = None,
        host: str | None = None,
        port: int | str | None = None,
        database: str | None = None,
        driver: str | None = None,
        **parameters: Part,
    ) -> Self:
        """Make one from parts as settings have them, none of them encoded; `host` and `port` may be libpq's lists.

        Raises `ConfigurationError`, as `parse` does.
        """
        parts: dict[str, Part] = {"user": user, "password": password, "host": host, "port": port, "database": database}
        return cls._build(_pairs(parts | parameters), named_driver(driver) if driver else None)

    @_sealed
    def replace(self, **changes: Part) -> Self:
        """Make another, in which the named parts (as in `from_parts`) are changed; None takes one away.

        Raises `ConfigurationError`, as `parse` does.
        """
        driver = changes.pop("driver", self.driver)
        changed = {ALIASES.get(name, name) for name in changes}
        kept = [pair for pair in self._pairs() if pair[0] not in changed]
        return self._build(kept + _pairs(changes), named_driver(str(driver)) if driver else None)

    @_sealed
    def merge(self, **parts: Part) -> Self:
        """Make another, with these parts (as in `from_parts`) where this says nothing; None adds nothing.

        Raises `ConfigurationError` when a part contradicts this, and as `parse` does.
        """
        return self._build(self._pairs() + _pairs(parts), self.driver)

    @classmethod
    def _build(cls, pairs: Pairs, driver: str | None) -> Self:
        keywords = gather(pairs)
        if service := keywords.pop("service", ""):
            keywords = gather(look_up(service)) | keywords
        check(keywords)
        secrets = {name: SecretStr(value) for name, value in keywords.items() if name in SECRETS}
        return cls(
            user=keywords.get("user"),
            password=secrets.pop("password", None),
            hosts=pair_hosts(keywords.get("host", ""), keywords.get("port", "")),
            database=keywords.get("dbname"),
            driver=driver,
            parameters=Frozen({n: value for n, value in keywords.items() if n not in PLACES | SECRETS}),
            secrets=Frozen(secrets),
        )

    def _pairs(self) -> Pairs:
        ports = [str(host.port or "") for host in self.hosts]
        places: dict[str, Part] = {
            "user": self.user,
            "password": self.password,
            "host": ",".join(host.host for host in self.hosts),
            "port": ",".join(ports) if any(ports) else None,
            "dbname": self.database,
        }
        return _pairs({**places, **self.parameters, **self.secrets})

    @property
    def where(self) -> str:
        """The servers, for a sentence: `db1:5432, /run/postgresql`."""
        return ", ".join(map(str, self.hosts)) or "the default host"

    def render(self, *, hide_password: bool = True) -> str:
        """The address as a canonical URL, all of it percent-encoded.

        `hide_password`: show *** for every secret. With False, `parse` makes the same `Dsn` from it.
        """

        def secret(value: SecretStr) -> str:
            return "***" if hide_password else _encode(value.get_secret_value())

        scheme = f"postgresql+{self.driver}" if self.driver else "postgresql"
        user = _encode(self.user or "") + (f":{secret(self.password)}" if self.password else "")
        place = (f"{user}@" if user else "") + ",".join(map(_authority, self.hosts))
        query = [
            f"{name}={_encode(value)}"
            for name, text in self.parameters.items()
            for value in (text.split(",") if name == "plugin" else [text])
        ]
        query += [f"{name}={secret(value)}" for name, value in self.secrets.items()]
        database = f"/{_encode(self.database)}" if self.database else ""
        return f"{scheme}://{place}{database}" + ("?" + "&".join(query) if query else "")

    __str__ = render

    def __repr__(self) -> str:
        return f"Dsn({self.render()!r})"

    def sqlalchemy_url(self, driver: str) -> URL:
        """The part that SQLAlchemy's URL can carry: user, password, a sole TCP host, database and sslmode.

        By itself it serves an address of no more than these; else `connect_args` has the rest. The psycopg URL serves
        `create_engine` and `create_async_engine` alike. Raises `ConfigurationError` for an unknown driver.
        """
        return drivers.sqlalchemy_url(self, driver)

    def connect_args(self, driver: str) -> dict[str, Any]:
        """The rest, as `create_engine(connect_args=…)` and the driver's own `connect` take it; bare secrets among it.

        The same address means the same to each driver. Raises `ConfigurationError` for a parameter that the driver
        cannot honour, unless its value asks for nothing, and for TLS files that cannot be read.
        """
        return drivers.connect_args(self, driver)


def _pairs(parts: Mapping[str, Part]) -> Pairs:
    return [
        (name, part.get_secret_value() if isinstance(part, SecretStr) else str(part))
        for name, part in parts.items()
        if part is not None
    ]


def _encode(text: str) -> str:
    return quote(text, safe="")


def _authority(host: Host) -> str:
    is_ipv6 = ":" in host.host and not host.is_socket
    name = f"[{quote(host.host, safe=':')}]" if is_ipv6 else _encode(host.host)
    return name if host.port is None else f"{name}:{host.port}"
