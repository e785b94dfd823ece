"""The job's spec: what a caller writes. `reading` makes it of a document."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from penstock.params import Param, typed

WIRE_VERSION = 1

IDENTIFIERS = ("email", "phone", "first_name", "last_name", "city", "postal_code", "country",
               "external_id")  # fmt: skip
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READS = re.compile(
    r"(?:\s|\(|--[^\n]*\n|(?>/\*.*?\*/))*+(select|with|table|values)\b",
    re.IGNORECASE | re.DOTALL,
)
_STRINGS = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


# So that what `lanes()` makes of it is a lane's name as well.
ConnectionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,55}$")]


def nearest(name: str, known: tuple[str, ...]) -> str:
    """A hint where the name looks like one that is known."""
    close = difflib.get_close_matches(name, known, 1, 0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Source(_Part):
    """What is read: a query or a table of a connection."""

    connection: ConnectionName = Field(
        description="Name of a connection of the workers: letters, digits, '_' and '-'."
    )
    query: str | None = Field(None, description="One SELECT; `%(name)s` stands for a parameter.")
    table: str | None = Field(None, description="A table or view, with its schema where needed.")
    params: dict[str, Param] = Field(
        default_factory=dict, description="Values for the query's `%(name)s`, bound, never spliced."
    )
    key: str | None = Field(
        None,
        description="A unique, sortable, non-NULL column: with it a crash resumes where it was.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Contract name = column, where the names differ."
    )
    total: Literal["estimate", "exact", "none"] = Field(
        "estimate", description="How the total for progress is found; `exact` runs a COUNT(*)."
    )

    @field_validator("params", mode="before")
    @classmethod
    def _dates_carry_their_type(cls, value: Any) -> Any:
        return {k: typed(k, v) for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("columns")
    @classmethod
    def _known_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in IDENTIFIERS:
                raise ValueError(
                    f"{name!r} is not a column that destinations know"
                    f"{nearest(name, IDENTIFIERS)}; they know {', '.join(IDENTIFIERS)}"
                )
        return value

    @model_validator(mode="after")
    def _one_of_query_and_table(self) -> Source:
        if (self.query is None) == (self.table is None):
            raise ValueError("give either `query` or `table`, and not both")
        if self.query is not None:
            if not _READS.match(self.query):
                raise ValueError(
                    "`query` must be a SELECT (or WITH, TABLE, VALUES): jobs only read"
                )
            # What follows a last ';' must be nothing: not even a comment, for it is cut off there.
            if ";" in _STRINGS.sub("", self.query.rstrip().rstrip(";")):
                raise ValueError("`query` must be one statement: take the ';' out")
        if self.table is not None and self.params:
            raise ValueError("`params` belong to a `query`; a `table` takes none")
        return self


class Identity(_Part):
    """How identifiers are read."""

    default_country: str | None = Field(
        None,
        pattern=r"^[A-Z]{2}$",
        description="ISO code in two capitals, for phones without a country code and rows without "
        "a country.",
    )
    prehashed: tuple[str, ...] = Field(
        (), description="Columns whose values may already be SHA-256; those are taken as they are."
    )

    @field_validator("prehashed")
    @classmethod
    def _known_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in IDENTIFIERS:
                raise ValueError(f"{name!r} is not an identifier{nearest(name, IDENTIFIERS)}")
        return value


class _Destination(_Part):
    connection: ConnectionName = Field(
        description="Name of a connection of the workers: letters, digits, '_' and '-'."
    )
    lane: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$",
        description="Name of the lane in status: letters, digits, '_' and '-'; the connection's "
        "name unless given.",
    )

    view: ClassVar[str]  # which form of the rows the lane's payload carries
    serial: ClassVar[bool] = False  # whether the platform takes one request at a time


def _without(before: str) -> BeforeValidator:
    """An id may be written as a number, and as the platforms' own pages show it."""

    def read(value: Any) -> Any:
        return str(value).replace(before, "") if isinstance(value, int | str) else value

    return BeforeValidator(read, json_schema_input_type=int | str)


_DIGITS = StringConstraints(pattern=r"^\d+$")


class _Audience(_Destination):
    mode: Literal["add"] = Field("add", description="What is done with the members: `add`.")
    audience: str | None = Field(None, description="Name of an audience that exists.")


class GoogleAds(_Audience):
    """A Customer Match list of Google Ads."""

    kind: Literal["google_ads"] = Field(
        "google_ads", description="What it is; shows in the other keys."
    )
    customer_id: Annotated[str, _without("-")] = Field(
        description="The account, ten digits; dashes are dropped."
    )
    user_list_id: Annotated[str, _DIGITS, _without("-")] | None = Field(
        None, description="Id of the user list: digits."
    )
    ad_user_data: Literal["granted", "denied"] | None = Field(
        None, description="Consent for sending user data to Google."
    )
    ad_personalization: Literal["granted", "denied"] | None = Field(
        None, description="Consent for ad personalization."
    )
    view: ClassVar[str] = "google"
    serial: ClassVar[bool] = True

    @model_validator(mode="after")
    def _one_list(self) -> GoogleAds:
        if not re.fullmatch(r"\d{10}", self.customer_id):
            raise ValueError("`customer_id` must have ten digits")
        if (self.user_list_id is None) == (self.audience is None):
            raise ValueError("give either `user_list_id` or `audience` (the list's name)")
        return self


class Meta(_Audience):
    """A Custom Audience of Meta."""

    kind: Literal["meta"] = Field("meta", description="What it is; shows in the other keys.")
    audience_id: Annotated[str, _DIGITS, _without("act_")] | None = Field(
        None, description="Id of the audience: digits."
    )
    account_id: Annotated[str, _without("act_")] | None = Field(
        None, description="Ad account, needed to find an `audience` by its name."
    )
    view: ClassVar[str] = "meta"

    @model_validator(mode="after")
    def _one_audience(self) -> Meta:
        if (self.audience_id is None) == (self.audience is None):
            raise ValueError("give either `audience_id` or `audience` (its name)")
        if self.audience is not None and self.account_id is None:
            raise ValueError("`audience` (a name) needs `account_id` beside it")
        return self


class S3(_Destination):
    """A file in S3."""

    kind: Literal["s3"] = Field("s3", description="What it is; shows in the other keys.")
    bucket: str = Field(min_length=3, description="A bucket that exists.")
    key: str = Field(
        min_length=1, description="Key of the object; `{job_id}` and `{name}` are filled in."
    )
    format: Literal["csv"] = Field("csv", description="`csv`.")
    compression: Literal["gzip", "none"] = Field("gzip", description="`gzip` or `none`.")
    link_seconds: int = Field(
        7 * 86400, ge=60, le=7 * 86400, description="How long the download link lives."
    )
    view: ClassVar[str] = "rows"

    @field_validator("key")
    @classmethod
    def _placeholders(cls, value: str) -> str:
        for found in re.findall(r"\{([^{}]*)\}", value):
            if found not in ("job_id", "name"):
                raise ValueError(f"{{{found}}} is not known in `key`; use {{job_id}} or {{name}}")
        if re.search(r"[{}]", re.sub(r"\{(job_id|name)\}", "", value)):
            raise ValueError("`key` has a brace without its partner")
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError("`key` must not begin with '/' nor have a '..' part")
        return value


Destination = Annotated[GoogleAds | Meta | S3, Field(discriminator="kind")]
KINDS: dict[str, type[_Destination]] = {
    cls.model_fields["kind"].default: cls for cls in (GoogleAds, Meta, S3)
}


class JobSpec(_Part):
    """One source and one or more destinations."""

    name: str = Field(min_length=1, max_length=200, description="What people call the job.")
    job_id: str | None = Field(
        None, description="The caller's id: the same id twice is the same job. Made up if absent."
    )
    source: Source = Field(description="What is read: a query or a table of a connection.")
    destinations: tuple[Destination, ...] = Field(
        min_length=1,
        max_length=50,
        description="Where it goes: a table of keys for each platform's audience and each file.",
    )
    identity: Identity = Field(Identity(), description="How identifiers are read.")
    batch_rows: int = Field(20_000, ge=1, le=500_000, description="Rows in a batch.")
    window: int = Field(16, ge=2, le=1_000, description="Batches that may be unsettled at a time.")
    v: int = Field(WIRE_VERSION, description="Version of this document.")

    @field_validator("job_id")
    @classmethod
    def _id(cls, value: str | None) -> str | None:
        if value is not None and not JOB_ID.fullmatch(value):
            raise ValueError(
                "`job_id` takes up to 100 letters, digits, '.', '_' and '-', and no mark first"
            )
        return value

    @model_validator(mode="after")
    def _lanes_are_distinct(self) -> JobSpec:
        named = [d.lane for d in self.destinations if d.lane]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"two destinations have the lane name {name!r}")
        return self

    def lanes(self) -> dict[str, GoogleAds | Meta | S3]:
        """Each destination under its lane's name, in the order of the spec."""
        taken = {d.lane for d in self.destinations if d.lane}
        lanes: dict[str, GoogleAds | Meta | S3] = {}
        for destination in self.destinations:
            name, n = destination.lane or destination.connection, 1
            while name in lanes or (name in taken and not destination.lane):
                n += 1
                name = f"{destination.connection}-{n}"
            lanes[name] = destination
        return lanes

    def wire(self) -> dict[str, Any]:
        """The plain JSON document that travels."""
        return self.model_dump(mode="json", exclude_none=True)

    def digest(self) -> str:
        """Equal for equal specs: what tells the same job sent twice from an id used twice."""
        body = {k: v for k, v in self.wire().items() if k not in ("job_id", "v")}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    @classmethod
    def parse(cls, document: Any) -> JobSpec:
        """Read what a person wrote: an unknown key is a mistake, and named."""
        from penstock.reading import read  # noqa: PLC0415 - reading knows this module

        return read(document)

    @classmethod
    def from_wire(cls, document: Any) -> tuple[JobSpec, list[str]]:
        """Read what a program sent: unknown keys may come from a newer release, and are told of."""
        from penstock.reading import read  # noqa: PLC0415

        unknown: list[str] = []
        return read(document, unknown), unknown

    @classmethod
    def load(cls, path: str | Path) -> JobSpec:
        """Read a .toml or .json file."""
        from penstock.reading import load  # noqa: PLC0415

        return load(Path(path))


def json_schema() -> dict[str, Any]:
    """The spec as JSON Schema, for editors and for apps not in Python."""
    schema = JobSpec.model_json_schema()
    schema["$id"] = f"penstock/jobspec/v{WIRE_VERSION}"
    return schema
