"""Verbs of the export workers: pieces of a file are made in any order and cut into parts in order.

A batch's piece is too small for S3's smallest part as often as not. So a piece waits in Redis
(`ready`) until those before it are there too; a run of them that is long enough becomes the next
part, in one transaction, and all its batches settle when the part is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import GONE, Batch, Tally
from penstock.ledger.base import Connection, Ledger, Next, after_settling, lock_job
from penstock.ledger.deliveries import Claim
from penstock.ledger.restarts import reread
from penstock.ledger.settling import count_rows

#: S3's smallest part is 5 MiB; a piece that is made again may come out a little smaller.
PART_BYTES = 6 * 1024 * 1024
#: S3 takes 10,000 parts: later parts grow, so that a file may have 330 GB.
_GROW_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    #: (epoch, seq) of the batches whose pieces it is made of, in order.
    pieces: tuple[tuple[int, int], ...]
    holder: str
    #: Workers that died while they had it.
    crashes: int
    #: Times the store did not take it.
    tries: int


class Parts:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def ready(self, claim: Claim, size: int, gone: int) -> Next | None:
        """The batch's piece lies in Redis; `gone` of its rows were not in the source any more when
        it was read again. None where the piece was there already, or is void.
        """
        batch = claim.batch
        with self._ledger.transaction() as db:
            job = lock_job(db, batch.job_id)
            if job is None or job["state"] != "running" or job["generation"] != batch.generation:
                return None
            last = job["stream"] == "ended" and batch.seq == job["next_seq"] - 1
            done = db.execute(
                "update penstock.delivery set state = 'ready', size = %s, holder = null, "
                "lease_until = null, crashes = 0, progress = %s, "
                # The last of all stays due: where its worker dies now, nothing else calls for it.
                "due_at = case when part is not null then clock_timestamp() when %s "
                "then clock_timestamp() + %s * interval '1 second' end "
                "where job_id = %s and lane = %s and seq = %s and state = 'pending'",
                (
                    size,
                    Jsonb({"gone": gone}),
                    last,
                    self._ledger.policy.grace_seconds,
                    batch.job_id,
                    batch.lane,
                    batch.seq,
                ),
            )
            if not done.rowcount:
                return None
            _open_window(db, batch)
            todo = after_settling(db, job)
            if not db.execute(
                "select 1 from penstock.delivery as d join penstock.lane as l using (job_id, lane) "
                "where d.job_id = %s and d.seq = %s and l.view = %s and d.state = 'pending' "
                "limit 1",
                (batch.job_id, batch.seq, claim.view),
            ).fetchone():
                todo.drop.append((claim.epoch, batch.seq, claim.view))
            return todo

    def cut(self, claim: Claim) -> Part | None:
        """Take the next part, where enough pieces lie ready (or the stream has ended)."""
        batch, lease = claim.batch, self._ledger.policy.lease_seconds
        with self._ledger.transaction() as db:
            job = lock_job(db, batch.job_id)
            if (
                job is None
                or job["state"] != "running"
                or job["cancelling"]
                or job["generation"] != batch.generation
            ):
                return None
            lane = db.execute(
                "select * from penstock.lane where job_id = %s and lane = %s "
                "and state = 'open' and error is null",
                (batch.job_id, batch.lane),
            ).fetchone()
            if lane is None:
                return None
            # What was cut before and lost its worker goes first.
            number = self._orphan(db, claim)
            if number is None:
                target = PART_BYTES * (1 + lane["parts"] // _GROW_EVERY)
                end = self._end(db, claim, lane, target, ended=job["stream"] == "ended")
                if end is None:
                    return None
                number = lane["parts"] + 1
                db.execute(
                    "update penstock.lane set parts = %s, cut = %s where job_id = %s and lane = %s",
                    (number, end, batch.job_id, batch.lane),
                )
                db.execute(
                    "update penstock.delivery set part = %s where job_id = %s and lane = %s "
                    "and seq >= %s and seq < %s",
                    (number, batch.job_id, batch.lane, lane["cut"], end),
                )
            pieces = db.execute(
                """
                update penstock.delivery as d set
                    crashes = crashes + (holder is not null)::int, holder = %s,
                    lease_until = clock_timestamp() + %s * interval '1 second',
                    due_at = clock_timestamp() + %s * interval '1 second'
                from penstock.batch as b
                where b.job_id = d.job_id and b.seq = d.seq
                  and d.job_id = %s and d.lane = %s and d.part = %s and d.state = 'ready'
                returning b.epoch, d.seq, d.crashes, d.tries
                """,
                (claim.holder, lease, lease, batch.job_id, batch.lane, number),
            ).fetchall()
            ordered = sorted((r["seq"], r["epoch"]) for r in pieces)
            crashes = max((r["crashes"] for r in pieces), default=0)
            tries = max((r["tries"] for r in pieces), default=0)
            return Part(
                number, tuple((epoch, seq) for seq, epoch in ordered), claim.holder, crashes, tries
            )

    @staticmethod
    def _end(
        db: Connection, claim: Claim, lane: dict[str, Any], target: int, *, ended: bool
    ) -> int | None:
        """Behind which piece the next part ends, if there are enough of them in a row."""
        row = db.execute(
            """
            with hole as (
                select coalesce(min(seq), %(recorded)s) as seq from penstock.delivery
                where job_id = %(job)s and lane = %(lane)s and seq >= %(cut)s and state <> 'ready'),
            run as (
                select d.seq, sum(size) over (order by d.seq) as total
                from penstock.delivery as d, hole
                where job_id = %(job)s and lane = %(lane)s
                  and d.seq >= %(cut)s and d.seq < hole.seq)
            select (select seq from hole) as hole,
                   (select min(seq) + 1 from run where total >= %(target)s) as full_at
            """,
            {
                "job": claim.batch.job_id,
                "lane": claim.batch.lane,
                "cut": lane["cut"],
                "recorded": lane["recorded"],
                "target": target,
            },
        ).fetchone()
        if row is None or row["hole"] == lane["cut"]:
            return None
        tail = row["hole"] if ended and row["hole"] == lane["recorded"] else None
        found = row["full_at"] or tail
        return None if found is None else int(found)

    @staticmethod
    def _orphan(db: Connection, claim: Claim) -> int | None:
        row = db.execute(
            """
            select part from penstock.delivery where job_id = %s and lane = %s and part is not null
            and state <> 'settled' group by part
            having bool_and(state = 'ready'
                            and (lease_until is null or lease_until < clock_timestamp())
                            and (published > 0 or due_at < clock_timestamp()))
            order by part limit 1
            """,
            (claim.batch.job_id, claim.batch.lane),
        ).fetchone()
        return None if row is None else int(row["part"])

    def renew(self, claim: Claim, part: Part) -> bool:
        lease = self._ledger.policy.lease_seconds
        with self._ledger.transaction() as db:
            # Many rows at once: without the job's lock another verb could lock them the other way.
            lock_job(db, claim.batch.job_id)
            done = db.execute(
                "update penstock.delivery set "
                "lease_until = clock_timestamp() + %s * interval '1 second', "
                "due_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and part = %s and holder = %s and state = 'ready'",
                (lease, lease, claim.batch.job_id, claim.batch.lane, part.number, part.holder),
            )
            return done.rowcount > 0

    def release(self, claim: Claim, part: Part, seconds: float, *, attempt: bool) -> None:
        """The part could not be stored now: give it back until later."""
        with self._ledger.transaction() as db:
            lock_job(db, claim.batch.job_id)
            db.execute(
                # `published = 0` keeps it from being taken as an orphan before its time.
                "update penstock.delivery set holder = null, tries = tries + %s, published = 0, "
                "put_off = true, lease_until = null, "
                "due_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and part = %s and holder = %s and state = 'ready'",
                (int(attempt), seconds, claim.batch.job_id, claim.batch.lane, part.number,
                 part.holder),
            )  # fmt: skip

    def lost(self, claim: Claim, part: Part, seqs: list[int]) -> Next:
        """Redis lost pieces: their batches are to be made again, the rest of the part waits."""
        batch = claim.batch
        with self._ledger.transaction() as db:
            job = lock_job(db, batch.job_id)
            if job is None or job["state"] != "running" or job["generation"] != batch.generation:
                return Next(batch.job_id)
            db.execute(
                "update penstock.delivery set holder = null, lease_until = null, "
                # What was put off before is not any more: a refill is taken up at once.
                "published = greatest(published, 1), "
                "state = case when seq = any(%s) then 'pending' else state end, "
                "due_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and part = %s and holder = %s and state = 'ready'",
                (seqs, self._ledger.policy.grace_seconds, batch.job_id, batch.lane, part.number,
                 part.holder),
            )  # fmt: skip
            return reread(self._ledger, db, job, seqs)

    def settle(self, claim: Claim, part: Part) -> Next | None:
        """The part is stored: its batches count, once. None where they were counted before."""
        batch = claim.batch
        with self._ledger.transaction() as db:
            job = lock_job(db, batch.job_id)
            if job is None or job["state"] != "running" or job["generation"] != batch.generation:
                return None
            rows = db.execute(
                "update penstock.delivery as d set state = 'settled', lease_until = null "
                "from penstock.batch as b, penstock.lane as l "
                "where b.job_id = d.job_id and b.seq = d.seq "
                "and l.job_id = d.job_id and l.lane = d.lane and l.state = 'open' "
                "and d.job_id = %s and d.lane = %s and d.part = %s and d.state <> 'settled' "
                "returning b.epoch, b.seq, b.rows, (d.progress->>'gone')::int as gone",
                (batch.job_id, batch.lane, part.number),
            ).fetchall()
            if not rows:
                return None
            _open_window(db, batch)
            gone = sum(r["gone"] or 0 for r in rows)
            total = sum(r["rows"] for r in rows)
            tally = Tally(accepted=total - gone)
            tally.count("skipped", gone, GONE)
            count_rows(db, batch, total, tally)
            db.execute(
                "update penstock.lane set settled = settled + %s where job_id = %s and lane = %s",
                (len(rows), batch.job_id, batch.lane),
            )
            todo = after_settling(db, job)
            todo.drop = [(r["epoch"], r["seq"], piece_view(batch.lane)) for r in rows]
            return todo


def _open_window(db: Connection, batch: Batch) -> None:
    """The window counts what comes after the first piece that is not there: what lies before it
    waits for no more than one part's bytes. Unless a part could not be stored: then the window
    stays as it is, or a store that refuses would let all the file's pieces gather in Redis.
    """
    db.execute(
        """
        update penstock.lane as l set released = coalesce(
            (select min(seq) from penstock.delivery as d where d.job_id = l.job_id
               and d.lane = l.lane and d.seq >= l.released and d.state = 'pending'),
            l.recorded)
        where job_id = %s and lane = %s and error is null and not exists (
            select 1 from penstock.delivery as w where w.job_id = l.job_id and w.lane = l.lane
               and w.put_off and w.state <> 'settled')
        """,
        (batch.job_id, batch.lane),
    )


def piece_view(lane: str) -> str:
    """The payload field in which a lane's finished piece lies."""
    return f"piece:{lane}"
