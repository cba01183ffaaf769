"""Every knob of a `Database`, with its default and its bound; said outright, or from the environment and `.env`.

Times are seconds, as floats. Settings are frozen, and a value out of bounds is refused, never bent into shape.
"""

import difflib
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pulsepool.dsn import Dsn
from pulsepool.errors import ConfigurationError

Password = SecretStr | Callable[[], str | Awaitable[str]]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
"""More than none and at most a day: a wait that outlives a day is a mistake in the unit."""

ADDRESS = ("url", "user", "host", "port", "name")
"""What of the settings is the address; `Database(address, ...)` has it already."""


class DatabaseOptions(TypedDict, total=False):
    """The keyword arguments of `Database(address, ...)`; what each means is told at `DatabaseSettings`."""

    min_size: int
    max_size: int
    acquire_timeout: float
    max_waiting: int | None
    connect_timeout: float
    max_lifetime: float | None
    max_idle: float | None
    validate_after: float
    keepalive: float | None
    leak_after: float | None
    statement_timeout: float | None
    idle_in_transaction_timeout: float | None
    pgbouncer: Literal["auto", "on", "off"]
    application_name: str
    password: str | SecretStr | Callable[[], str | Awaitable[str]] | None


class PlainSettings(BaseSettings):
    """Settings that refuse a wrong name or value with `ConfigurationError`: field, value, bound, and never a secret."""

    def __init__(self, **values: Any) -> None:
        known = set(type(self).model_fields)
        for name in values:
            if name not in known and not name.startswith("_"):
                raise _unknown(name, known)
        prefix = values.get("_env_prefix", self.model_config.get("env_prefix", ""))
        try:
            super().__init__(**values)
        except ValidationError as error:
            refusal = _refusal(error, type(self).model_fields, prefix)
        except (OSError, UnicodeDecodeError) as error:
            refusal = ConfigurationError(
                f"the settings file cannot be read ({type(error).__name__})", hint="make it readable, and UTF-8 text"
            )
        else:
            return
        # Raised outside `except`: a chained ValidationError would carry its inputs, secrets too, into every traceback.
        raise refusal


class DatabaseSettings(PlainSettings):
    """Settings from arguments, which win, from `DATABASE_URL` and `DB_*` in the environment, and from `.env`.

    The address is `url`, in any form that `Dsn.parse` takes, or its parts `user`, `password`, `host`, `port` and
    `name`. Both may be given as long as they agree. Raises `ConfigurationError` naming field, value and bound.
    """

    model_config = SettingsConfigDict(
        env_prefix="DB_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",  # `.env` and the environment hold other people's names too; arguments are checked below
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    """The whole address, in one; secret as it may hold a password."""
    user: str | None = None
    password: Password | None = None
    """A value; or a callable, plain or async, that is asked again for each new connection (rotating credentials)."""
    host: str | None = None
    port: int | None = Field(None, ge=1, le=65_535)
    name: str | None = None
    """The database's name."""

    min_size: int = Field(1, ge=0, le=10_000)
    """Connections kept open, from the start on."""
    max_size: int = Field(10, ge=1, le=10_000)
    """Connections at most, those being opened included."""
    acquire_timeout: Seconds = 5.0
    """A caller's longest wait for a connection to become free; then `PoolTimeout`."""
    max_waiting: int | None = Field(None, ge=0)
    """Callers that may wait at once; one more gets `PoolTimeout` at once. None: no limit but the time."""
    connect_timeout: Seconds = 5.0
    """Name look-up, TCP, TLS and log-in of one new connection together."""
    max_lifetime: Seconds | None = 1800.0
    """A connection older than this is replaced (HikariCP's half hour). None: never."""
    max_idle: Seconds | None = 600.0
    """A connection beyond `min_size` that was idle for this long is closed (HikariCP's ten minutes). None: never."""
    validate_after: float = Field(0.5, ge=0, le=86_400, allow_inf_nan=False)
    """Idle for less than this, a connection is handed out unasked (HikariCP's alive bypass)."""
    keepalive: Seconds | None = 120.0
    """An idle connection says something this often, so that no NAT forgets it (HikariCP's two minutes). None: never."""
    leak_after: Seconds | None = None
    """A connection held for longer is logged once, with who holds it. None: never."""
    statement_timeout: Seconds | None = None
    """The server cancels a statement that runs for longer. None: the server's own setting."""
    idle_in_transaction_timeout: Seconds | None = None
    """The server ends a session that idles inside a transaction for longer. None: the server's own setting."""
    pgbouncer: Literal["auto", "on", "off"] = "auto"
    """Whether a PgBouncer in transaction mode stands between; `auto` finds out at connect."""
    application_name: str = Field("pulsepool", max_length=63)
    """What `pg_stat_activity` shows; PostgreSQL keeps 63 bytes."""

    _prefix: str | None = PrivateAttr("DB_")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size={self.min_size} is more than max_size={self.max_size}")
        return self

    @classmethod
    def explicit(cls, **values: Any) -> "DatabaseSettings":
        """The knobs from these arguments alone: neither the environment nor `.env` has a say.

        The address is not among them. Raises `ConfigurationError` as making one does.
        """
        for name in values:
            if name in ADDRESS:
                raise ConfigurationError(f"{name} is not an option", hint="it belongs into the address")
        settings = _Explicit(**values)
        settings._prefix = None  # noqa: SLF001 - our own, being made
        return settings

    @classmethod
    def from_env(cls, prefix: str = "DB_", env_file: str | Path | None = ".env") -> "DatabaseSettings":
        """Settings from the environment; with another `prefix`, of a second database (`AUDIT_URL`, `AUDIT_MAX_SIZE`).

        `DATABASE_URL` is the address of the first database alone: another prefix does not read it.
        """
        settings = (DatabaseSettings if prefix == "DB_" else _Prefixed)(_env_prefix=prefix, _env_file=env_file)
        settings._prefix = prefix  # noqa: SLF001
        return settings

    def place(self, *parts: str) -> str:
        """Where a person sets parts of the address: `DATABASE_URL, or DB_HOST and DB_PORT`; else `the address`."""
        if self._prefix is None:
            return "the address"
        url = "DATABASE_URL" if self._prefix == "DB_" else f"{self._prefix}URL"
        return f"{url}, or " + " and ".join(f"{self._prefix}{part.upper()}" for part in parts)

    @property
    def dsn(self) -> Dsn:
        """The address that url and parts give together; a callable password is not asked.

        Raises `ConfigurationError` when there is none, when it cannot be read, or when url and parts disagree.
        """
        password = self.password if isinstance(self.password, SecretStr) else None
        if self.url is not None:
            return Dsn.parse(self.url.get_secret_value()).merge(
                user=self.user, password=password, host=self.host, port=self.port, database=self.name
            )
        if (self.user, self.host, self.name) == (None, None, None):
            raise ConfigurationError(
                "no database address is set", hint=f"set {self.place('host', 'user', 'password', 'name')}"
            )
        return Dsn.from_parts(user=self.user, password=password, host=self.host, port=self.port, database=self.name)


class _Explicit(DatabaseSettings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class _Prefixed(DatabaseSettings):
    url: SecretStr | None = None


def _unknown(name: str, known: Collection[str]) -> ConfigurationError:
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigurationError(
        f"there is no setting named {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(sorted(known))}",
    )


def _refusal(error: ValidationError, fields: Mapping[str, FieldInfo], prefix: str) -> ConfigurationError:
    """Say each problem with its field and value, but for a secret's; the hint names where to mend it."""
    by_alias = {str(field.validation_alias): name for name, field in fields.items() if field.validation_alias}
    problems, places = [], []
    for found in error.errors(include_url=False, include_context=False):
        said = str(found["loc"][0]) if found["loc"] else ""
        name = by_alias.get(said, said)
        reason = str(found["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        secret = name in fields and "SecretStr" in str(fields[name].annotation)
        shown = "" if secret else f"={found['input']!r}"
        problems.append(f"{said}{shown} {reason}" if said else reason)
        if said:
            places.append(said if said != name else f"{name} or {prefix}{name.upper()}")
    return ConfigurationError("; ".join(problems), hint=f"mend {', '.join(places)}" if places else "")
