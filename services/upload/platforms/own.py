"""What a destination of one's own is given, and what it answers: endpoints and functions alike."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from penstock.contract import Http, Python
from services.runtime.verdicts import Fatal
from services.upload.chunk import ROW
from services.upload.platform import Context, Limits, Lot, Pace, Sent

#: The first column: the row's place in its batch.
PLACE = "penstock_row"
UNTOLD = "rejected without a reason"
#: A reason is for counting: who puts an id into each must not fill the ledger.
OTHERS = "rejected for other reasons"
_MOST_REASONS = 20
_REASON_LENGTH = 200
_ROW_BYTES = 1

Destination = TypeVar("Destination", Http, Python)


class OwnPlatform(Generic[Destination]):
    """There is nothing to prepare, and nobody to ask whether rows are right."""

    pace: ClassVar[Pace] = Pace()
    by_consent: ClassVar[bool] = False

    def __init__(self, destination: Destination, context: Context | None) -> None:
        self._destination: Destination = destination
        self._context = context or Context()

    @property
    def limits(self) -> Limits:
        """How large a row of one's own is nobody knows beforehand: rows are all that is counted."""
        rows = self._destination.max_rows
        return Limits(rows=rows, bytes=rows * _ROW_BYTES)

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent | None:  # noqa: ARG002
        return None

    def row_bytes(self, columns: list[str]) -> int:  # noqa: ARG002
        return _ROW_BYTES


def key_of(context: Context, chunk: pa.RecordBatch) -> str:
    """Names the chunk by what stays when it is sent again, by another worker too."""
    places = chunk.column(ROW)
    rows = f"{places[0].as_py()}-{places[-1].as_py()}"
    return f"{context.job_id}/{context.lane}/{context.seq}/{rows}"


def handed_on(chunk: pa.RecordBatch) -> pa.RecordBatch:
    names = [name for name in chunk.schema.names if name != ROW]
    columns = [chunk.column(name) for name in (ROW, *names)]
    return pa.RecordBatch.from_arrays(columns, names=[PLACE, *names])


def sent(chunk: pa.RecordBatch, refusals: Iterable[Any], who: str) -> Sent:
    """All rows but those that are named were taken. A Fatal where one is named that is not there:
    nobody knows then what became of the others.
    """
    rows: dict[int, tuple[str, str]] = {}
    for refusal in refusals:
        place, column, reason = _read(refusal, who)
        if not 0 <= place < chunk.num_rows:
            raise Fatal(f"{who} rejected a row that it was not given: places count from 0.")
        known = isinstance(column, str) and column != ROW and column in chunk.schema.names
        rows.setdefault(place, (column if known else "", shown(reason)))
    counts: dict[str, int] = {}
    for _, reason in rows.values():
        counted = reason if reason in counts or len(counts) < _MOST_REASONS else OTHERS
        counts[counted] = counts.get(counted, 0) + 1
    return Sent(chunk.num_rows - len(rows), counts, dict(sorted(rows.items())))


def shown(reason: Any) -> str:
    """A reason of another's, as it may stand in the ledger and on a screen."""
    text = reason if isinstance(reason, str) else ""
    words = "".join(c if c.isprintable() else " " for c in text[: 2 * _REASON_LENGTH]).split()
    return " ".join(words)[:_REASON_LENGTH] or UNTOLD


def _read(refusal: Any, who: str) -> tuple[int, Any, Any]:
    try:
        if isinstance(refusal, Mapping):
            place, column, reason = refusal["row"], refusal.get("field"), refusal.get("reason")
        else:
            (place, reason), column = refusal, ""
        return operator.index(place), column, reason
    except (KeyError, TypeError, ValueError):
        raise Fatal(f"{who} rejected a row without saying which: give its place.") from None
