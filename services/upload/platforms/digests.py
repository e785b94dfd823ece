"""Digests from a column to the hex that platforms want."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

DIGEST = pa.binary(32)
_HEX = 2 * DIGEST.byte_width

Missing = TypeVar("Missing", str, None)


def hex_column(column: pa.Array, missing: Missing) -> list[str | Missing]:
    """Lower-case hex of each digest, and `missing` for NULL."""
    if column.type != DIGEST:
        raise TypeError(f"A column of digests is {DIGEST}, and this one is {column.type}.")
    if column.null_count == len(column):
        return [missing] * len(column)
    # The whole buffer at once costs a third of what each digest by itself does.
    first = column.offset * DIGEST.byte_width
    digests = memoryview(column.buffers()[1])[first : first + len(column) * DIGEST.byte_width]
    text = digests.hex()
    values: list[str | Missing] = [text[at : at + _HEX] for at in range(0, len(text), _HEX)]
    if column.null_count == 0:
        return values
    there = column.is_valid().to_pylist()
    return [value if given else missing for value, given in zip(values, there, strict=True)]
