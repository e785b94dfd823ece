"""Verbs of lanes in the mode `mirror`: what their audience holds, and what a run saw of it.

An entry of the state is one identifier, known by a 16-byte digest and numbered by an ordinal that
is never used again. Of a run the ledger keeps the entries that it added, tentative until the lane
ends well, and the ordinals that it found again. An entry that no batch of the run carried is to be
removed from the audience.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.contract import Batch
from penstock.ledger.base import Connection, Ledger, by_index, lock_job

KEY_BYTES = 16
_LITTLE_ENDIAN = sys.byteorder == "little"
#: So many entries of a batch lie together, so that no transaction of `promote` need be a long one.
_PIECE = 20_000
#: Rows of a run that are dropped at a time; each may be a megabyte.
_DROPPED = 200


@dataclass(frozen=True, slots=True)
class Mirror:
    """A state that a job holds."""

    mirror_id: int
    #: 0: a first run, which sends everyone.
    entries: int
    #: Entries of the last state have ordinals below this one.
    upto: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What one batch saw of the state, and adds to it."""

    #: (digest, ids) of entries that are not in the state yet.
    added: Sequence[tuple[bytes, bytes]] = ()
    #: Ordinals found again, packed, by block. How they are packed is the uploader's affair.
    blocks: Mapping[int, bytes] = field(default_factory=dict)
    #: Members with one identifier that is in the state and another that is new, packed likewise.
    changed: Sequence[bytes] = ()


class Entry(NamedTuple):
    ord: int
    digest: bytes
    ids: bytes


class Mirrors:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def take(self, job_id: str, lane: str, target: str) -> Mirror | None:
        """Hold the state for this job until `release`; None where another run holds it. Again for
        the same job it is the same. What a run left that ended without a release is cleared away.
        """
        while True:
            with self._ledger.transaction() as db:
                if lock_job(db, job_id) is None:
                    return None
                db.execute(
                    "insert into penstock.mirror (target) values (%s) on conflict do nothing",
                    (target,),
                )
                row = db.execute(
                    "select *, exists (select 1 from penstock.lane where job_id = holder_job "
                    "and lane = %s and state = 'open') as held "
                    "from penstock.mirror where target = %s for update",
                    (lane, target),
                ).fetchone()
                if row is None:
                    continue
                other = row["holder_job"]
                if other is None:
                    row = db.execute(
                        "update penstock.mirror set holder_job = %s, upto = next_ord "
                        "where mirror_id = %s returning *",
                        (job_id, row["mirror_id"]),
                    ).fetchone()
                if row is not None and other in (None, job_id):
                    return Mirror(row["mirror_id"], row["entries"], row["upto"])
                if row is None or row["held"]:
                    return None
            self.release(other, lane, row["mirror_id"])

    def find(self, target: str) -> Mirror:
        """The state to compare with where nothing is to be changed; without one, an empty one."""
        with self._ledger.transaction() as db:
            row = db.execute(
                "select mirror_id, entries, next_ord from penstock.mirror where target = %s",
                (target,),
            ).fetchone()
        return Mirror(row["mirror_id"], row["entries"], row["next_ord"]) if row else Mirror(0, 0, 0)

    def known(self, mirror_id: int, keys: bytes) -> array[int]:
        """For each of the 16-byte digests that stand one after another in `keys`, eight times the
        ordinal of the entry plus its flags (1: tied to the next ordinal, 2: to the one before,
        4: in doubt), or -1. The state stays as it is until the lane closes.
        """
        found = array("q")
        with self._ledger.transaction() as db:
            by_index(db)
            row = db.execute(
                """
                select string_agg(int8send(coalesce((
                    -- Not a join: that the planner would turn into a scan of the whole state.
                    select 8 * e.ord + e.flags from penstock.mirror_entry as e
                    where e.mirror_id = %(mirror)s
                      and e.digest = substring(%(keys)s::bytea from n * %(size)s::int + 1
                                               for %(size)s::int)
                ), -1)), '' order by n) as ords
                from generate_series(0, %(last)s::int) as n
                """,
                {"last": len(keys) // KEY_BYTES - 1, "mirror": mirror_id, "keys": keys,
                 "size": KEY_BYTES},
                binary=True,
                prepare=False,  # planned while the state was small, it would stay so
            ).fetchone()  # fmt: skip
        found.frombytes((row and row["ords"]) or b"")
        if _LITTLE_ENDIAN:
            found.byteswap()
        return found

    def whole(self, job_id: str, lane: str) -> bool:
        """Whether the run saw its source to the end: a batch that was given up, or a source without
        a row, says nothing of who has left it, and then nobody must be removed.
        """
        with self._ledger.transaction() as db:
            row = db.execute(
                "select count(*) as batches, count(*) filter (where not exists ("
                "select 1 from penstock.mirror_seen as s where s.job_id = d.job_id "
                "and s.lane = d.lane and s.seq = d.seq)) as missing "
                "from penstock.delivery as d where job_id = %s and lane = %s",
                (job_id, lane),
            ).fetchone()
            return row is not None and row["batches"] > 0 and row["missing"] == 0

    def seen(
        self, job_id: str, lane: str, block: int, after_seq: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """(seq, packed ordinals) of the batches that found entries of a block again."""
        with self._ledger.transaction() as db:
            rows = db.execute(
                "select seq, ords from penstock.mirror_seen where job_id = %s and lane = %s "
                "and block = %s and seq > %s order by seq limit %s",
                (job_id, lane, block, after_seq, limit),
                binary=True,
            )
            return [(row["seq"], row["ords"]) for row in rows]

    def unseen(
        self, job_id: str, mirror_id: int, first: int, bits: bytes, *, after: int, limit: int
    ) -> list[Entry]:
        """Entries of the last state beyond `after`, in order, whose bit is not set: bit n, of byte
        n / 8 and from the least significant, stands for the ordinal `first` + n.
        """
        with self._ledger.transaction() as db:
            by_index(db)
            rows = db.execute(
                """
                select e.ord, e.digest, e.ids
                from penstock.mirror as m join penstock.mirror_entry as e using (mirror_id)
                where m.mirror_id = %(mirror)s and m.holder_job = %(job)s and e.ord < m.upto
                  and e.ord > %(after)s and e.ord >= %(first)s::bigint and e.ord < %(end)s::bigint
                  -- not left to the planner: outside of its range get_bit is an error
                  and case when e.ord >= %(first)s::bigint and e.ord < %(end)s::bigint
                           then get_bit(%(bits)s::bytea, (e.ord - %(first)s::bigint)::int) = 0 end
                order by e.ord limit %(limit)s
                """,
                {"mirror": mirror_id, "job": job_id, "first": first, "end": first + 8 * len(bits),
                 "bits": bits, "after": after, "limit": limit},
                binary=True,
                prepare=False,
            )  # fmt: skip
            return [Entry(row["ord"], row["digest"], row["ids"]) for row in rows]

    def removed(self, job_id: str, mirror_id: int, ords: Sequence[int]) -> None:
        """The platform took their removal."""
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            by_index(db)
            gone = db.execute(
                "delete from penstock.mirror_entry "
                "where mirror_id = %s and ord = any(%s::bigint[])",
                (mirror_id, list(ords)),
            )
            db.execute(
                "update penstock.mirror set entries = entries - %s where mirror_id = %s",
                (gone.rowcount, mirror_id),
            )

    def doubt(self, job_id: str, mirror_id: int, ords: Sequence[int]) -> None:
        """Their removal is about to be sent: until the lane has ended well nobody knows whether
        the audience has them.
        """
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            by_index(db)
            db.execute(
                "update penstock.mirror_entry set flags = flags | 4 "
                "where mirror_id = %s and ord = any(%s::bigint[])",
                (mirror_id, list(ords)),
            )

    def doubt_batch(self, job_id: str, lane: str, seq: int) -> None:
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            doubt_batch(db, job_id, lane, seq)

    def changed(self, job_id: str, lane: str, after: int = -1) -> Iterator[tuple[int, list[bytes]]]:
        """Members who changed, by batch, of the batches behind one. To be sent once more after the
        removals: one may name what such a member no longer has, and so take the person out.
        """
        while True:
            with self._ledger.transaction() as db:
                row = db.execute(
                    "select seq, changed from penstock.mirror_seen where job_id = %s and lane = %s "
                    "and seq > %s and changed <> '{}' order by seq limit 1",
                    (job_id, lane, after),
                    binary=True,
                ).fetchone()
            if row is None:
                return
            after = row["seq"]
            yield after, row["changed"]

    def promote(
        self,
        job_id: str,
        lane: str,
        mirror_id: int,
        limit: int = 50_000,
        *,
        doubted: bool = False,
    ) -> int:
        """The lane ended well: move about `limit` of the entries that the run added into the
        state. Returns how many; 0 when all are there. From the first call on no entry counts as
        unseen. To be called again after a kill, and followed by `release`.
        """
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            row = db.execute(
                "update penstock.mirror set upto = 0 where mirror_id = %s and holder_job = %s "
                "returning next_ord",
                (mirror_id, job_id),
            ).fetchone()
            if row is None:
                return 0
            moved = db.execute(
                """
                with piece as (
                    select seq, piece, size, sum(size) over (order by seq, piece) as upto
                    from (select seq, piece, size from penstock.mirror_added
                          where job_id = %(job)s and lane = %(lane)s
                          order by seq, piece limit 1000) as next
                ), taken as (
                    delete from penstock.mirror_added as a using piece as p
                    where a.job_id = %(job)s and a.lane = %(lane)s and a.seq = p.seq
                      and a.piece = p.piece and (p.upto = p.size or p.upto <= %(limit)s)
                    returning a.seq, a.piece, a.digests, a.ids, a.doubted
                ), numbered as (
                    select e.digest, e.ids, t.doubted or %(doubted)s as doubted,
                           row_number() over (order by t.seq, t.piece, e.place) - 1 as n
                    from taken as t,
                         unnest(t.digests, t.ids) with ordinality as e (digest, ids, place)
                ), latest as (
                    select distinct on (digest) * from numbered order by digest, n desc
                ), put as (
                    insert into penstock.mirror_entry (mirror_id, digest, ord, flags, ids)
                    select %(mirror)s, digest, %(first)s::bigint + n,
                           (get_byte(ids, 1) >> 6) + case when doubted then 4 else 0 end, ids
                    from latest order by n
                    -- one that was there is numbered anew, beside the others of its row
                    on conflict (mirror_id, digest)
                        do update set ord = excluded.ord, flags = excluded.flags,
                                      ids = excluded.ids
                    returning xmax = 0 as fresh
                )
                select (select count(*) from numbered) as moved,
                       (select count(*) from put where fresh) as new
                """,
                {"job": job_id, "lane": lane, "mirror": mirror_id, "first": row["next_ord"],
                 "limit": limit, "doubted": doubted},
            ).fetchone()  # fmt: skip
            if moved is None:
                return 0
            db.execute(
                "update penstock.mirror set next_ord = next_ord + %s, entries = entries + %s, "
                "updated_at = clock_timestamp() where mirror_id = %s",
                (moved["moved"], moved["new"], mirror_id),
            )
            return int(moved["moved"])

    def release(self, job_id: str, lane: str, mirror_id: int) -> None:
        """The run is over: forget what it saw. What it added and was not promoted, for the lane
        failed or was cancelled, is kept in doubt: the platform may have it or not, so the next run
        sends it again, or takes it out.
        """
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            # First: a state of which the seen ordinals are half forgotten looks like one of which
            # half the members have left.
            db.execute(
                "update penstock.mirror set upto = 0 where mirror_id = %s and holder_job = %s",
                (mirror_id, job_id),
            )
        while self.promote(job_id, lane, mirror_id, doubted=True):
            pass
        while self._drop_seen(job_id, lane):
            pass
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            db.execute(
                "update penstock.mirror set holder_job = null "
                "where mirror_id = %s and holder_job = %s",
                (mirror_id, job_id),
            )

    def _drop_seen(self, job_id: str, lane: str) -> int:
        with self._ledger.transaction() as db:
            lock_job(db, job_id)
            return db.execute(
                "delete from penstock.mirror_seen where ctid = any(array("
                "select ctid from penstock.mirror_seen where job_id = %s and lane = %s limit %s))",
                (job_id, lane, _DROPPED),
            ).rowcount


def doubt_batch(db: Connection, job_id: str, lane: str, seq: int) -> None:
    """The platform took back some of what the batch added, and which of it nobody knows."""
    db.execute(
        "update penstock.mirror_added set doubted = true "
        "where job_id = %s and lane = %s and seq = %s",
        (job_id, lane, seq),
    )


def stage(db: Connection, mirror_id: int, batch: Batch, seen: Seen, *, whole: bool = True) -> None:
    """Keep what a batch saw and added, in the transaction that settles it. Every batch of the lane
    is staged, one that saw nothing as well: without it the run is not `whole`, and so it is where a
    batch may lack rows of the source.
    """
    held = db.execute(
        "select 1 from penstock.mirror where mirror_id = %s and holder_job = %s",
        (mirror_id, batch.job_id),
    ).fetchone()
    if held is None:
        raise ValueError(f"job {batch.job_id} does not hold the mirror that its batch is for")
    at = (batch.job_id, batch.lane, batch.seq)
    changed = list(seen.changed)
    for block, ords in (seen.blocks or {0: b""}).items() if whole else ():
        db.execute(
            "insert into penstock.mirror_seen (job_id, lane, seq, block, ords, changed) "
            "values (%s, %s, %s, %s, %s, %b::bytea[])",
            (*at, block, ords, changed),
        )
        changed = []
    for piece, first in enumerate(range(0, len(seen.added), _PIECE)):
        some = seen.added[first : first + _PIECE]
        db.execute(
            "insert into penstock.mirror_added (job_id, lane, seq, piece, size, digests, ids) "
            "values (%s, %s, %s, %s, %s, %b::bytea[], %b::bytea[])",
            (*at, piece, len(some), [digest for digest, _ in some], [ids for _, ids in some]),
        )
