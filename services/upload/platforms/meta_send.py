"""Requests that add members to Meta's audiences or remove them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from services.runtime.verdicts import Retryable
from services.upload.platform import Sent
from services.upload.platforms.meta_graph import Answer, Graph
from services.upload.platforms.meta_payload import Payload
from services.upload.platforms.meta_usage import usage_of

INVALID = "Meta: invalid entry"
_MAX_ID = 2**63 - 1


def new_session_id() -> int:
    return secrets.randbelow(_MAX_ID) + 1


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go, and what goes with each of them."""

    graph: Graph
    path: str
    account_id: str | None
    #: Meta's keys that have one value for all rows.
    same_for_all: Mapping[str, Any] = field(default_factory=dict)
    #: Meta does not document that answers of this edge give counts.
    may_not_count: bool = False

    def post(self, payload: bytes, session: Mapping[str, Any], *, remove: bool = False) -> Answer:
        # To remove is a DELETE by name alone: Meta reads no body of a real one, and in the URL
        # there is room for a hundred rows.
        verb = b'"method":"DELETE",' if remove else b""
        parts = (b"{", verb, b'"payload":', payload, b',"session":', orjson.dumps(session), b"}")
        return self.graph.post(self.path, b"".join(parts))

    def sent(self, answer: Answer, payload: Payload, invalid: int, keep: dict[str, Any]) -> Sent:
        """What became of the chunk. Meta gives up to a hundred invalid entries, without their
        places: the rows that read the same are these. More of them than invalid entries cannot be.
        """
        places = payload.places(answer.fields.get("invalid_entry_samples")) if invalid else []
        return Sent(
            len(payload.rows) - invalid,
            {INVALID: invalid} if invalid else {},
            dict.fromkeys(places, ("", INVALID)) if len(places) <= invalid else {},
            usage_of(answer.headers, self.account_id),
            keep=keep,
        )


def counts(answer: Answer) -> tuple[int, int]:
    """Rows and invalid entries that Meta has received in the session so far. An answer without
    them is no success, whatever its status.
    """
    told = answer.fields
    received, invalid = told.get("num_received"), told.get("num_invalid_entries", 0)
    if type(received) is not int or type(invalid) is not int:
        raise Retryable("Meta answered without saying how many rows it received.")
    return received, invalid


class MetaSender:
    """Sends in a session of its own.

    Meta's counts are those of a session so far: shared with other batches they could not be told
    apart.
    """

    def __init__(self, target: Target, rows: int, *, remove: bool) -> None:
        self._target = target
        self._rows = rows
        self._remove = remove
        self._session: _Session | None = None

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        # Gone until the whole answer is here. After anything else nobody knows whether the chunk
        # was counted: what is left goes into a new session, whose counts begin at nothing. Meta
        # holds one person once, so the chunk may go in twice.
        session, self._session = self._session or _Session(self._rows), None
        payload = Payload.of(chunk, self._target.same_for_all)
        answer = self._target.post(payload.json, session.mark(last=last), remove=self._remove)
        if self._target.may_not_count and answer.fields.get("success") is True:
            # Without counts the next chunk's could not be told apart: it has its own session.
            return self._target.sent(answer, payload, 0, {})
        invalid = session.invalid_of(answer, chunk.num_rows)
        self._session = session
        return self._target.sent(answer, payload, invalid, {})


class _Session:
    def __init__(self, rows: int) -> None:
        self._id = new_session_id()
        self._rows = rows
        self._batch = 0
        self._received = 0
        self._invalid = 0

    def mark(self, *, last: bool) -> dict[str, Any]:
        self._batch += 1
        return {
            "session_id": self._id,
            "batch_seq": self._batch,
            "last_batch_flag": last,
            "estimated_num_total": self._rows,
        }

    def invalid_of(self, answer: Answer, rows: int) -> int:
        """How many of the rows just sent are invalid entries."""
        received, invalid = counts(answer)
        new, newly_invalid = received - self._received, invalid - self._invalid
        if new != rows or not 0 <= newly_invalid <= rows:
            raise Retryable(f"Meta counted {new} rows where {rows} were sent.")
        self._received, self._invalid = received, invalid
        return newly_invalid
