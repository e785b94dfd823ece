"""Upload sessions: the numbers a client gives its requests so that they count together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sandbox.meta.errors import bad_parameter, cannot_update

MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class BatchMark:
    """The `session` parameter of one request."""

    session_id: int
    batch_seq: int
    last: bool

    @classmethod
    def read(cls, session: Any) -> BatchMark:
        if not isinstance(session, dict):
            raise bad_parameter("Param session must be a JSON object")
        session_id: Any = session.get("session_id")
        if not _is_count(session_id, at_least=1):
            raise bad_parameter("Param session.session_id must be a positive 64-bit integer")
        batch_seq: Any = session.get("batch_seq")
        if not _is_count(batch_seq, at_least=1):
            raise bad_parameter("Param session.batch_seq must be an integer from 1 on")
        last = session.get("last_batch_flag", False)
        if not isinstance(last, bool):
            raise bad_parameter("Param session.last_batch_flag must be a boolean")
        if not _is_count(session.get("estimated_num_total", 0), at_least=0):
            raise bad_parameter("Param session.estimated_num_total must be an integer from 0 on")
        return cls(session_id, batch_seq, last)


@dataclass
class Session:
    id: int
    #: The audience, or the account where all of its audiences are meant.
    audience_id: str
    batches: set[int] = field(default_factory=set)
    requests: int = 0
    received: int = 0
    invalid: int = 0
    last_batch_seen: bool = False

    def check(self, audience_id: str) -> None:
        if self.audience_id != audience_id:
            raise cannot_update("the session id is taken by another audience of the ad account")
        if self.last_batch_seen:
            raise cannot_update("the session has had its last batch and takes no more")

    def count(self, mark: BatchMark, received: int, invalid: int) -> None:
        """Count a request; one that is sent again counts again, as with the real API."""
        self.batches.add(mark.batch_seq)
        self.requests += 1
        self.received += received
        self.invalid += invalid
        self.last_batch_seen = mark.last

    def listing(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "audience_id": self.audience_id,
            "batches": sorted(self.batches),
            "requests": self.requests,
            "received": self.received,
            "invalid": self.invalid,
            "last_batch_seen": self.last_batch_seen,
        }


def _is_count(value: Any, *, at_least: int) -> bool:
    return type(value) is int and at_least <= value <= MAX_ID
