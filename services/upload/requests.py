"""Sends a chunk: in its turn, again after a passing fault, and in halves where it is refused."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from services.runtime.verdicts import Retryable, RowsRejected
from services.upload.platform import Platform, Sender, Sent
from services.upload.settings import UploadSettings


class Patience(Protocol):
    """How whoever sends waits."""

    def turn(self, platform: Platform) -> None:
        """Wait until the account's limits have room for one more request."""
        ...

    def answered(self, platform: Platform, sent: Sent) -> None: ...

    def refused(self, platform: Platform, later: Retryable) -> None:
        """Wait before the same chunk is sent again, or raise."""
        ...


class Requests:
    def __init__(
        self, platform: Platform, sender: Sender, patience: Patience, settings: UploadSettings
    ) -> None:
        self._platform = platform
        self._sender = sender
        self._patience = patience
        self._most_halvings = settings.most_halvings
        self._halvings = 0
        self._made = 0
        #: Those whose verdict comes later, and their rows.
        self._open: list[list[Any]] = []

    def open_since(self) -> list[list[Any]]:
        found, self._open = self._open, []
        return found

    def made_since(self) -> int:
        """How many requests were made since this was last asked."""
        made, self._made = self._made, 0
        return made

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        self._halvings = 0
        return self._halved(chunk, last=last)

    def _halved(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        """One bad row may make a platform refuse all it came with: it is looked for by halves, and
        within a bound, for where all are bad that would be a request for each.
        """
        try:
            return self._sent(chunk, last=last)
        except RowsRejected as no:
            rows = chunk.num_rows
            if rows > 1 and self._halvings < self._most_halvings:
                self._halvings += 1
                half = rows // 2
                first = self._halved(chunk.slice(0, half), last=False)
                return _joined(first, self._halved(chunk.slice(half), last=last), half)
            return Sent(0, {no.reason: rows}, dict.fromkeys(range(rows), ("", no.reason)))

    def _sent(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        while True:
            self._patience.turn(self._platform)
            self._made += 1
            try:
                sent = self._sender.send(chunk, last=last)
            except Retryable as later:
                self._patience.refused(self._platform, later)
            else:
                self._patience.answered(self._platform, sent)
                if sent.request is not None:
                    self._open.append([sent.request, chunk.num_rows])
                return sent


def _joined(first: Sent, second: Sent, offset: int) -> Sent:
    rejected = dict(first.rejected)
    for reason, count in second.rejected.items():
        rejected[reason] = rejected.get(reason, 0) + count
    rows = {**first.rows, **{place + offset: why for place, why in second.rows.items()}}
    return Sent(
        first.accepted + second.accepted,
        rejected,
        rows,
        usage=second.usage,
        keep={**first.keep, **second.keep},
    )
