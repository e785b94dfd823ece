"""Makes a batch's piece of the file. Any worker makes any piece: gzip members one after another
are a valid gzip file.
"""

from __future__ import annotations

from isal import igzip

from penstock.contract import S3
from penstock.payloads import Payload
from services.export.formats import FORMATS


def piece_of(
    destination: S3, payload: Payload | None, columns: list[str] | None, level: int
) -> bytes:
    """`columns` for the file's first piece, which begins with the head."""
    form = FORMATS[destination.format]
    head = form.head(columns) if columns is not None else b""
    rows = form.rows(payload) if payload is not None else b""
    return _compressed(head + rows if head else rows, destination.compression, level)


def _compressed(data: bytes, compression: str, level: int) -> bytes:
    if compression == "gzip" and data:
        # Without the time, so that a piece made again is the same to the byte.
        return igzip.compress(data, compresslevel=level, mtime=0)
    return data
