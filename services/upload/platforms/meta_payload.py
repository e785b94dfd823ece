"""The rows of a request to Meta, built by whole columns: no Python object for a row.

What stands between two values of a row, and between two rows, is the same everywhere. So Arrow
joins the values with it, and the result is the JSON.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from penstock.contract import Meta
from services.upload.platforms.digests import DIGEST

#: Column of the payload -> Meta's key for it.
KEYS: Final = {
    "email": "EMAIL",
    "phone": "PHONE",
    "first_name": "FN",
    "last_name": "LN",
    "city": "CT",
    "state": "ST",
    "postal_code": "ZIP",
    "country": "COUNTRY",
    "gender": "GEN",
    "birth_year": "DOBY",
    "birth_month": "DOBM",
    "birth_day": "DOBD",
    "mobile_ad_id": "MADID",
    "external_id": "EXTERN_ID",
}
VALUE_BYTES: Final = 67
_BETWEEN: Final = pa.scalar(b'","', pa.binary())
_NOT_PLAIN: Final = r'["\\\x00-\x1f]'


def limited_use(destination: Meta) -> dict[str, Any]:
    """The keys by which Meta is told how it may process a row; in an audience of customers they
    are part of each row. None where the destination names no option.
    """
    if not destination.data_processing_options:
        return {}
    keys: dict[str, Any] = {
        "DATA_PROCESSING_OPTIONS": list(destination.data_processing_options),
        "DATA_PROCESSING_OPTIONS_COUNTRY": destination.data_processing_country,
        "DATA_PROCESSING_OPTIONS_STATE": destination.data_processing_state,
    }
    return {key: value for key, value in keys.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Payload:
    """The `payload` of one request."""

    json: bytes
    #: Each row's values as they stand in the JSON, without the first quote and the last.
    rows: pa.BinaryArray
    keys: int

    @classmethod
    def of(cls, chunk: pa.RecordBatch, same_for_all: Mapping[str, Any]) -> Payload:
        names = [name for name in KEYS if name in chunk.schema.names]
        rows = pc.binary_join_element_wise(
            *(_texts(chunk.column(name)) for name in names),
            _BETWEEN,
            null_handling="replace",
            null_replacement=b"",
        )
        after = b"".join(b"," + orjson.dumps(value) for value in same_for_all.values())
        whole = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows)
        joined = pc.binary_join(whole, pa.scalar(b'"' + after + b'],["', pa.binary()))
        schema = [*(KEYS[name] for name in names), *same_for_all]
        parts = (
            *(b'{"schema":', orjson.dumps(schema), b',"data":[["'),
            *(joined[0].as_buffer(), b'"', after, b"]]}"),
        )
        return cls(b"".join(parts), rows, len(names))

    def places(self, samples: Any) -> list[int]:
        """Where the rows are that Meta gives as samples: a list of entries, or a map with them as
        its keys. An entry that is not a row to the letter is nobody's.
        """
        entries = samples if isinstance(samples, list) else list(samples or ())
        wanted = {text for entry in entries if (text := self._text(entry)) is not None}
        if not wanted:
            return []
        found = pc.is_in(self.rows, value_set=pa.array(sorted(wanted), self.rows.type))
        return pc.indices_nonzero(found).to_pylist()

    def _text(self, entry: Any) -> bytes | None:
        if isinstance(entry, str) and entry.startswith("["):
            try:
                entry = orjson.loads(entry)
            except orjson.JSONDecodeError:
                return None
        values = (entry if isinstance(entry, list) else [entry])[: self.keys]
        if len(values) < self.keys or not all(isinstance(value, str) for value in values):
            return None
        return orjson.dumps(values)[2:-2]


def _texts(column: pa.Array) -> pa.BinaryArray:
    """The values as they stand between quotes in JSON."""
    if column.type == DIGEST:
        return _hex(column)
    if pc.any(pc.match_substring_regex(column, _NOT_PLAIN)).as_py():
        escaped = [None if v is None else orjson.dumps(v)[1:-1] for v in column.to_pylist()]
        return pa.array(escaped, pa.binary())
    return column.cast(pa.binary())


def _hex(digests: pa.FixedSizeBinaryArray) -> pa.BinaryArray:
    width, count = DIGEST.byte_width, len(digests)
    first = digests.offset * width
    raw = memoryview(digests.buffers()[1])[first : first + count * width]
    text = pa.Array.from_buffers(
        pa.binary(2 * width), count, [None, pa.py_buffer(binascii.hexlify(raw))]
    ).cast(pa.binary())
    if digests.null_count == 0:
        return text
    return pc.if_else(digests.is_valid(), text, pa.scalar(None, pa.binary()))
