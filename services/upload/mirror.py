"""The mode `mirror`: what of a batch is new to its audience, and who has left it.

The state knows an audience by single identifiers: each e-mail address and each phone, and a name
with its place for members who have neither. Not by whole members: a row that gains a phone would
be another member then, and the removal of the one it was would name the same e-mail address and
take out the person who was just added. So a removal names only identifiers that no row carries any
more, and a row is sent where one of its identifiers is new.

Kept are digests alone. A row whose identifiers are all texts cannot be mirrored.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.contract import JobSpec
from penstock.ledger.mirrors import KEY_BYTES, Entry, Mirror, Mirrors, Seen
from services.upload.chunk import ROW
from services.upload.handles import (
    FOLLOWED,
    GOES_ON,
    IN_DOUBT,
    TIED_TO_LAST,
    TIED_TO_NEXT,
    Ints,
    changed_members,
    handles,
    packed_changed,
    packed_rows,
    unpacked,
    with_bits,
)

__all__ = ["Difference", "Removal", "Unseen", "changed_members", "target_of"]

#: Ordinals that one bitmap covers: 8 MB of bits.
_BLOCK: Final = 1 << 26
#: Ordinals that the ledger is asked about at a time: 128 KB of bits.
_SPAN: Final = 1 << 20
_BLOBS: Final = 64
_LEAST_PAGE: Final = 1_000

_AUDIENCE: Final = (
    "kind", "connection", "customer_id", "linked_customer_id", "user_list_id", "account_id",
    "audience_id", "audience",
)  # fmt: skip


def target_of(spec: JobSpec, lane: str) -> str:
    """Names the state: the same for every run of a job whose lane has the same audience."""
    destination = spec.lanes()[lane].model_dump(mode="json", exclude_none=True)
    audience = {key: destination[key] for key in _AUDIENCE if key in destination}
    body = {"name": spec.name, "lane": lane, "audience": audience}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


Bits = npt.NDArray[np.uint8]


class Difference:
    """What of one batch is to be sent, and what the ledger is to keep of it. Made again for the
    same batch it is the same: the state changes only when the lane closes. Places are those of the
    column `row`. Members who must not be in the audience have no place in it, or nothing would
    take them out.
    """

    def __init__(
        self, mirrors: Mirrors, mirror: Mirror, members: pa.RecordBatch, *, full: bool
    ) -> None:
        """`full`: rows whose identifiers are all known are sent as well."""
        self._members = members
        self._handles = handles(members)
        new, old = np.zeros((2, members.num_rows), np.bool_)
        known = mirrors.known(mirror.mirror_id, b"".join(h.keys for h in self._handles))
        told = np.frombuffer(known, np.int64)
        self._found: Ints = told >> 3
        flags = np.split(told & 7, self._cuts())
        for handle, ords, marks in zip(self._handles, self._by_handle(), flags, strict=False):
            old[handle.rows[ords >= 0]] = True
            new[handle.rows[(ords < 0) | (marks & IN_DOUBT > 0)]] = True
        places = members.column(ROW)
        #: Places of the rows to send: of those with an identifier that is new or in doubt, or of
        #: all in a full run.
        self.wanted: pa.Array = places.filter(pa.array(new | old if full else new))
        #: Places of the rows that the audience has, and that are not sent.
        self.unchanged: pa.Array = places.filter(pa.array(old & ~new & (not full)))
        #: Places of the rows that cannot be mirrored.
        self.not_mirrored: pa.Array = places.filter(pa.array(~(new | old)))
        self._changed = old & (new | self._torn(flags))

    @property
    def found_again(self) -> int:
        """Entries of the state that the batch has."""
        return len(np.unique(self._found[self._found >= 0]))

    def seen(self, refused: Collection[int] = ()) -> Seen:
        """For `stage`. `refused`: places of rows that the platform did not take."""
        places = self._members.column(ROW).to_numpy()
        taken = np.isin(places, np.array(list(refused), places.dtype), invert=True)
        changed = np.flatnonzero(self._changed & taken).tolist()
        return Seen(
            self._added(taken),
            _by_block(np.unique(self._found[self._found >= 0])),
            packed_changed(self._members, changed),
        )

    def _by_handle(self) -> list[Ints]:
        return np.split(self._found, self._cuts()) if self._handles else []

    def _cuts(self) -> Ints:
        return np.cumsum([len(h.rows) for h in self._handles])[:-1].astype(np.int64)

    def _torn(self, tied: Sequence[Ints]) -> npt.NDArray[np.bool_]:
        """Rows that once had another identifier beside one that they still have: its removal may
        take out the person.
        """
        shape = (len(self._handles), self._members.num_rows)
        ords, ties = np.full(shape, -2, np.int64), np.zeros(shape, np.int64)
        for n, (handle, found) in enumerate(zip(self._handles, self._by_handle(), strict=True)):
            ords[n, handle.rows] = np.where(found >= 0, found, -2)
            ties[n, handle.rows] = tied[n]

        def alone(step: int, tie: int) -> npt.NDArray[np.bool_]:
            there = (ords[np.newaxis] == (ords + step)[:, np.newaxis]).any(axis=1)
            missing: npt.NDArray[np.bool_] = ((ords >= 0) & (ties & tie > 0) & ~there).any(axis=0)
            return missing

        return alone(1, TIED_TO_NEXT) | alone(-1, TIED_TO_LAST)

    def _added(self, taken: npt.NDArray[np.bool_]) -> list[tuple[bytes, bytes]]:
        rows, keys, ids = [np.empty(0, np.int64)], [], []
        for handle, ords in zip(self._handles, self._by_handle(), strict=True):
            # Of a row that has changed all of them, so that they are numbered together anew.
            fresh = np.flatnonzero(((ords < 0) | self._changed[handle.rows]) & taken[handle.rows])
            rows.append(handle.rows[fresh])
            keys += [handle.keys[at : at + KEY_BYTES] for at in (fresh * KEY_BYTES).tolist()]
            ids += packed_rows(self._members, handle.columns, handle.rows[fresh].tolist())
        of_row = np.concatenate(rows)
        added: list[tuple[bytes, bytes]] = []
        before = -1
        # Stable: the identifiers of one row come next to each other, in the order of their columns.
        order = np.argsort(of_row, kind="stable")
        for row, at in zip(of_row[order].tolist(), order.tolist(), strict=True):
            if row == before:
                key, first = added[-1]
                added[-1] = (key, with_bits(first, FOLLOWED))
            added.append((keys[at], with_bits(ids[at], GOES_ON) if row == before else ids[at]))
            before = row
        return added


@dataclass(frozen=True, slots=True)
class Removal:
    """Members to take out of the audience in one request."""

    members: pa.RecordBatch
    #: Their entries, for `Mirrors.removed` when the lane has ended well.
    ords: list[int]


class Unseen:
    """Who has left the source: entries of the last state that no batch of the run carried. There
    is none where the run did not see its source whole (`Mirrors.whole`).
    """

    def __init__(self, mirrors: Mirrors, mirror: Mirror, job_id: str, lane: str) -> None:
        self._mirrors = mirrors
        self._mirror = mirror
        self._job_id = job_id
        self._lane = lane
        self._is_whole = mirror.upto > 0 and mirrors.whole(job_id, lane)

    def count(self) -> int:
        """Of entries; `Mirror.entries` is what to measure it by."""
        if not self._is_whole:
            return 0
        found = sum(int(np.bitwise_count(bits).sum()) for _, bits in self._bitmaps(-1))
        return self._mirror.entries - found

    def removals(self, rows: int, after: int = -1) -> Iterator[Removal]:
        """Chunks of at most `rows` members. After a kill, those whose removal was not noted come
        again; `after`: the last ordinal that was, which saves looking at all before it.
        """
        if not self._is_whole:
            return
        waiting: list[_Leaver] = []
        for entries in self._pages(rows, after):
            waiting += _leavers(entries)
            while len(waiting) >= rows:
                yield _removal(waiting[:rows])
                del waiting[:rows]
        if waiting:
            yield _removal(waiting)

    def _pages(self, rows: int, after: int) -> Iterator[list[Entry]]:
        for start, bits in self._bitmaps(after):
            for first in range(0, 8 * len(bits), _SPAN):
                if after < start + first + _SPAN:
                    span = bits[first // 8 : (first + _SPAN) // 8].tobytes()
                    yield from self._page(start + first, span, rows, after)

    def _bitmaps(self, after: int) -> Iterator[tuple[int, Bits]]:
        """What was seen, a bit for each ordinal of a block, beginning with that of `after`."""
        for start in range(max(after, 0) // _BLOCK * _BLOCK, self._mirror.upto, _BLOCK):
            bits = np.zeros(-(-min(_BLOCK, self._mirror.upto - start) // 8), np.uint8)
            seq = -1
            while blobs := self._mirrors.seen(
                self._job_id, self._lane, start // _BLOCK, seq, _BLOBS
            ):
                seq = blobs[-1][0]
                for _, blob in blobs:
                    _set_bits(bits, blob)
            yield start, bits

    def _page(self, first: int, span: bytes, rows: int, after: int) -> Iterator[list[Entry]]:
        """A span may hold more than one page."""
        limit = max(rows, _LEAST_PAGE)
        while True:
            entries = self._mirrors.unseen(
                self._job_id, self._mirror.mirror_id, first, span, after=after, limit=limit
            )
            if entries:
                yield entries
            if len(entries) < limit:
                return
            after = entries[-1].ord


def _by_block(ords: Ints) -> dict[int, bytes]:
    """Sorted ordinals, each as the distance from the one before: a source that is read in the same
    order every time makes runs, and those take next to no room.
    """
    found: dict[int, bytes] = {}
    if len(ords) == 0:
        return found
    blocks, starts = np.unique(ords // _BLOCK, return_index=True)
    for block, some in zip(blocks.tolist(), np.split(ords, starts[1:]), strict=True):
        steps = np.diff(some - block * _BLOCK, prepend=0).astype("<u4")
        found[block] = zlib.compress(steps.tobytes(), 1)
    return found


def _set_bits(bits: Bits, blob: bytes) -> None:
    if not blob:
        return
    places = np.cumsum(np.frombuffer(zlib.decompress(blob), "<u4"), dtype=np.int64)
    of_byte = places >> 3
    firsts = np.flatnonzero(np.diff(of_byte, prepend=-1))
    masks = np.left_shift(1, places & 7).astype(np.uint8)
    bits[of_byte[firsts]] |= np.bitwise_or.reduceat(masks, firsts)


@dataclass(slots=True)
class _Leaver:
    """Entries of one row, all of them unseen."""

    ids: bytes
    ords: list[int]


def _leavers(entries: list[Entry]) -> list[_Leaver]:
    found: list[_Leaver] = []
    for entry in entries:
        mask = int.from_bytes(entry.ids[:2], "little")
        if mask & GOES_ON and found and found[-1].ords[-1] == entry.ord - 1:
            last = found[-1]
            last.ids = with_bits(last.ids, mask) + entry.ids[2:]
            last.ords.append(entry.ord)
        else:
            found.append(_Leaver(entry.ids, [entry.ord]))
    return found


def _removal(leavers: list[_Leaver]) -> Removal:
    members = unpacked([leaver.ids for leaver in leavers])
    return Removal(members, [ord_ for leaver in leavers for ord_ in leaver.ords])
