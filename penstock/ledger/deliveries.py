"""Verbs of the uploaders: take a batch for a lane, and settle it once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import Batch, JobSpec, Tally
from penstock.ledger.base import Connection, Ledger, Next, after_settling, lock_job, spec_of
from penstock.ledger.restarts import reread
from penstock.ledger.settling import (
    Beside,
    keep_memo,
    set_delivery,
    settle,
    unread,
    write_beside,
)
from penstock.ledger.unsent import fail_lane

#: How long a batch waits while another of its lane creates the audience.
_CREATING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send one batch for one lane, until the lease ends."""

    batch: Batch
    holder: str
    spec: JobSpec
    kind: str
    view: str
    rows: int
    epoch: int
    #: `pending`, or `ready` for a file lane's batch whose piece waits for its part.
    state: str
    tries: int
    #: What of the batch was sent before, as the platform's module left it.
    progress: dict[str, Any]
    #: Ids the platform gave for the lane.
    memo: dict[str, Any]
    columns: list[str]


class Deliveries:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def claim(self, batch: Batch, holder: str) -> Claim | Next | None:
        """None: settled, void, not yet due, or another sends it. A Next: it was given up."""
        policy = self._ledger.policy
        with self._ledger.transaction() as db:
            job = _open_job(db, batch)
            if job is None or job["cancelling"]:
                return None
            row = db.execute(_DELIVERY, (batch.job_id, batch.lane, batch.seq)).fetchone()
            if row is None or row["state"] == "settled" or row["lane_state"] != "open":
                return None
            if row["leased"]:
                return None
            if row["waits"] is not None:
                # The platform asked this lane to wait: the sweep publishes when that is over.
                set_delivery(db, batch, "due_at = %s, deferred = false", row["waits"])
                return None
            if row["busy"] and not row["memo"] and _creates(job, batch.lane):
                # Two that look for an audience that is not there yet would each create it.
                set_delivery(
                    db, batch, "published = 0, "
                    "due_at = clock_timestamp() + %s * interval '1 second'", _CREATING_SECONDS,
                )  # fmt: skip
                return None
            if row["serial"] and row["busy"]:
                # Whoever sends for this lane now takes this one up at its settle.
                set_delivery(db, batch, "deferred = true")
                return None
            crashes = row["crashes"] + (row["holder"] is not None)
            if row["state"] == "ready":
                return _claim(batch, holder, job, row)  # its part has a lease of its own
            if crashes > policy.max_crashes:
                if row["kind"] == "s3":
                    # A file with a hole is no file.
                    return _fail_lane(
                        db, job, batch, f"The worker died {crashes} times on one batch of the file."
                    )
                lost = _lost(row["rows"], f"the worker died {crashes} times on it")
                return settle(db, job, batch, row, lost)
            set_delivery(
                db, batch, "holder = %s, crashes = %s, deferred = false, "
                "lease_until = clock_timestamp() + %s * interval '1 second', "
                "due_at = clock_timestamp() + %s * interval '1 second'",
                holder, crashes, policy.lease_seconds, policy.lease_seconds,
            )  # fmt: skip
            return _claim(batch, holder, job, row)

    def renew(
        self,
        claim: Claim,
        progress: dict[str, Any] | None = None,
        keep: dict[str, Any] | None = None,
    ) -> bool:
        """False: the lease is another's now; stop before the next request. `keep` is written over
        the lane's memo.
        """
        batch, policy = claim.batch, self._ledger.policy
        with self._ledger.transaction() as db:
            done = db.execute(
                "update penstock.delivery set progress = coalesce(%s, progress), "
                "lease_until = clock_timestamp() + %s * interval '1 second', "
                "due_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and seq = %s and holder = %s "
                "and state <> 'settled'",
                (Jsonb(progress) if progress is not None else None, policy.lease_seconds,
                 policy.lease_seconds, batch.job_id, batch.lane, batch.seq, claim.holder),
            )  # fmt: skip
            if done.rowcount == 1 and keep:
                keep_memo(db, batch, keep)
            return done.rowcount == 1

    def snooze(
        self,
        claim: Claim,
        seconds: float,
        progress: dict[str, Any],
        *,
        tries: int,
        throttled: bool,
        why: str | None = None,
    ) -> None:
        """Give the batch back until later. A platform that asks to slow down means the lane. `why`
        is shown until a batch of the lane settles.
        """
        batch = claim.batch
        with self._ledger.transaction() as db:
            if _open_job(db, batch) is None:
                return
            db.execute(
                "update penstock.delivery set holder = null, lease_until = null, progress = %s, "
                "tries = %s, published = 0, due_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and seq = %s and holder = %s",
                (Jsonb(progress), tries, seconds, batch.job_id, batch.lane, batch.seq,
                 claim.holder),
            )  # fmt: skip
            if why is not None:
                db.execute(
                    "update penstock.lane set waiting = %s where job_id = %s and lane = %s",
                    (why, batch.job_id, batch.lane),
                )
            if throttled:
                db.execute(
                    "update penstock.lane set not_before = greatest(not_before, "
                    "clock_timestamp() + %s * interval '1 second') where job_id = %s and lane = %s",
                    (seconds, batch.job_id, batch.lane),
                )

    def remember(self, claim: Claim, memo: dict[str, Any]) -> dict[str, Any] | None:
        """Keep ids for the lane; the first of two wins, and both get the winner's. None where the
        lane wants none any more.
        """
        batch = claim.batch
        with self._ledger.transaction() as db:
            if _open_job(db, batch) is None:
                return None
            row = db.execute(
                "update penstock.lane as l set memo = %s || memo where job_id = %s and lane = %s "
                # Whose lease has ended was overtaken, and may know less than the lane.
                "and exists (select 1 from penstock.delivery as d where d.job_id = l.job_id "
                "and d.lane = l.lane and d.seq = %s and d.holder = %s "
                "and d.lease_until > clock_timestamp()) returning memo",
                (Jsonb(memo), batch.job_id, batch.lane, batch.seq, claim.holder),
            ).fetchone()
            return row["memo"] if row else None

    def settle(self, claim: Claim, tally: Tally, beside: Beside | None = None) -> Next | None:
        """Count the batch for the lane; None where it was counted before. However often the work
        was done, this happens once.
        """
        with self._ledger.transaction() as db:
            job = _open_job(db, claim.batch)
            if job is None:
                return None
            row = db.execute(
                _DELIVERY, (claim.batch.job_id, claim.batch.lane, claim.batch.seq)
            ).fetchone()
            if row is None or row["state"] == "settled" or row["lane_state"] != "open":
                return None
            if beside is not None:
                write_beside(db, self._ledger.policy.report_rows, claim.batch, beside)
            return settle(db, job, claim.batch, row, tally)

    def fail_lane(self, batch: Batch, error: str) -> Next:
        """The platform's final no: the lane ends with this reason, the others go on; when all have
        failed, the stream stops. Nothing happens where the batch has settled: then whoever says so
        was overtaken, and the platform's no is an echo of the other's success.
        """
        with self._ledger.transaction() as db:
            job = _open_job(db, batch)
            if job is None:
                return Next(batch.job_id)
            row = db.execute(_DELIVERY, (batch.job_id, batch.lane, batch.seq)).fetchone()
            if row is None or row["state"] == "settled":
                return Next(batch.job_id)
            return _fail_lane(db, job, batch, error)

    def missing(self, claim: Claim) -> Next:
        """Redis lost the payload: give the batch back until it has been read again."""
        batch = claim.batch
        with self._ledger.transaction() as db:
            job = _open_job(db, batch)
            if job is None:
                return Next(batch.job_id)
            db.execute(
                # What was put off before is not any more: a refill is taken up at once. And from
                # its first row on: read again, the batch may be cut elsewhere.
                "update penstock.delivery set holder = null, lease_until = null, progress = null, "
                "published = greatest(published, 1), "
                "due_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and seq = %s and holder = %s",
                (self._ledger.policy.grace_seconds, batch.job_id, batch.lane, batch.seq,
                 claim.holder),
            )  # fmt: skip
            return reread(self._ledger, db, job, [batch.seq])


_DELIVERY = """
    select d.*, l.kind, l.view, l.serial, l.memo, l.state as lane_state, b.rows, b.epoch,
           d.lease_until > clock_timestamp() as leased,
           greatest(case when d.published = 0 and d.due_at > clock_timestamp()
                         then d.due_at end,
                    case when l.not_before > clock_timestamp() then l.not_before end) as waits,
           exists (select 1 from penstock.delivery as o
                   where o.job_id = d.job_id and o.lane = d.lane and o.seq <> d.seq
                     and o.state <> 'settled' and o.lease_until > clock_timestamp()) as busy
    from penstock.delivery as d
    join penstock.lane as l using (job_id, lane)
    join penstock.batch as b using (job_id, seq)
    where d.job_id = %s and d.lane = %s and d.seq = %s
    for update of d
"""


def _claim(batch: Batch, holder: str, job: dict[str, Any], row: dict[str, Any]) -> Claim:
    return Claim(
        batch, holder, spec_of(job), row["kind"], row["view"], row["rows"],
        row["epoch"], row["state"], row["tries"], row["progress"] or {}, row["memo"],
        job["columns"] or [],
    )  # fmt: skip


def _creates(job: dict[str, Any], lane: str) -> bool:
    return bool(getattr(spec_of(job).lanes()[lane], "create", False))


def _open_job(db: Connection, batch: Batch) -> dict[str, Any] | None:
    """The locked job, where the message still speaks of what is going on."""
    job = lock_job(db, batch.job_id)
    if job is None or job["state"] != "running" or job["generation"] != batch.generation:
        return None
    return job


def _lost(rows: int, reason: str) -> Tally:
    tally = Tally()
    tally.count("failed", rows, reason)
    return tally


def _fail_lane(db: Connection, job: dict[str, Any], batch: Batch, error: str) -> Next:
    fail_lane(db, batch.job_id, batch.lane, error)
    left = db.execute(
        "select 1 from penstock.lane where job_id = %s and state = 'open' and error is null",
        (batch.job_id,),
    ).fetchone()
    if left is None and job["stream"] != "ended":
        db.execute(
            "update penstock.job set stream = 'ended', epoch = epoch + 1, "
            "lease_until = null where job_id = %s",
            (batch.job_id,),
        )
        job["stream"] = "ended"
    todo = after_settling(db, job)
    todo.drop = unread(db, batch.job_id)
    return todo
