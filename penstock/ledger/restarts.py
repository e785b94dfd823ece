"""What becomes of a stream whose payloads or place are lost: read again, or from the first row."""

from __future__ import annotations

from typing import Any

from penstock.ledger.base import Connection, Ledger, Next, spec_of
from penstock.ledger.unsent import fail_stream

GAVE_UP = (
    "The stream had to start over {} times because a worker or its payloads were lost. Without "
    "`key` (a unique, sortable column) it cannot go on where it was: give the source one."
)


def reread(ledger: Ledger, db: Connection, job: dict[str, Any], seqs: list[int]) -> Next:
    """Payloads are lost. With a key their ranges are read again; without one the stream starts
    over, under a new generation in which nothing counts that was counted before. That is done
    here, for the one extract slot may be held by this very stream.
    """
    todo = Next(job["job_id"])
    if spec_of(job).source.key is not None:
        todo.refill = [(seq, job["generation"]) for seq in seqs]
    elif job["cancelling"]:
        pass
    elif job["generation"] > ledger.policy.max_restarts:
        todo = fail_stream(db, job, GAVE_UP.format(job["generation"]))
    else:
        start_over(db, job["job_id"])
        todo.extract = True
    return todo


def start_over(db: Connection, job_id: str) -> None:
    """Lanes that have ended well keep what they have."""
    db.execute("delete from penstock.delivery where job_id = %s", (job_id,))
    db.execute("delete from penstock.batch where job_id = %s", (job_id,))
    db.execute(
        """
        update penstock.lane set recorded = 0, settled = 0, released = 0, rows = 0, accepted = 0,
            rejected = 0, skipped = 0, failed = 0, reasons = '{}', unusable = '{}', parts = 0,
            figures = '{}', reported = 0, report_more = 0, removed = 0,
            cut = 0, close_at = case when error is null then null else close_at end,
            abandoned = case when memo = '{}' then abandoned else abandoned || memo end,
            memo = '{}', close_holder = null, close_lease = null, close_tries = 0
        where job_id = %s and state in ('open', 'failed')
        """,
        (job_id,),
    )
    db.execute(
        "update penstock.job set generation = generation + 1, epoch = epoch + 1, next_seq = 0, "
        "position = null, extracted = 0, stream = 'waiting', lease_until = null, "
        "wake_at = clock_timestamp() where job_id = %s",
        (job_id,),
    )
