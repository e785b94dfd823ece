"""Replacing all members of an audience: one session for the lane, through `usersreplace`.

Meta begins the replacement with batch 1, takes any number of batches after it for 90 minutes, and
changes the members when one comes that is marked as the last. Which chunk is the lane's last is
known only when it is closed, so closing sends a member once more, marked so.

The memo holds what the next chunk needs, each under a key of its own: `replace_session`,
`replace_next` (the next batch number), `replace_received` and `replace_invalid` (Meta's counts so
far), and `replace_first` (the payload to close with; the ledger drops the memo with the lane).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from services.runtime.verdicts import Retryable
from services.upload.platform import Sent
from services.upload.platforms.meta_errors import NoFirstBatch, ReplaceOver
from services.upload.platforms.meta_graph import Answer
from services.upload.platforms.meta_payload import Payload
from services.upload.platforms.meta_send import Target, counts


class ReplaceSender:
    """Sends the lane's chunks one after another; the lane is serial.

    A chunk comes again under its number when nobody knows whether it arrived. Meta allows that for
    every batch but the first, which begins the replacement and may begin it anew: what was there
    before would be lost. So a first chunk that may have been sent before goes as batch 2, and as
    batch 1 only when Meta says that it has none. `fresh`: it has not been sent before.
    """

    def __init__(self, target: Target, memo: Mapping[str, Any], *, fresh: bool) -> None:
        self._target = target
        self._id: int = memo["replace_session"]
        self._next: int = memo.get("replace_next", 1)
        self._received: int = memo.get("replace_received", 0)
        self._invalid: int = memo.get("replace_invalid", 0)
        self._has_first = "replace_first" in memo
        self._fresh = fresh

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002 - of its batch
        payload = Payload.of(chunk, self._target.same_for_all)
        answer, number = self._post(payload)
        received, invalid = counts(answer)
        newly_invalid = self._newly_invalid(received, invalid, chunk.num_rows)
        self._next, self._received, self._invalid = number + 1, received, invalid
        keep: dict[str, Any] = {
            "replace_next": self._next,
            "replace_received": received,
            "replace_invalid": invalid,
        }
        sent = self._target.sent(answer, payload, newly_invalid, keep)
        if sent.accepted and not self._has_first:
            good = next(place for place in range(chunk.num_rows) if place not in sent.rows)
            member = Payload.of(chunk.slice(good, 1), self._target.same_for_all)
            keep["replace_first"] = member.json.decode()
            self._has_first = True
        return sent

    def _post(self, payload: Payload) -> tuple[Answer, int]:
        begins = self._next == 1
        number = 2 if begins and not self._fresh else self._next
        self._fresh = False
        try:
            return self._target.post(payload.json, _mark(self._id, number)), number
        except NoFirstBatch:
            if not begins or number == 1:
                raise
        return self._target.post(payload.json, _mark(self._id, 1)), 1

    def _newly_invalid(self, received: int, invalid: int, rows: int) -> int:
        """How many of the chunk's rows are invalid entries. Meta counts a chunk as often as it has
        come, so the counts of one that came again are divided by how often.
        """
        new, newly_invalid = received - self._received, invalid - self._invalid
        if new < rows or not 0 <= newly_invalid <= new:
            raise Retryable(f"Meta counted {new} rows where {rows} were sent.")
        return -(-newly_invalid * rows // new)


def finish(target: Target, memo: Mapping[str, Any]) -> None:
    """Tell Meta that all of the lane has come."""
    member = memo["replace_first"].encode()
    mark = _mark(memo["replace_session"], memo["replace_next"], last=True)
    try:
        # An answer without its counts is no success here either.
        counts(target.post(member, mark))
    except ReplaceOver:
        # An earlier attempt got through whose answer was lost: nothing else ends this session.
        return


def _mark(session: int, number: int, *, last: bool = False) -> dict[str, Any]:
    return {"session_id": session, "batch_seq": number, "last_batch_flag": last}
