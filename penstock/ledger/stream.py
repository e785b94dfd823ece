"""Verbs of extract: lease the stream, record batches in order, park, end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import JobSpec
from penstock.ledger.base import Connection, Ledger, Next, closable, in_flight, lock_job, spec_of
from penstock.ledger.restarts import GAVE_UP, start_over
from penstock.ledger.unsent import fail_stream

_MOST_REFILLS = 20


@dataclass(frozen=True, slots=True)
class StreamLease:
    """The right to read a job's source, until a newer epoch takes it."""

    job_id: str
    spec: JobSpec
    epoch: int
    generation: int
    position: str | None
    next_seq: int
    #: Views that lanes still read.
    views: tuple[str, ...]
    has_total: bool
    #: Times the source did not answer since the last recorded batch.
    tries: int


class Fenced(Exception):  # noqa: N818 - not an error: somebody else has the stream now
    """The stream was taken over, cancelled or ended: stop reading."""


class Stream:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def lease(self, job_id: str) -> StreamLease | Next | None:
        """Take the stream. None where there is nothing to do (or somebody does it); a Next where
        taking it ended it.
        """
        policy = self._ledger.policy
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if (
                job is None
                or job["state"] != "running"
                or job["stream"] in ("ended", "parked")
                or job["leased"]
                or (job["stream"] == "waiting" and job["tries"] > 0 and job["early"])
            ):
                return None  # a message that came late, or twice
            died = job["stream"] == "reading"
            crashes = job["crashes"] + died
            if crashes > policy.max_crashes:
                return fail_stream(
                    db, job, f"The extract worker died {crashes} times at the same place in the "
                    "source; look at the workers' log and memory, then retry the job.",
                )  # fmt: skip
            spec = spec_of(job)
            if spec.source.key is None and (died or job["next_seq"] > 0):
                if job["generation"] > policy.max_restarts:
                    return fail_stream(db, job, GAVE_UP.format(job["generation"]))
                start_over(db, job_id)
                job["position"], job["next_seq"] = None, 0
                job["generation"] += 1
            epoch = job["epoch"] + 1
            db.execute(
                "update penstock.job set stream = 'reading', epoch = %s, crashes = %s, "
                "lease_until = clock_timestamp() + %s * interval '1 second' where job_id = %s",
                (epoch, crashes, policy.lease_seconds, job_id),
            )
            views = db.execute(
                "select distinct view from penstock.lane where job_id = %s and state = 'open' "
                "and error is null",
                (job_id,),
            ).fetchall()
            return StreamLease(
                job_id, spec, epoch, job["generation"], job["position"], job["next_seq"],
                tuple(sorted(r["view"] for r in views)), job["total"] is not None,
                job["tries"],
            )  # fmt: skip

    def renew(self, lease: StreamLease) -> bool:
        with self._ledger.transaction() as db:
            done = db.execute(
                "update penstock.job set "
                "lease_until = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and epoch = %s and stream = 'reading'",
                (self._ledger.policy.lease_seconds, lease.job_id, lease.epoch),
            )
            return done.rowcount == 1

    def describe(
        self, lease: StreamLease, columns: list[str], total: int | None, exact: bool
    ) -> None:
        with self._ledger.transaction() as db:
            db.execute(
                "update penstock.job set columns = %s, total = coalesce(%s, total), "
                "total_exact = case when %s::bigint is null then total_exact else %s end "
                "where job_id = %s and epoch = %s",
                (Jsonb(columns), total, total, exact, lease.job_id, lease.epoch),
            )

    def record(
        self, lease: StreamLease, seq: int, rows: int, upto: str | None, size: int
    ) -> tuple[Next, int]:
        """Count a batch in, for every lane at once, with the position it reaches. Returns the
        messages to send and how many batches the window now counts. Raises Fenced.
        """
        with self._ledger.transaction() as db:
            job = _mine(db, lease)
            if seq != job["next_seq"]:
                raise Fenced
            db.execute(
                "insert into penstock.batch (job_id, seq, generation, epoch, rows, after_key, "
                "upto_key, bytes) values (%s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    lease.job_id,
                    seq,
                    lease.generation,
                    lease.epoch,
                    rows,
                    job["position"],
                    upto,
                    size,
                ),
            )
            lanes = db.execute(
                """
                update penstock.lane set
                    rows = rows + %(rows)s,
                    recorded = recorded + (runs)::int,
                    failed = failed + case when runs then 0 else %(rows)s end,
                    reasons = case when runs then reasons else penstock.add_counts(
                        reasons,
                        jsonb_build_object(coalesce(error, 'the lane had ended'), %(rows)s)) end
                from (select lane as name, state = 'open' and error is null as runs
                      from penstock.lane where job_id = %(job)s
                      -- one that had it all before a stream without a key started over is done
                      and state in ('open', 'failed')) as s
                where job_id = %(job)s and lane = s.name
                returning kind, lane, runs
                """,
                {"rows": rows, "job": lease.job_id},
            ).fetchall()
            todo = Next(lease.job_id)
            for row in lanes:
                if row["runs"]:
                    db.execute(
                        "insert into penstock.delivery (job_id, lane, seq, due_at) values "
                        "(%s, %s, %s, clock_timestamp() + %s * interval '1 second')",
                        (lease.job_id, row["lane"], seq, self._ledger.policy.grace_seconds),
                    )
                    todo.deliver.append((row["kind"], row["lane"], seq, lease.generation))
            db.execute(
                "update penstock.job set position = %s, next_seq = next_seq + 1, "
                "extracted = extracted + %s, crashes = 0, tries = 0, "
                "lease_until = clock_timestamp() + %s * interval '1 second' where job_id = %s",
                (upto, rows, self._ledger.policy.lease_seconds, lease.job_id),
            )
            return todo, in_flight(db, lease.job_id)

    def in_flight(self, lease: StreamLease) -> int:
        with self._ledger.transaction() as db:
            job = _mine(db, lease)
            return in_flight(db, job["job_id"])

    def park(self, lease: StreamLease) -> bool:
        """Give the slot back until the window opens; False where it has opened meanwhile. Settles
        look at the same locked row, so none can pass by unseen.
        """
        with self._ledger.transaction() as db:
            _mine(db, lease)
            if in_flight(db, lease.job_id) <= lease.spec.window // 2:
                return False
            db.execute(
                "update penstock.job set stream = 'parked', lease_until = null where job_id = %s",
                (lease.job_id,),
            )
            return True

    def pause(self, lease: StreamLease, seconds: float = 0, *, attempt: bool = False) -> Next:
        """Give the slot back and come again: after a set time in it, or after `seconds` where the
        source did not answer (an attempt).
        """
        with self._ledger.transaction() as db:
            _mine(db, lease)
            db.execute(
                "update penstock.job set stream = 'waiting', lease_until = null, "
                "wake_at = clock_timestamp() + %s * interval '1 second', tries = tries + %s "
                "where job_id = %s",
                (seconds, int(attempt), lease.job_id),
            )
            return Next(lease.job_id, extract=seconds == 0)

    def end(self, lease: StreamLease) -> Next:
        """The source is read to its end."""
        with self._ledger.transaction() as db:
            job = _mine(db, lease)
            db.execute(
                "update penstock.job set stream = 'ended', lease_until = null where job_id = %s",
                (lease.job_id,),
            )
            todo = Next(lease.job_id, close=closable(db, lease.job_id))
            # A file's last batches wait for bytes enough to make a part; now they are the last.
            # The very last stays due until it is stored: nothing comes after it to call for it.
            for row in db.execute(
                "update penstock.delivery as d "
                "set due_at = clock_timestamp() + %s * interval '1 second' "
                "from penstock.lane as l where l.job_id = d.job_id and l.lane = d.lane "
                "and d.job_id = %s and d.seq = %s and l.state = 'open' "
                "and d.state = 'ready' and d.part is null returning l.kind, l.lane, d.seq",
                (self._ledger.policy.grace_seconds, lease.job_id, job["next_seq"] - 1),
            ):
                todo.deliver.append((row["kind"], row["lane"], row["seq"], lease.generation))
            return todo

    def fail(self, lease: StreamLease, error: str) -> Next:
        """The source cannot be read: the job ends with this reason."""
        with self._ledger.transaction() as db:
            return fail_stream(db, _mine(db, lease), error)

    def range(
        self, job_id: str, seq: int, generation: int
    ) -> tuple[JobSpec, dict[str, Any]] | Next | None:
        """For a refill: the spec and what the ledger knows of the batch. One refill at a time; a
        Next where it was tried too often and the job was failed.
        """
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if job is None or job["state"] != "running" or job["generation"] != generation:
                return None
            row = db.execute(
                "update penstock.batch set refills = refills + 1, "
                "refill_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and seq = %s "
                "and (refill_at is null or refill_at < clock_timestamp()) returning *",
                (self._ledger.policy.lease_seconds, job_id, seq),
            ).fetchone()
            if row is None:
                return None
            if row["refills"] > _MOST_REFILLS:
                return fail_stream(
                    db, job, "A lost payload could not be read again from the source in "
                    f"{_MOST_REFILLS} attempts; see the workers' log, then retry the job.",
                )  # fmt: skip
            views = db.execute(
                "select distinct l.view from penstock.lane as l join penstock.delivery as d "
                "using (job_id, lane) where l.job_id = %s and d.seq = %s and d.state = 'pending'",
                (job_id, seq),
            ).fetchall()
            row["views"] = tuple(sorted(r["view"] for r in views))
            return spec_of(job), row

    def refilled(self, job_id: str, seq: int, generation: int) -> Next:
        with self._ledger.transaction() as db:
            db.execute(
                "update penstock.batch set refill_at = null, refills = 0 "
                "where job_id = %s and seq = %s",
                (job_id, seq),
            )
            rows = db.execute(
                "select l.kind, d.lane from penstock.delivery as d join penstock.lane as l "
                "using (job_id, lane) where d.job_id = %s and d.seq = %s and d.state = 'pending'",
                (job_id, seq),
            ).fetchall()
            todo = Next(job_id)
            todo.deliver = [(r["kind"], r["lane"], seq, generation) for r in rows]
            return todo

    def fail_range(self, job_id: str, generation: int, error: str) -> Next:
        """A refill found that the source cannot be read any more."""
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if job is None or job["state"] != "running" or job["generation"] != generation:
                return Next(job_id)
            return fail_stream(db, job, error)


def _mine(db: Connection, lease: StreamLease) -> dict[str, Any]:
    job = lock_job(db, lease.job_id)
    if job is None or job["epoch"] != lease.epoch or job["stream"] != "reading":
        raise Fenced
    return job
