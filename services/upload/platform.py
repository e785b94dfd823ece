"""What a platform's module offers. A new platform is one file that does this, one line in
`platforms/__init__.py`, and one line in the conformance suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from penstock.contract import LaneOutcome
from services.runtime.closing import Wait


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may carry."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What the platform said of one chunk."""

    accepted: int
    #: Row-level reasons; accepted and these add up to the chunk's rows.
    rejected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """What a closing task knows of the lane it brings to its end."""

    accepted: int
    #: Why the lane ends without success, or None.
    error: str | None
    cancelled: bool


class Sender(Protocol):
    """Sends one batch, chunk after chunk, from one thread."""

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        """One request. Raises Retryable, Fatal or RowsRejected, and after a Retryable the same
        chunk comes again. `last`: the batch has no further chunk.
        """
        ...


class Platform(Protocol):
    """One lane's destination. Built anew for a task; clients may be kept per connection.

    The order of calls is `prepare` and then `sender` for each batch, `close` when every batch has
    settled, again after each Wait. Any of them may happen in another process than the one before,
    and a second time after a kill. All of them may raise verdicts.
    """

    limits: ClassVar[Limits]

    def prepare(self, memo: Mapping[str, Any]) -> dict[str, Any]:
        """The ids that sending needs and `memo` has not yet: look up the audience, create the job.
        Called before the first batch of a lane, possibly twice; the ledger keeps the first answer.
        """
        ...

    def sender(self, memo: Mapping[str, Any], rows: int) -> Sender: ...

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait:
        """Bring the lane to its end. `memo` is empty where no batch was ever sent."""
        ...

    def row_bytes(self, columns: list[str]) -> int:
        """An upper estimate of a member's size in a request, for cutting by bytes."""
        ...
