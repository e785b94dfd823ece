"""Cuts a batch's members to what may go together, and that to what one request may carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from penstock.payloads import Payload
from services.upload.platform import Action, Limits, Lot

#: A row's place in its batch as it was read: what a retry goes on after.
ROW = "row"
#: The row's own key, where it may be shown.
ROW_KEY = "row_key"
CONSENT = "consent"


def members_of(payload: Payload, columns: Sequence[str]) -> pa.RecordBatch:
    """The payload's rows, each with its place."""
    if payload.about["form"] == "csv":
        return _placed(_text_rows(payload, columns))
    with pa.ipc.open_stream(pa.BufferReader(payload.body)) as reader:
        return _placed(reader.read_next_batch())


def lots_of(
    members: pa.RecordBatch, action: Action, *, by_consent: bool
) -> list[tuple[Lot, pa.RecordBatch]]:
    """Always in the same order, so that a batch that is taken up again goes on at its place."""
    if not by_consent or CONSENT not in members.schema.names:
        return [(Lot(action), members)]
    codes = members.column(CONSENT)
    return [
        (Lot(action, code), members.filter(pc.equal(codes, code)))
        for code in sorted(pc.unique(codes).to_pylist())
    ]


def after(members: pa.RecordBatch, row: int) -> pa.RecordBatch:
    return members if row < 0 else members.filter(pc.greater(members.column(ROW), row))


def chunks(members: pa.RecordBatch, limits: Limits, row_bytes: int) -> Iterator[pa.RecordBatch]:
    step = max(1, min(limits.rows, limits.bytes // max(row_bytes, 1)))
    for first in range(0, members.num_rows, step):
        yield members.slice(first, step)


def _placed(batch: pa.RecordBatch) -> pa.RecordBatch:
    if ROW in batch.schema.names:
        return batch
    return batch.append_column(ROW, pa.array(range(batch.num_rows), pa.uint32()))


def _text_rows(payload: Payload, columns: Sequence[str]) -> pa.RecordBatch:
    """Rows as the source's server wrote them, each value as text and NULL as NULL."""
    names = _distinct(columns)
    if not payload.about["rows"]:
        return pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in names})
    data = pa.decompress(payload.body, payload.about["raw"], codec="lz4")
    table = csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(data) + 1, 1024)),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return table.combine_chunks().to_batches()[0]


def _distinct(columns: Sequence[str]) -> list[str]:
    """A query may give two columns one name, or one of them the name of the row's place or key."""
    names: list[str] = []
    for column in columns:
        name, n = column, 1
        while name in names or name in (ROW, ROW_KEY):
            n += 1
            name = f"{column}_{n}"
        names.append(name)
    return names
