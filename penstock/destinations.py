"""Every kind of destination, and how one is told from another."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from penstock import routes
from penstock.audiences import Audience, DataManager, DestinationPart, GoogleAds, Meta

Form = Literal["rows", "google", "meta"]


class S3(DestinationPart):
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

    @property
    def view(self) -> str:
        return "rows"

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


class _Processor(DestinationPart):
    form: Form = Field(
        "rows",
        description="`rows` as they are read, as text; or `google` or `meta`: the hashed members "
        "that platform would get.",
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="Handed on with each batch, as they are."
    )

    @property
    def view(self) -> str:
        return self.form


class Http(_Processor):
    """An endpoint of one's own, that takes each batch in a signed POST."""

    kind: Literal["http"] = Field(description="What it is.")
    encoding: Literal["json", "arrow"] = Field(
        "json", description="`json`, or `arrow` (an Arrow IPC stream)."
    )
    max_rows: int = Field(10_000, ge=1, le=500_000, description="Rows in one request, at most.")


class Python(_Processor):
    """A function that the workers' configuration names, called with each batch."""

    kind: Literal["python"] = Field(description="What it is.")
    max_rows: int = Field(50_000, ge=1, le=500_000, description="Rows in one call, at most.")


AnyDestination = GoogleAds | DataManager | Meta | Audience | Http | Python | S3
KINDS: dict[str, type[AnyDestination]] = {
    "google_ads": GoogleAds,
    "data_manager": DataManager,
    "meta": Meta,
    **dict.fromkeys(routes.PLAIN_AUDIENCES, Audience),
    "http": Http,
    "python": Python,
    "s3": S3,
}


#: How the model of the plain audiences is called in a union that goes by kinds.
PLAIN = "(audience)"


def _tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return PLAIN if kind in routes.PLAIN_AUDIENCES else str(kind)


Destination = Annotated[
    Annotated[GoogleAds, Tag("google_ads")]
    | Annotated[DataManager, Tag("data_manager")]
    | Annotated[Meta, Tag("meta")]
    | Annotated[Audience, Tag(PLAIN)]
    | Annotated[Http, Tag("http")]
    | Annotated[Python, Tag("python")]
    | Annotated[S3, Tag("s3")],
    Discriminator(_tag),
]
