"""What members are known by: the identifiers of each row, their keys, and how they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.ledger.mirrors import KEY_BYTES
from services.upload.chunk import CONSENT

_SIZE: Final = 32
_DIGEST: Final = pa.binary(_SIZE)
#: Each alone says who somebody is.
_ALONE: Final = ("email", "phone")
#: All of the first and one of the second do so together.
_NAME: Final = ("first_name", "last_name")
_PLACE: Final = ("city", "postal_code")
#: The order gives each column its bit in what is stored: names are only ever added at the end.
_COLUMNS: Final = (
    *_ALONE, *_NAME, *_PLACE, "state", "country", "gender",
    "birth_year", "birth_month", "birth_day",
)  # fmt: skip
#: The entry goes with the one numbered before it: identifiers of one row.
GOES_ON: Final = 1 << 15
#: The entry numbered after it goes with this one.
FOLLOWED: Final = 1 << 14
# The same as the ledger tells them with an ordinal.
TIED_TO_NEXT: Final = FOLLOWED >> 14
TIED_TO_LAST: Final = GOES_ON >> 14
IN_DOUBT: Final = 4
#: In the place of a consent's code.
_NO_CONSENT: Final = 255

Ints = npt.NDArray[np.int64]


def unpacked(ids: Sequence[bytes]) -> pa.RecordBatch:
    """Members out of the ledger: the columns of the payload that any of them has."""
    columns: dict[str, list[bytes | None]] = {}
    for place, packed in enumerate(ids):
        at, mask = 2, int.from_bytes(packed[:2], "little")
        for bit, name in enumerate(_COLUMNS):
            if mask >> bit & 1:
                if name not in columns:
                    columns[name] = [None] * len(ids)
                columns[name][place] = packed[at : at + _SIZE]
                at += _SIZE
    names = [name for name in _COLUMNS if name in columns]
    return pa.record_batch([pa.array(columns[n], _DIGEST) for n in names], names=names)


def changed_members(packed: Sequence[bytes]) -> pa.RecordBatch:
    """Members of one batch out of `Mirrors.changed`, with their consent where the batch had one."""
    members = unpacked([each[1:] for each in packed])
    codes = [each[0] for each in packed]
    if _NO_CONSENT in codes:
        return members
    return members.append_column(CONSENT, pa.array(codes, pa.uint8()))


@dataclass(frozen=True, slots=True)
class Handle:
    """One way to know a member, and the rows that can be known so."""

    columns: tuple[str, ...]
    rows: Ints
    keys: bytes


def handles(members: pa.RecordBatch) -> list[Handle]:
    columns = _kept(members)
    alone = np.zeros(members.num_rows, np.bool_)
    found = []
    for name in _ALONE:
        if name in columns:
            values, given = _digests(members, name)
            rows = np.flatnonzero(given)
            # The first half of a SHA-256 is as good a key as any.
            found.append(Handle((name,), rows, values[rows, :KEY_BYTES].tobytes()))
            alone |= given
    if set(_NAME) <= set(columns):
        names = tuple(name for name in (*_NAME, *_PLACE) if name in columns)
        given = np.array([_digests(members, name)[1] for name in names])
        usable = given[: len(_NAME)].all(axis=0) & given[len(_NAME) :].any(axis=0) & ~alone
        rows = np.flatnonzero(usable)
        keys = [_key(packed) for packed in packed_rows(members, names, rows.tolist())]
        found.append(Handle(columns, rows, b"".join(keys)))
    return found


def _key(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).digest()


def _kept(members: pa.RecordBatch) -> tuple[str, ...]:
    """Columns that are digests and can be used without one that is not: an address whose place is
    a text goes as a whole.
    """
    digests = {field.name for field in members.schema if field.type == _DIGEST}
    if not digests & set(_PLACE):
        digests &= set(_ALONE)
    return tuple(name for name in _COLUMNS if name in digests)


def _digests(
    members: pa.RecordBatch, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    column = members.column(name)
    values = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    first = column.offset * _SIZE
    given = column.is_valid().to_numpy(zero_copy_only=False)
    return values[first : first + len(column) * _SIZE].reshape(-1, _SIZE), given


def packed_rows(members: pa.RecordBatch, names: tuple[str, ...], places: list[int]) -> list[bytes]:
    """The digests of each of these rows, behind two bytes that say of which columns they are."""
    if not places:
        return []
    columns = []
    for name in names:
        values, given = _digests(members, name)
        columns.append(
            (1 << _COLUMNS.index(name), values[places].tobytes(), given[places].tolist())
        )
    packed = []
    for n, at in enumerate(range(0, len(places) * _SIZE, _SIZE)):
        there = [(bit, blob[at : at + _SIZE]) for bit, blob, given in columns if given[n]]
        mask = sum(bit for bit, _ in there)
        packed.append(mask.to_bytes(2, "little") + b"".join([digest for _, digest in there]))
    return packed


def packed_changed(members: pa.RecordBatch, places: list[int]) -> list[bytes]:
    codes = [_NO_CONSENT] * len(places)
    if CONSENT in members.schema.names:
        codes = members.column(CONSENT).take(pa.array(places, pa.int64())).to_pylist()
    packed = packed_rows(members, _kept(members), places)
    return [bytes([code]) + each for code, each in zip(codes, packed, strict=True)]


def with_bits(packed: bytes, bits: int) -> bytes:
    return (int.from_bytes(packed[:2], "little") | bits).to_bytes(2, "little") + packed[2:]
