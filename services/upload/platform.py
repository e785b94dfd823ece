"""What a platform's module offers. A new platform is one file that does this, one line in
`penstock/routes.py`, and is then in the conformance suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa

from penstock.contract import LaneOutcome
from services.runtime.closing import Wait

Action = Literal["add", "remove", "replace"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may carry."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pace:
    """The caps that a platform documents for an account, for the limiter all workers share."""

    per_minute: int | None = None
    per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer's headers say of the account's limits."""

    percent: float
    regain_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Lot:
    """Rows that must go together: Google wants a job for each."""

    action: Action
    #: 3 * ad_user_data + ad_personalization, each 0 unspecified, 1 granted, 2 denied; None where
    #: no row says anything.
    consent: int | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What the platform said of one chunk."""

    accepted: int
    #: Row-level reasons; accepted and these add up to the chunk's rows.
    rejected: Mapping[str, int] = field(default_factory=dict)
    #: Place in the chunk -> (column or "", reason), where the platform says which rows.
    rows: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    usage: Usage | None = None
    #: Id of work whose verdict comes later: `close` is given it.
    request: str | None = None
    #: Written over the lane's memo.
    keep: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """What a closing task knows of the lane it brings to its end."""

    accepted: int
    #: Why the lane ends without success, or None.
    error: str | None
    cancelled: bool
    #: Mirror: members whose removal was sent.
    removed: int = 0
    #: Open ids of `Sent.request`; where there are many, the first of them.
    requests: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """Verdicts that came for some of `LaneEnd.requests`: id -> rows rejected after all, by reason.
    `close` is called again at once.
    """

    requests: Mapping[str, Mapping[str, int]]
    #: Written over the lane's memo.
    keep: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What the worker tells a platform of what it is built for."""

    #: How many seconds lie between two looks at what the platform is still working on.
    poll_seconds: float = 30.0
    dry_run: bool = False
    job_id: str = ""
    job_name: str = ""
    lane: str = ""
    #: The batch that is brought; -1 while the lane is brought to its end.
    seq: int = -1


class Sender(Protocol):
    """Sends one batch's rows of one lot, chunk after chunk, from one thread."""

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        """One request. Raises Retryable, Fatal or RowsRejected; after a Retryable the same chunk
        comes again, after RowsRejected its halves. `last`: the lot has no further chunk here.
        """
        ...


class Platform(Protocol):
    """One lane's destination. Built anew for a task; clients may be kept per connection.

    The order of calls is `prepare` and then `sender` for each batch's lots, `close` when every
    batch has settled, again after each Wait. Any of them may happen in another process than the
    one before, and a second time after a kill. All of them may raise verdicts. In a dry run only
    `look` and `validate` are called, and neither changes anything.
    """

    @property
    def limits(self) -> Limits: ...

    @property
    def pace(self) -> Pace: ...

    @property
    def by_consent(self) -> bool:
        """Whether rows of another consent are another lot."""
        ...

    @property
    def account(self) -> str:
        """Whose limits the lane shares with others, such as `meta/act_1`."""
        ...

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:
        """The ids that sending the lot needs and `memo` has not yet: find or create the audience,
        create the job. Possibly called twice; the ledger keeps the first answer, key by key.
        """
        ...

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> Sender: ...

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait | Checked:
        """Bring the lane to its end. `memo` is empty where no batch was ever sent."""
        ...

    def look(self) -> dict[str, Any]:
        """What `prepare` would find, in words for the outcome of a dry run."""
        ...

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent | None:
        """Let the platform check a chunk without taking it; None where it cannot."""
        ...

    def row_bytes(self, columns: list[str]) -> int:
        """An upper estimate of a member's size in a request, for cutting by bytes."""
        ...
