"""EDBotv8's settings: from the environment or `.env`, with the defaults of a developer's machine."""

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from pulsepool import ConfigurationError, DatabaseSettings, Dsn
from pulsepool.settings import PlainSettings


class Settings(PlainSettings):
    """What the service needs to know. `DATABASE_URL` is the address, or `DB_USER`, `DB_PASSWORD` and so on are.

    Both may be given as long as they agree. The pool's own knobs (`DB_MAX_SIZE`, …) are `pulsepool.DatabaseSettings`.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    environment: Literal["development", "test", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    db_user: str = "postgres"
    db_password: SecretStr = SecretStr("postgres")
    db_host: str = "localhost"
    db_port: int = Field(5432, ge=1, le=65_535)
    db_name: str = "edbotv8"
    db_statement_timeout: float = Field(10.0, gt=0, le=3600)
    """Seconds; nobody in an emergency department waits for longer."""

    redis_url: SecretStr | None = None
    """`redis://host:6379/0`; unset, Redis is not part of the system and not of its health."""
    llm_url: SecretStr | None = None
    """The base address of a language model's server; unset, there is none."""

    @property
    def is_development(self) -> bool:
        """Whether this is a developer's machine."""
        return self.environment == "development"

    @cached_property
    def dsn(self) -> Dsn:
        """The database's address, which never shows its password; it names psycopg2, the driver that was here first.

        Raises `ConfigurationError` when it cannot be read, or when its parts contradict it.
        """
        parts: dict[str, Any] = {
            part: getattr(self, f"db_{part}")
            for part in ("user", "password", "host", "port", "name")
            if self.url is None or f"db_{part}" in self.model_fields_set
        }
        parts["database"] = parts.pop("name", None)
        address = Dsn() if self.url is None else Dsn.parse(self.url.get_secret_value())
        return address.merge(**parts).replace(driver="psycopg2")

    @cached_property
    def database(self) -> DatabaseSettings:
        """The database's settings as pulsepool takes them; what is not said here is `DB_*` in the environment."""
        return DatabaseSettings(
            url=SecretStr(self.dsn.render(hide_password=False)),
            **dict.fromkeys(("user", "password", "host", "port", "name")),
            statement_timeout=self.db_statement_timeout,
        )

    @property
    def database_url(self) -> str:
        """The address for synchronous SQLAlchemy, password and all, with every special character encoded.

        Raises `ConfigurationError` for an address that no URL can carry whole; `src.models.database.engine` has it all.
        """
        return self._url("psycopg2")

    @property
    def async_database_url(self) -> str:
        """The same for asynchronous SQLAlchemy."""
        return self._url("asyncpg")

    def _url(self, driver: str) -> str:
        if beyond := self.dsn.connect_args(driver):
            raise ConfigurationError(
                f"the database's address has more than a URL for {driver} can carry ({', '.join(sorted(beyond))})",
                hint="use the engines of src.models, which have all of it",
            )
        return self.dsn.sqlalchemy_url(driver).render_as_string(hide_password=False)
