"""What travels between services: each type, who sets it, and its wire form.

The lowest level that all share. A reader is tolerant: keys it does not know are ignored and
missing ones have defaults, so that old and new workers can run side by side. A version it does
not know is refused.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from penstock.audiences import Audience, DataManager, GoogleAds, Meta
from penstock.destinations import S3, Destination, Http, Python
from penstock.errors import SpecError, VersionError
from penstock.params import TypedParam
from penstock.spec import WIRE_VERSION, Consent, Identity, JobSpec, Source, json_schema

__all__ = [
    "S3", "WIRE_VERSION", "Artifact", "Audience", "Batch", "Consent", "DataManager", "Destination",
    "GoogleAds", "Http", "Identity", "JobRef", "JobSpec", "LaneOutcome", "LaneRef", "Meta",
    "Python", "Rejection", "Source", "Tally", "TypedParam", "json_schema",
]  # fmt: skip

JOB_ENDS = frozenset({"succeeded", "partial", "failed", "cancelled"})
#: Reason of rows that a second reading of the source did not find any more.
GONE = "gone from the source when a lost payload was read again"
LANE_ENDS = frozenset({"succeeded", "rejected_some", "failed", "cancelled", "skipped"})


@dataclass(frozen=True, slots=True)
class _Message:
    def wire(self) -> dict[str, Any]:
        return {"v": WIRE_VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def read(cls, wire: Any) -> Self:
        if not isinstance(wire, dict):
            raise SpecError(f"A {cls.__name__} message must be one JSON object.")
        version = wire.get("v")
        if version != WIRE_VERSION:
            raise VersionError(
                f"A message has version {version!r}, and this worker reads version "
                f"{WIRE_VERSION}: run workers of a release that knows it."
            )
        for f in fields(cls):
            if f.name not in wire and f.default is MISSING:
                raise SpecError(f"A {cls.__name__} message has no {f.name!r}, which is needed.")
        return cls(**{f.name: wire[f.name] for f in fields(cls) if f.name in wire})


@dataclass(frozen=True, slots=True)
class JobRef(_Message):
    """To `extract.run`, `jobs.finalize`: the job whose turn it is."""

    job_id: str


@dataclass(frozen=True, slots=True)
class LaneRef(_Message):
    """To the closing tasks: the lane that may have come to its end."""

    job_id: str
    lane: str


@dataclass(frozen=True, slots=True)
class Batch(_Message):
    """To the delivering tasks and `extract.refill`: one batch of one lane. Ids alone."""

    job_id: str
    seq: int
    #: Set by `extract` when it starts the stream over; a message of an older generation is void.
    generation: int = 1
    #: Empty in `extract.refill`, where the batch is wanted again for every lane.
    lane: str = ""


@dataclass(slots=True)
class Tally:
    """What became of a batch's rows in one lane. The four figures add up to the rows."""

    accepted: int = 0
    rejected: int = 0
    skipped: int = 0
    failed: int = 0
    #: Row-level reasons; their counts add up to rejected + skipped + failed.
    reasons: dict[str, int] = field(default_factory=dict)
    #: Values that could not be used though the row may have been sent by its others.
    unusable: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.accepted + self.rejected + self.skipped + self.failed

    def count(self, figure: str, rows: int, reason: str) -> None:
        if rows:
            setattr(self, figure, getattr(self, figure) + rows)
            self.reasons[reason] = self.reasons.get(reason, 0) + rows

    def wire(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def read(cls, wire: dict[str, Any]) -> Tally:
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in wire.items() if k in known})


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that a lane did not take whole: by its own key and never by its values."""

    #: The value of the source's `key`, or "batch 3, row 17" where it has none to show.
    row: str
    #: The column at fault; empty where it is the row.
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a lane made. Set by the export worker when the upload is complete."""

    bucket: str
    key: str
    url: str
    bytes: int
    rows: int
    sha256: str
    expires_at: str = ""

    def wire(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(slots=True)
class LaneOutcome:
    """How a lane ended, as its closing task found it; the ledger adds the figures."""

    #: One of LANE_ENDS, or None: the ledger derives it from the figures.
    state: str | None = None
    #: One sentence, free of row data.
    error: str | None = None
    #: Accepted rows that came to nothing after all (a platform's job failed): moved to this figure.
    lost_to: str | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    #: What the platform tells of the whole lane: match rate, ids. Nothing personal.
    details: dict[str, Any] = field(default_factory=dict)
