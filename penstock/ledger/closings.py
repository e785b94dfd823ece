"""Verbs of the closing tasks: one at a time for a lane, and its outcome written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import JobSpec, LaneOutcome
from penstock.ledger.base import Connection, Ledger, lock_job, spec_of
from penstock.ledger.mirrors import doubt_batch
from penstock.ledger.unsent import give_up


@dataclass(frozen=True, slots=True)
class Closing:
    """The right to bring a lane to its end, and what is known of it."""

    job_id: str
    lane: str
    holder: str
    spec: JobSpec
    kind: str
    #: Why the lane must end without success, or None.
    error: str | None
    cancelled: bool
    rows: int
    accepted: int
    #: Rows that could not be delivered.
    failed: int
    removed: int
    parts: int
    #: File lanes: what all its pieces come to.
    bytes: int
    columns: list[str]
    #: What was done for the lane, summed over its batches.
    figures: dict[str, int]
    memo: dict[str, Any]
    abandoned: list[dict[str, Any]]
    #: Closings in a row that failed, or died with their worker.
    tries: int


class Closings:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def claim(self, job_id: str, lane: str, holder: str) -> Closing | dict[str, Any] | None:
        """None: not yet, or somebody is at it. A dict: the lane has ended, with this outcome."""
        policy = self._ledger.policy
        with self._ledger.transaction() as db:
            job = lock_job(db, job_id)
            if job is None:
                return None
            row = db.execute(
                "select *, close_lease > clock_timestamp() as busy, exists (select 1 from "
                "penstock.delivery as d where d.job_id = l.job_id and d.lane = l.lane "
                "and d.state <> 'settled' and d.lease_until > clock_timestamp()) as sending "
                "from penstock.lane as l where job_id = %s and lane = %s",
                (job_id, lane),
            ).fetchone()
            if row is None:
                return None
            if row["state"] != "open":
                return _outcome(row)
            if row["busy"] or job["state"] != "running":
                return None
            if job["cancelling"]:
                if row["sending"]:
                    # What is on its way is counted first.
                    db.execute(
                        "update penstock.lane set close_at = clock_timestamp() + "
                        "interval '2 seconds' where job_id = %s and lane = %s",
                        (job_id, lane),
                    )
                    return None
                give_up(db, job_id, lane, "skipped", "cancelled")
            elif row["settled"] != row["recorded"] or not (
                job["stream"] == "ended" or row["error"] is not None
            ):
                return None
            row = db.execute(
                "update penstock.lane set "
                "close_tries = close_tries + (close_lease is not null)::int, "
                "close_holder = %s, close_lease = clock_timestamp() + %s * interval '1 second', "
                "close_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s returning *",
                (holder, policy.lease_seconds, policy.lease_seconds, job_id, lane),
            ).fetchone()
            if row is None:
                return None
            return Closing(
                job_id, lane, holder, spec_of(job), row["kind"], row["error"],
                job["cancelling"], row["rows"], row["accepted"], row["failed"], row["removed"],
                row["parts"],
                self._bytes(db, job_id, lane), job["columns"] or [],
                row["figures"], row["memo"], row["abandoned"], row["close_tries"],
            )  # fmt: skip

    @staticmethod
    def _bytes(db: Connection, job_id: str, lane: str) -> int:
        row = db.execute(
            "select coalesce(sum(size), 0) as n from penstock.delivery "
            "where job_id = %s and lane = %s",
            (job_id, lane),
        ).fetchone()
        return int(row["n"]) if row else 0

    def renew(self, closing: Closing) -> bool:
        with self._ledger.transaction() as db:
            done = db.execute(
                "update penstock.lane set "
                "close_lease = clock_timestamp() + %s * interval '1 second', "
                "close_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and state = 'open' and close_holder = %s",
                (self._ledger.policy.lease_seconds, self._ledger.policy.lease_seconds,
                 closing.job_id, closing.lane, closing.holder),
            )  # fmt: skip
            return done.rowcount == 1

    def keep(self, closing: Closing, memo: dict[str, Any], removed: int = 0) -> bool:
        """Write over the lane's memo, and count members that were taken out of the audience. False
        where the closing is another's by now.
        """
        with self._ledger.transaction() as db:
            done = db.execute(
                "update penstock.lane set memo = memo || %s, removed = removed + %s "
                "where job_id = %s and lane = %s and state = 'open' and close_holder = %s",
                (Jsonb(memo), removed, closing.job_id, closing.lane, closing.holder),
            )
            return done.rowcount == 1

    def requests(self, closing: Closing, limit: int = 1_000) -> list[str]:
        """The first of those whose verdict is still to come."""
        with self._ledger.transaction() as db:
            rows = db.execute(
                "select request from penstock.request where job_id = %s and lane = %s "
                "and not checked order by seq, request limit %s",
                (closing.job_id, closing.lane, limit),
            ).fetchall()
        return [row["request"] for row in rows]

    def ask_after(
        self, closing: Closing, requests: Sequence[str], again: int | None = None
    ) -> None:
        """Requests of the closing itself, which bring no rows of the source: removals, or members
        of the batch `again` once more.
        """
        if not requests:
            return
        with self._ledger.transaction() as db:
            db.execute(
                "insert into penstock.request (job_id, lane, seq, request, rows, removes) "
                "select job_id, lane, coalesce(%s::int, min(seq)), unnest(%s::text[]), 0, %s "
                "from penstock.delivery where job_id = %s and lane = %s group by job_id, lane "
                "on conflict do nothing",
                (again, list(requests), again is None, closing.job_id, closing.lane),
            )

    def checked(
        self, closing: Closing, verdicts: Mapping[str, Mapping[str, int]]
    ) -> tuple[int, int]:
        """Count what the platform rejected after all; a request counts once. How many rows, and how
        many removals.
        """
        rejected_now, removals = 0, 0
        with self._ledger.transaction() as db:
            lock_job(db, closing.job_id)
            for request, rejected in verdicts.items():
                row = db.execute(
                    "update penstock.request set checked = true where job_id = %s and lane = %s "
                    "and request = %s and not checked returning seq, rows, removes",
                    (closing.job_id, closing.lane, request),
                ).fetchone()
                if row is not None:
                    counts = _at_most(rejected, row["rows"])
                    rejected_now += sum(counts.values())
                    if row["removes"]:
                        removals += sum(rejected.values())
                    elif any(rejected.values()):
                        doubt_batch(db, closing.job_id, closing.lane, row["seq"])
                    db.execute(
                        "update penstock.lane set accepted = accepted - %(n)s, "
                        "rejected = rejected + %(n)s, "
                        "reasons = penstock.add_counts(reasons, %(counts)s) "
                        "where job_id = %(job)s and lane = %(lane)s and state = 'open'",
                        {
                            "n": sum(counts.values()),
                            "counts": Jsonb(counts),
                            "job": closing.job_id,
                            "lane": closing.lane,
                        },
                    )
        return rejected_now, removals

    def snooze(
        self, closing: Closing, seconds: float, *, attempt: bool, why: str | None = None
    ) -> None:
        """Come again later: the platform is still at work, or did not answer (an attempt)."""
        with self._ledger.transaction() as db:
            db.execute(
                "update penstock.lane set close_lease = null, close_holder = null, "
                "close_tries = case when %s then close_tries + 1 else 0 end, waiting = %s, "
                "close_at = clock_timestamp() + %s * interval '1 second' "
                "where job_id = %s and lane = %s and state = 'open' and close_holder = %s",
                (attempt, why, seconds, closing.job_id, closing.lane, closing.holder),
            )

    def close(self, closing: Closing, outcome: LaneOutcome) -> dict[str, Any] | None:
        """Write the lane's outcome; where it was written before, that one stands. None where the
        closing is another's by now, or void because the stream has started over.
        """
        with self._ledger.transaction() as db:
            lock_job(db, closing.job_id)
            lost = outcome.lost_to
            reason = (
                outcome.error
                or closing.error
                or ("cancelled" if closing.cancelled else "not completed")
            )
            if lost is not None:
                if lost not in ("failed", "skipped", "rejected"):
                    raise ValueError(f"rows cannot be lost to {lost!r}")
                db.execute(
                    f"update penstock.lane set {lost} = {lost} + accepted, accepted = 0, "  # noqa: S608 - one of three
                    "reasons = case when accepted = 0 then reasons else penstock.add_counts("
                    "reasons, jsonb_build_object(%s::text, accepted)) end "
                    "where job_id = %s and lane = %s and state = 'open' and close_holder = %s",
                    (reason, closing.job_id, closing.lane, closing.holder),
                )
            row = db.execute(
                """
                update penstock.lane set
                    state = coalesce(%(state)s, case
                        when %(cancelled)s then 'cancelled'
                        when coalesce(%(error)s, error) is not null or failed > 0 then 'failed'
                        when rejected > 0 and accepted = 0 then 'failed'
                        when rejected > 0 then 'rejected_some'
                        else 'succeeded' end),
                    error = coalesce(%(error)s, error, case
                        when failed > 0
                            then failed || ' rows could not be delivered; see the reasons.'
                        when rejected > 0 and accepted = 0
                            then 'The platform rejected every row; see the reasons.' end),
                    artifacts = %(artifacts)s, details = details || %(details)s,
                    memo = '{}', abandoned = '[]', close_lease = null, close_at = null,
                    ended_at = clock_timestamp()
                where job_id = %(job)s and lane = %(lane)s and state = 'open'
                  and close_holder = %(holder)s
                returning *
                """,
                {
                    "state": outcome.state,
                    "cancelled": closing.cancelled,
                    "error": outcome.error,
                    "artifacts": Jsonb([a.wire() for a in outcome.artifacts]),
                    "details": Jsonb(outcome.details),
                    "job": closing.job_id,
                    "lane": closing.lane,
                    "holder": closing.holder,
                },
            ).fetchone()
            if row is None:
                row = db.execute(
                    "select * from penstock.lane where job_id = %s and lane = %s",
                    (closing.job_id, closing.lane),
                ).fetchone()
            return None if row is None or row["state"] == "open" else _outcome(row)


def _at_most(counts: Mapping[str, int], rows: int) -> dict[str, int]:
    """A platform may count one row for several reasons; the figures count it once."""
    left = rows
    kept = {}
    for reason, count in counts.items():
        taken = min(count, left)
        if taken > 0:
            kept[reason] = taken
            left -= taken
    return kept


def _outcome(row: dict[str, Any]) -> dict[str, Any]:
    """What the closing task returns into the chord: figures alone, for the link is a secret."""
    return {
        k: row[k] for k in ("lane", "state", "rows", "accepted", "rejected", "skipped", "failed")
    }
