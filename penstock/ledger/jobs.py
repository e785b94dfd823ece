"""Verbs of whoever submits, follows and ends a job."""

from __future__ import annotations

import hashlib
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import JOB_ENDS, JobSpec
from penstock.errors import JobExistsError, JobStateError, UnknownJobError
from penstock.ledger.base import Connection, Ledger, Next, closable, lock_job, spec_of


class Jobs:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def submit(self, job_id: str, spec: JobSpec, warnings: list[str] | None = None) -> bool:
        """Write the job down; False where it was there already. From here on it cannot be lost."""
        with self._ledger.transaction() as db:
            return insert_job(db, job_id, spec, warnings or [])

    def open(self, job_id: str) -> Next | None:
        """Make the lanes and let the stream run. None where the job is open or ended already."""
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if job is None:
                raise UnknownJobError(f"There is no job {job_id!r}.")
            if job["state"] == "submitted":
                spec = spec_of(job)
                for idx, (lane, destination) in enumerate(spec.lanes().items()):
                    db.execute(
                        "insert into penstock.lane "
                        "(job_id, lane, idx, kind, connection, view, serial) "
                        "values (%s, %s, %s, %s, %s, %s, %s)",
                        (job_id, lane, idx, destination.kind, destination.connection,
                         destination.view, destination.serial),
                    )  # fmt: skip
                db.execute(
                    "update penstock.job set state = 'running', opened_at = clock_timestamp(), "
                    "look_at = clock_timestamp(), "
                    "wake_at = clock_timestamp() + %s * interval '1 second' where job_id = %s",
                    (self._ledger.policy.grace_seconds, job_id),
                )
            elif job["state"] != "running" or job["stream"] != "waiting":
                return None
            lanes = db.execute(
                "select kind, lane, idx from penstock.lane where job_id = %s order by idx",
                (job_id,),
            ).fetchall()
            todo = Next(job_id, extract=True)
            todo.close = [(r["kind"], r["lane"], r["idx"], len(lanes)) for r in lanes]
            return todo

    def refuse(self, job_id: str, name: str, document: Any, error: str) -> None:
        """Record that a spec sent by name was not valid: whoever sent it finds the reason here."""
        with self._ledger.transaction() as db:
            db.execute(
                """
                insert into penstock.job
                    (job_id, name, spec, digest, state, error, stream, ended_at)
                values (%s, %s, %s, 'refused', 'failed', %s, 'ended', clock_timestamp())
                on conflict (job_id) do update
                set state = 'failed', error = excluded.error, stream = 'ended',
                    ended_at = clock_timestamp()
                where penstock.job.state = 'submitted'
                """,
                (job_id, name[:200], Jsonb(document), error),
            )

    def finish(self, job_id: str) -> str | None:
        """End the job where all its lanes have ended; the end state, or None where there was
        nothing to end (called twice it does nothing the second time).
        """
        with self._ledger.transaction() as db:
            row = db.execute(
                """
                update penstock.job as j set ended_at = clock_timestamp(), state = case
                    when j.cancelling then 'cancelled'
                    when s.good = s.lanes then 'succeeded'
                    when s.good > 0 then 'partial'
                    else 'failed' end
                from (select count(*) as lanes,
                             count(*) filter (where state = 'open') as open,
                             count(*) filter (
                                 where state in ('succeeded', 'rejected_some', 'skipped')) as good
                      from penstock.lane where job_id = %(job)s) as s
                where j.job_id = %(job)s and j.state = 'running' and j.stream = 'ended'
                  and s.open = 0
                returning j.state
                """,
                {"job": job_id},
            ).fetchone()
            return None if row is None else str(row["state"])

    def cancel(self, job_id: str) -> Next:
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if job is None:
                raise UnknownJobError(f"There is no job {job_id!r}.")
            if job["state"] in JOB_ENDS:
                raise JobStateError(f"Job {job_id!r} has ended already ({job['state']}).")
            if job["state"] == "submitted":
                db.execute(
                    "update penstock.job set state = 'cancelled', stream = 'ended', "
                    "ended_at = clock_timestamp() where job_id = %s",
                    (job_id,),
                )
                return Next(job_id)
            db.execute(
                "update penstock.job set cancelling = true, stream = 'ended', epoch = epoch + 1, "
                "lease_until = null where job_id = %s",
                (job_id,),
            )
            # Parked closings are called at once, not at their next poll.
            db.execute("update penstock.lane set close_at = null where job_id = %s", (job_id,))
            todo = Next(job_id)
            todo.close = closable(db, job_id)
            return todo

    def retry(self, job_id: str) -> tuple[str, JobSpec]:
        """A new job for the lanes that failed; called twice it is the same one until that ends."""
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if job is None:
                raise UnknownJobError(f"There is no job {job_id!r}.")
            if job["state"] not in JOB_ENDS:
                raise JobStateError(f"Job {job_id!r} has not ended yet ({job['state']}).")
            if job["digest"] == "refused":
                raise JobStateError(
                    f"Job {job_id!r} was refused: mend its spec and submit it anew."
                )
            spec = spec_of(job)
            failed = {
                r["lane"]
                for r in db.execute(
                    "select lane from penstock.lane where job_id = %s "
                    "and state in ('failed', 'cancelled')",
                    (job_id,),
                )
            }
            if job["opened_at"] is None:
                failed = set(spec.lanes())
            if not failed:
                raise JobStateError(f"No lane of job {job_id!r} failed: there is nothing to retry.")
            kept = tuple(
                d.model_copy(update={"lane": lane})
                for lane, d in spec.lanes().items()
                if lane in failed
            )
            earlier = db.execute(
                "select job_id, state, spec from penstock.job where retry_of = %s "
                "order by created_at",
                (job_id,),
            ).fetchall()
            if earlier and earlier[-1]["state"] not in JOB_ENDS:
                return earlier[-1]["job_id"], spec_of(earlier[-1])
            new_id = f"{_stem(job_id)}.retry{len(earlier) + 1}"
            spec = spec.model_copy(update={"job_id": new_id, "destinations": kept})
            insert_job(db, new_id, spec, [])
            db.execute("update penstock.job set retry_of = %s where job_id = %s", (job_id, new_id))
            return new_id, spec

    def status(self, job_id: str) -> dict[str, Any]:
        with self._ledger.transaction() as db:
            job = db.execute(
                "select j.*, extract(epoch from coalesce(ended_at, clock_timestamp()) - opened_at) "
                "as seconds from penstock.job as j where job_id = %s",
                (job_id,),
            ).fetchone()
            if job is None:
                raise UnknownJobError(f"There is no job {job_id!r}.")
            lanes = db.execute(
                "select * from penstock.lane where job_id = %s order by idx", (job_id,)
            ).fetchall()
        return {
            "job_id": job_id,
            "name": job["name"],
            "state": job["state"],
            "dry_run": bool(job["spec"].get("dry_run")),
            "stage": _stage(job),
            "extracted": job["extracted"],
            "total": job["total"],
            "total_is_estimate": job["total"] is not None and not job["total_exact"],
            "error": job["error"],
            "warnings": job["warnings"],
            "retry_of": job["retry_of"],
            "created_at": job["created_at"].isoformat(),
            "ended_at": job["ended_at"].isoformat() if job["ended_at"] else None,
            "seconds": float(job["seconds"]) if job["seconds"] is not None else 0.0,
            "lanes": [_lane_status(lane) for lane in lanes],
        }

    def recent(self, limit: int = 20) -> list[dict[str, Any]]:
        with self._ledger.transaction() as db:
            rows = db.execute(
                "select job_id, name, state, extracted, created_at from penstock.job "
                "order by created_at desc limit %s",
                (limit,),
            ).fetchall()
        return [r | {"created_at": r["created_at"].isoformat()} for r in rows]


def insert_job(db: Connection, job_id: str, spec: JobSpec, warnings: list[str]) -> bool:
    made = db.execute(
        "insert into penstock.job (job_id, name, spec, digest, warnings) "
        "values (%s, %s, %s, %s, %s) "
        "on conflict do nothing returning job_id",
        (job_id, spec.name, Jsonb(_stored(spec)), spec.digest(), Jsonb(warnings)),
    ).fetchone()
    if made:
        return True
    row = db.execute(
        "select digest, spec from penstock.job where job_id = %s", (job_id,)
    ).fetchone()
    if row is not None and row["digest"] != spec.digest() and not _same(row, spec):
        raise JobExistsError(
            f"Job {job_id!r} exists already with a different spec; choose another id."
        )
    return False


def _same(row: dict[str, Any], spec: JobSpec) -> bool:
    """Whether it is the spec after all: an earlier release may have made its digest otherwise."""
    return row["digest"] != "refused" and spec_of(row).digest() == spec.digest()


def _stem(job_id: str) -> str:
    """What a retry's id begins with: short enough, and still another for another job."""
    if len(job_id) <= 90:  # noqa: PLR2004 - an id has 100 characters
        return job_id
    return f"{job_id[:80]}-{hashlib.sha256(job_id.encode()).hexdigest()[:9]}"


def _stored(spec: JobSpec) -> dict[str, Any]:
    # With its defaults, so that a later release with others does not change a running job.
    return spec.model_dump(mode="json")


def _stage(job: dict[str, Any]) -> str:
    if job["state"] != "running":
        return str(job["state"])
    if job["cancelling"]:
        return "cancelling"
    return {
        "waiting": "waiting for an extract worker",
        "reading": "reading",
        "parked": "waiting for the slowest lane",
        "ended": "closing",
    }[job["stream"]]


def _lane_status(lane: dict[str, Any]) -> dict[str, Any]:
    details = dict(lane["details"])
    if lane["unusable"]:
        details["unusable_values"] = lane["unusable"]
    details |= lane["figures"]
    if lane["removed"]:
        details["removed"] = lane["removed"]
    reasons = sorted(lane["reasons"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "lane": lane["lane"],
        "kind": lane["kind"],
        "state": lane["state"],
        "rows": lane["rows"],
        "accepted": lane["accepted"],
        "rejected": lane["rejected"],
        "skipped": lane["skipped"],
        "failed": lane["failed"],
        "reasons": [{"reason": reason, "count": count} for reason, count in reasons],
        "reported": lane["reported"],
        "waiting": lane["waiting"] if lane["state"] == "open" else None,
        "error": lane["error"],
        "artifacts": lane["artifacts"],
        "details": details,
    }
