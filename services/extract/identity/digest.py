"""SHA-256 of a column, and of hashes that came as text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

DIGEST: Final = pa.binary(32)
HEX: Final = "^[0-9a-fA-F]{64}$"


def _quickest() -> Callable[[bytes], Any]:
    # The interpreter's own SHA-256 (its name changed in 3.12) has less to set up per call than
    # OpenSSL's through hashlib: much less or a little, by the OpenSSL that Python was built with.
    for name in ("_sha2", "_sha256"):
        try:
            built_in: Callable[[bytes], Any] = import_module(name).sha256
        except ImportError:
            continue
        return built_in
    return hashlib.sha256


_sha256: Final = _quickest()


def sha256(values: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """The digest of each value's UTF-8 bytes, NULL for NULL."""
    hashed = values.drop_null().cast(pa.binary()).to_pylist()
    digests = _column(b"".join([_sha256(value).digest() for value in hashed]))
    return _spread(digests, values.is_valid())


def from_hex(values: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """Digests that came as hex, NULL for NULL. Every other value must match `HEX`."""
    digests = _column(bytes.fromhex("".join(values.drop_null().to_pylist())))
    return _spread(digests, values.is_valid())


def _column(digests: bytes) -> pa.FixedSizeBinaryArray:
    count = len(digests) // DIGEST.byte_width
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, count, [None, pa.py_buffer(digests)])


def _spread(dense: pa.FixedSizeBinaryArray, there: pa.BooleanArray) -> pa.FixedSizeBinaryArray:
    if len(dense) == len(there):
        return dense
    return pc.replace_with_mask(pa.nulls(len(there), DIGEST), there, dense)
