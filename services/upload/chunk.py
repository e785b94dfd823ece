"""Cuts a batch's members to what one request of a platform may carry."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from penstock.payloads import Payload
from services.upload.platform import Limits


def members_of(payload: Payload) -> pa.RecordBatch:
    with pa.ipc.open_stream(pa.BufferReader(payload.body)) as reader:
        return reader.read_next_batch()


def chunks(
    members: pa.RecordBatch, limits: Limits, row_bytes: int, start: int
) -> Iterator[pa.RecordBatch]:
    """Slices from `start` on. Where a cut falls depends on the limits alone, so that a batch that
    is taken up again goes on at the same place.
    """
    step = max(1, min(limits.rows, limits.bytes // max(row_bytes, 1)))
    for first in range(start, members.num_rows, step):
        yield members.slice(first, step)
