"""Columns of members as the requests of both of Google's APIs are filled from them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from services.upload.platforms.digests import hex_column


def contacts(chunk: pa.RecordBatch) -> Iterator[tuple[str | None, ...]]:
    """E-mail, phone, first and last name as hex, country and postal code, row by row."""
    return zip(
        *(_digests(chunk, name) for name in ("email", "phone", "first_name", "last_name")),
        *(texts(chunk, name) for name in ("country", "postal_code")),
        strict=True,
    )


def texts(chunk: pa.RecordBatch, name: str) -> list[str | None]:
    if name not in chunk.schema.names:
        return [None] * chunk.num_rows
    found: list[str | None] = chunk.column(name).to_pylist()
    return found


def _digests(chunk: pa.RecordBatch, name: str) -> list[str | None]:
    if name not in chunk.schema.names:
        return [None] * chunk.num_rows
    return hex_column(chunk.column(name), None)
