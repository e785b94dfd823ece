"""What of a batch is sent: kept in the ledger, so that a retry does not send it twice."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self

import pyarrow as pa

from services.upload.chunk import ROW, ROW_KEY
from services.upload.platform import Sent

_MOST_REPORTED = 1_000


@dataclass(slots=True)
class Progress:
    #: The lot that is being sent, and the place of its last row that was.
    lot: int = 0
    row: int = -1
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    #: For the report: [place or key, column, reason].
    report: list[list[Any]] = field(default_factory=list)
    #: Places of rows that the platform refused: a mirror must not believe them sent.
    refused: list[int] = field(default_factory=list)
    #: Requests whose verdict comes later: [id, rows].
    requests: list[list[Any]] = field(default_factory=list)
    #: How many requests were made.
    made: int = 0

    @classmethod
    def read(cls, kept: dict[str, Any]) -> Self:
        if "row" not in kept:
            return cls()  # of a release that counted otherwise: sent once more, it counts once
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in kept.items() if k in known})

    def add(self, chunk: pa.RecordBatch, sent: Sent) -> None:
        places = chunk.column(ROW)
        self.row = places[-1].as_py()
        self.accepted += sent.accepted
        for reason, count in sent.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        for place, (column, reason) in sent.rows.items():
            at = places[place].as_py()
            self.refused.append(at)
            self._report(chunk, place, column, reason)

    def skip(self, reason: str, rows: pa.RecordBatch, *, reported: bool) -> None:
        if not rows.num_rows:
            return
        self.skipped[reason] = self.skipped.get(reason, 0) + rows.num_rows
        if reported:
            for place in range(min(rows.num_rows, _MOST_REPORTED)):
                self._report(rows, place, "", reason)

    def _report(self, rows: pa.RecordBatch, place: int, column: str, reason: str) -> None:
        if len(self.report) < _MOST_REPORTED:
            shown = _key(rows, place)
            at = rows.column(ROW)[place].as_py() if shown is None else shown
            self.report.append([at, column, reason])

    def next_lot(self) -> None:
        self.lot += 1
        self.row = -1


def _key(chunk: pa.RecordBatch, place: int) -> str | None:
    if ROW_KEY not in chunk.schema.names:
        return None
    key: str | None = chunk.column(ROW_KEY)[place].as_py()
    return key
