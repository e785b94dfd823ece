"""connections.toml: the credentials that a job only names. They stay with the workers.

The file is checked as a whole when it is loaded; the variables and files that a table asks for are
read when its connection is first used, so that a worker needs its own credentials alone.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from penstock.contract import JobSpec
from penstock.errors import ConnectionsError, SpecError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Connection(BaseModel):
    # An id written without quotes is a number in TOML, and the same id.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, coerce_numbers_to_str=True
    )
    is_source: ClassVar[bool] = False
    #: Why a job cannot read from it, where one might think it can.
    no_source_because: ClassVar[str] = ""


class PostgresConnection(_Connection):
    """A database to read from."""

    kind: Literal["postgres"] = Field(description="What it is a connection to.")
    url: SecretStr = Field(description="postgresql://user:password@host:5432/database")
    is_source: ClassVar[bool] = True


class GoogleAdsConnection(_Connection):
    """Google Ads, by the SDK's own names."""

    kind: Literal["google_ads"] = Field(description="What it is a connection to.")
    developer_token: SecretStr = Field(description="Of the manager account's API Center.")
    login_customer_id: str | None = Field(
        None, description="The manager account, where access to the job's account is through one."
    )
    client_id: str | None = Field(None, description="Of the OAuth client a user signed in with.")
    client_secret: SecretStr | None = Field(None, description="Of the same OAuth client.")
    refresh_token: SecretStr | None = Field(
        None, description="What the user's consent gave to that client."
    )
    json_key_file_path: Path | None = Field(None, description="A service account's key.")
    impersonated_email: str | None = Field(
        None, description="The user that the service account acts for, where it does for one."
    )
    endpoint: str | None = Field(None, description="Another server than Google's: host:port.")
    insecure: bool = Field(False, description="Speak without TLS and without OAuth (a sandbox).")

    @model_validator(mode="after")
    def _can_sign_in(self) -> GoogleAdsConnection:
        oauth = self.client_id and self.client_secret and self.refresh_token
        if not (self.insecure or oauth or self.json_key_file_path):
            raise ValueError(
                "needs `client_id`, `client_secret` and `refresh_token`, or `json_key_file_path`"
            )
        if self.insecure and not self.endpoint:
            raise ValueError("`insecure` is for another server: give its `endpoint`")
        return self


class MetaConnection(_Connection):
    """Meta's Marketing API."""

    kind: Literal["meta"] = Field(description="What it is a connection to.")
    access_token: SecretStr = Field(description="A system user's, with `ads_management`.")
    app_id: str | None = Field(None, description="The app that the token was made for.")
    app_secret: SecretStr | None = Field(
        None, description="With it each request proves that it comes from the app."
    )
    graph_url: str | None = Field(None, description="Another server than Meta's: http://host:port")


class S3Connection(_Connection):
    """S3 or a store that speaks it. What is left out comes from boto3's own variables."""

    kind: Literal["s3"] = Field(description="What it is a connection to.")
    region: str | None = Field(None, description="The buckets' region, such as `eu-central-1`.")
    endpoint_url: str | None = Field(None, description="Another store than AWS: https://host:port")
    access_key_id: str | None = Field(None, description="The key's public half.")
    secret_access_key: SecretStr | None = Field(None, description="The key's secret half.")
    session_token: SecretStr | None = Field(
        None, description="Of temporary keys; a download link ends with them."
    )
    path_style: bool | None = Field(None, description="Bucket in the path; on with `endpoint_url`.")


class StripeConnection(_Connection):
    """Stripe. The table may be there already, but no source reads it yet."""

    kind: Literal["stripe"] = Field(description="What it is a connection to.")
    api_key: SecretStr = Field(description="A restricted key that may read customers.")
    api_base: str | None = Field(None, description="Another server than Stripe's: http://host:port")
    no_source_because: ClassVar[str] = "no source reads Stripe yet"


Connection = (
    PostgresConnection | GoogleAdsConnection | MetaConnection | S3Connection | StripeConnection
)
KINDS: dict[str, type[Connection]] = {
    "postgres": PostgresConnection,
    "google_ads": GoogleAdsConnection,
    "meta": MetaConnection,
    "s3": S3Connection,
    "stripe": StripeConnection,
}


@dataclass(frozen=True, slots=True)
class _Table:
    """A table as it is written: nothing of it is filled in."""

    where: str
    model: type[Connection]
    values: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.values["kind"])

    def check(self) -> None:
        """Raise a ConnectionsError where it is wrong whatever is filled in."""
        later = set()
        plain: dict[str, Any] = {}
        for key, value in self.values.items():
            name = self._field(key)
            plain[name] = value
            if name != key or (isinstance(value, str) and _VARIABLE.search(value)):
                later.add(name)
        self._validated(plain, later)

    def filled(self) -> Connection:
        values: dict[str, Any] = {}
        for key, value in self.values.items():
            name = self._field(key)
            if name != key:
                values[name] = self._from_file(key, str(value))
            else:
                values[name] = self._from_variables(value) if isinstance(value, str) else value
        # Nothing is left for later, so this either raises or returns one.
        return cast(Connection, self._validated(values, set()))

    def _field(self, key: str) -> str:
        """The field that a key gives: `url_file` is where `url` is to be read."""
        if key.endswith("_file") and key not in self.model.model_fields:
            return key.removesuffix("_file")
        return key

    def _validated(self, values: dict[str, Any], later: set[str]) -> Connection | None:
        """None where only what is still to be filled in does not fit."""
        fields = self.model.model_fields
        try:
            return self.model.model_validate(values)
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_input=False, include_context=False)
        known = (
            e for e in errors
            if e["type"] == "extra_forbidden" or not later.intersection(map(str, e["loc"][:1]))
        )  # fmt: skip
        error = next(known, None)
        if error is None:
            return None
        field = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            hint = _nearest(field, fields)
            raise ConnectionsError(f"{self.where} has an unknown key {field!r}{hint}.")
        if error["type"] == "missing":
            raise ConnectionsError(f"{self.where} has no {field!r}, which is needed.")
        text = error["msg"].removeprefix("Value error, ")
        raise ConnectionsError(f"{self.where}{f': {field}' if field else ''} {text}.")

    def _from_file(self, key: str, path: str) -> str:
        at = f"{self.where}: `{key}`"
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise ConnectionsError(f"{at} cannot be read: {exc.strerror}.") from None
        except UnicodeDecodeError:
            raise ConnectionsError(f"{at} names a file that is not UTF-8 text.") from None

    def _from_variables(self, value: str) -> str:
        def fill(match: re.Match[str]) -> str:
            # Beside the settings, the one place that reads the environment: the file names it.
            found = os.environ.get(match[1])
            if found is None:
                raise ConnectionsError(
                    f"{self.where} wants the variable {match[1]}, which is not set."
                )
            return found

        return _VARIABLE.sub(fill, value)


class Connections:
    def __init__(self, tables: dict[str, _Table], path: Path) -> None:
        self._tables = tables
        self._path = path
        self._filled: dict[str, Connection] = {}

    @classmethod
    def load(cls, path: Path | None) -> Connections:
        if path is None:
            raise ConnectionsError(
                "PENSTOCK_CONNECTIONS is not set: it is the path of connections.toml."
            )
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as exc:
            raise ConnectionsError(f"{path} cannot be read: {exc.strerror}.") from None
        except UnicodeDecodeError:
            raise ConnectionsError(f"{path} cannot be read: it is not UTF-8 text.") from None
        except tomllib.TOMLDecodeError as exc:
            raise ConnectionsError(f"{path} is not valid TOML: {exc}.") from None
        return cls({name: _table(path, name, table) for name, table in document.items()}, path)

    def get(self, name: str, *kinds: str) -> Connection:
        """The connection of that name, of one of the kinds where any is told, with its variables
        and files filled in. A SpecError where there is none, a ConnectionsError where it cannot be
        filled in.
        """
        table = self._named(name, *kinds)
        if name not in self._filled:
            self._filled[name] = table.filled()
        return self._filled[name]

    def of_kind(self, *kinds: str) -> dict[str, str]:
        """Name and kind of those that are of one of the kinds."""
        return {name: t.kind for name, t in self._tables.items() if t.kind in kinds}

    def check(self, spec: JobSpec) -> None:
        """Raise a SpecError where the spec names what is not there or is of another kind. Nothing
        is filled in for that: whoever checks need not have the credentials.
        """
        name = spec.source.connection
        source = self._named(name)
        if not source.model.is_source:
            because = source.model.no_source_because
            raise SpecError(
                f"Connection {name!r} ({source.kind}) cannot be a source"
                f"{f': {because}' if because else ''}."
            )
        for destination in spec.destinations:
            self._named(destination.connection, destination.kind)

    def _named(self, name: str, *kinds: str) -> _Table:
        found = self._tables.get(name)
        if found is None:
            hint = _nearest(name, self._tables, "; did you mean {!r}?") or "."
            raise SpecError(f"There is no connection {name!r} in {self._path.name}{hint}")
        if kinds and found.kind not in kinds:
            raise SpecError(
                f"Connection {name!r} is of kind {found.kind!r}, "
                f"and {' or '.join(kinds)} is needed."
            )
        return found


def _table(path: Path, name: str, values: Any) -> _Table:
    where = f"{path.name}, [{name}]"
    if not isinstance(values, dict):
        raise ConnectionsError(f"{where} must be a table with a `kind`.")
    model = KINDS.get(str(values.get("kind")))
    if model is None:
        raise ConnectionsError(
            f"{where} has {'the unknown' if 'kind' in values else 'no'} `kind`; "
            f"known are {', '.join(KINDS)}."
        )
    table = _Table(where, model, values)
    table.check()
    return table


def _nearest(name: str, known: Iterable[str], words: str = " (did you mean {!r}?)") -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return words.format(close[0]) if close else ""
