"""The job's spec: what a caller writes. `reading` makes it of a document."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from penstock.audiences import AudiencePart, Consented
from penstock.destinations import KINDS, AnyDestination, Destination
from penstock.params import Param, typed
from penstock.parts import ConnectionName, Part, nearest

__all__ = ["CONSENTS", "IDENTIFIERS", "KINDS", "WIRE_VERSION", "AnyDestination", "Consent",
           "Destination", "Identity", "JobSpec", "Source", "json_schema", "nearest"]  # fmt: skip

WIRE_VERSION = 1
#: A dry run's document has this one, so that a worker of a release before dry runs refuses it
#: where it would otherwise overlook the key and send.
_DRY_VERSION = 2
VERSIONS = (WIRE_VERSION, _DRY_VERSION)

IDENTIFIERS = ("email", "phone", "first_name", "last_name", "city", "state", "postal_code",
               "country", "gender", "date_of_birth", "external_id", "mobile_ad_id")  # fmt: skip
CONSENTS = ("consent", "ad_user_data", "ad_personalization")
_NAMES = (*IDENTIFIERS, *CONSENTS)
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READS = re.compile(
    r"(?:\s|\(|--[^\n]*\n|(?>/\*.*?\*/))*+(select|with|table|values)\b",
    re.IGNORECASE | re.DOTALL,
)
_STRINGS = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)


class Source(Part):
    """What is read: a query or a table of a connection."""

    connection: ConnectionName = Field(
        description="Name of a connection of the workers: letters, digits, '_' and '-'."
    )
    query: str | None = Field(None, description="One SELECT; `%(name)s` stands for a parameter.")
    table: str | None = Field(None, description="A table or view, with its schema where needed.")
    erasure: str | None = Field(
        None, description="Id of an erasure; set by `penstock erase` alone."
    )
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
            if name not in _NAMES:
                raise ValueError(
                    f"{name!r} is not a column that destinations know"
                    f"{nearest(name, _NAMES)}; they know {', '.join(_NAMES)}"
                )
        return value

    @model_validator(mode="after")
    def _one_of_query_and_table(self) -> Source:
        if self.erasure is not None:
            if self.query is not None or self.table is not None:
                raise ValueError("`erasure` takes no `query` and no `table`")
        elif (self.query is None) == (self.table is None):
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


class Identity(Part):
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


class Consent(Part):
    """What people agreed to; a row's own columns (`consent`, `ad_user_data`, `ad_personalization`)
    go before it.
    """

    value: Consented | None = Field(None, description="For rows that say nothing themselves.")
    required: bool = Field(
        False, description="Leave out of every audience who has not granted consent."
    )


class JobSpec(Part):
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
    consent: Consent = Field(Consent(), description="What people agreed to.")
    dry_run: bool = Field(
        False, description="Read, hash, cut and count, and change nothing anywhere."
    )
    full: bool = Field(
        False, description='Lanes of `mode = "mirror"` send everyone, not the difference.'
    )
    batch_rows: int = Field(20_000, ge=1, le=500_000, description="Rows in a batch.")
    window: int = Field(16, ge=2, le=1_000, description="Batches that may be unsettled at a time.")
    v: int = Field(WIRE_VERSION, description="Version of this document.")

    @model_validator(mode="after")
    def _dry_runs_say_so_in_the_version(self) -> JobSpec:
        object.__setattr__(self, "v", _DRY_VERSION if self.dry_run else WIRE_VERSION)
        return self

    @model_validator(mode="after")
    def _mirrors_can_go_on(self) -> JobSpec:
        if self.source.key is None and any(
            isinstance(d, AudiencePart) and d.mode == "mirror" for d in self.destinations
        ):
            raise ValueError(
                '`mode = "mirror"` needs `key` in the source (a unique, sortable column): a run '
                "that must start over loses sight of whom it has sent"
            )
        return self

    @field_validator("job_id")
    @classmethod
    def _id(cls, value: str | None) -> str | None:
        if value is not None and not JOB_ID.fullmatch(value):
            raise ValueError(
                "`job_id` takes up to 100 letters, digits, '.', '_' and '-', and no mark first"
            )
        return value

    @model_validator(mode="after")
    def _an_erasure_only_removes(self) -> JobSpec:
        if self.source.erasure is not None:
            for destination in self.destinations:
                if not (isinstance(destination, AudiencePart) and destination.mode == "remove"):
                    raise ValueError('an erasure takes destinations of `mode = "remove"` alone')
        return self

    @model_validator(mode="after")
    def _lanes_are_distinct(self) -> JobSpec:
        named = [d.lane for d in self.destinations if d.lane]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"two destinations have the lane name {name!r}")
        return self

    def lanes(self) -> dict[str, AnyDestination]:
        """Each destination under its lane's name, in the order of the spec."""
        taken = {d.lane for d in self.destinations if d.lane}
        lanes: dict[str, AnyDestination] = {}
        for destination in self.destinations:
            name, n = destination.lane or destination.connection, 1
            while name in lanes or (name in taken and not destination.lane):
                n += 1
                name = f"{destination.connection}-{n}"
            lanes[name] = destination
        return lanes

    def wire(self) -> dict[str, Any]:
        """The plain JSON document that travels: without what is as by default, so that a worker of
        an earlier release knows every key that says something.
        """
        document = self.model_dump(mode="json", exclude_defaults=True)
        for part, destination in zip(document["destinations"], self.destinations, strict=True):
            part["kind"] = destination.kind
        return {**document, "v": self.v}

    def digest(self) -> str:
        """Equal for equal specs, in later releases too: what tells the same job sent twice from an
        id used twice.
        """
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
