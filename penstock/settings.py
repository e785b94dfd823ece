"""What the environment says to whoever submits and follows jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from penstock.errors import SettingsError

_BROKERS = ("redis://", "rediss://", "redis+socket://")


class _Files(PydanticBaseSettingsSource):
    """Each variable also as NAME_FILE: the path of a file that holds the value."""

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002 - the signature is pydantic's
        field_name: str,
    ) -> tuple[Any, str, bool]:
        name = f"{self.config.get('env_prefix', '')}{field_name}_file".upper()
        path = os.environ.get(name)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as exc:
            raise SettingsError(
                f"{name} names {path}, which cannot be read: {exc.strerror}."
            ) from None
        except UnicodeDecodeError:
            raise SettingsError(f"{name} names {path}, which is not UTF-8 text.") from None

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, info in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(info, name)
            if value is not None:
                found[key] = value
        return found


class Settings(BaseSettings):
    """The base of every service's settings."""

    model_config = SettingsConfigDict(
        # Compose and Kubernetes set what nobody gave to nothing: that is as good as not set.
        env_prefix="PENSTOCK_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _Files(settings_cls)

    @classmethod
    def read(cls, **given: Any) -> Any:
        """From the environment; what is wrong is said in one sentence without the value."""
        try:
            return cls(**{k: v for k, v in given.items() if v is not None})
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False)[0]
            variable = f"PENSTOCK_{error['loc'][0]}".upper()
            if error["type"] == "missing":
                raise SettingsError(f"{variable} is not set (nor {variable}_FILE).") from None
            said = error["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{variable} is wrong: {said}.") from None


class LedgerSettings(Settings):
    """What it takes to follow jobs, and to make the ledger's tables."""

    ledger_url: str = Field(
        description="Postgres that holds the ledger: postgresql://user:password@host:5432/database."
    )


class ClientSettings(Settings):
    """What an app needs that submits jobs and asks for them."""

    broker_url: str = Field(
        description="Redis that carries the messages: redis://, rediss:// or redis+socket://."
    )
    ledger_url: str | None = Field(
        None,
        description="Postgres that holds the ledger. Without it an app can submit, but neither "
        "follow a job nor be sure that a message Redis loses is sent again.",
    )
    connections: Path | None = Field(
        None, description="Path of connections.toml; a client that has it checks names at submit."
    )

    @field_validator("broker_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        # kombu and redis-py find such mistakes late, each with an exception of its own.
        if not value.startswith(_BROKERS):
            raise ValueError(f"it must begin with {', '.join(_BROKERS[:-1])} or {_BROKERS[-1]}")
        if value.startswith(("redis://", "rediss://")) and not _has_port_and_number(value):
            raise ValueError("it must be like redis://:password@host:6379/0")
        return value


def _has_port_and_number(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    number = parts.path.strip("/")
    return port != 0 and (not number or number.isdecimal())
