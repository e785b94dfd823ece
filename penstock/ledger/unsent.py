"""What will never be sent: a lane's batches, all of a lane, or all that a stream had to bring."""

from __future__ import annotations

from typing import Any, Literal

from penstock.ledger.base import Connection, Next, closable


def give_up(
    db: Connection, job_id: str, lane: str, figure: Literal["failed", "skipped"], reason: str
) -> None:
    """Settle them all: what of a batch was sent already stays accepted, the rest is counted to the
    figure.
    """
    db.execute(
        f"""
        with gone as (
            update penstock.delivery as d set state = 'settled', lease_until = null
            from penstock.batch as b
            where d.job_id = %(job)s and d.lane = %(lane)s and d.state <> 'settled'
              and b.job_id = d.job_id and b.seq = d.seq
            returning b.rows, coalesce((d.progress->>'accepted')::bigint, 0) as sent)
        update penstock.lane set settled = recorded, released = recorded,
            accepted = accepted + lost.sent,
            {figure} = {figure} + lost.rows - lost.sent,
            reasons = case when lost.rows = lost.sent then reasons else penstock.add_counts(
                reasons, jsonb_build_object(%(reason)s::text, lost.rows - lost.sent)) end
        from (select coalesce(sum(rows), 0) as rows, coalesce(sum(sent), 0) as sent from gone)
            as lost
        where job_id = %(job)s and lane = %(lane)s and state = 'open'
        """,  # noqa: S608 - one of two words
        {"job": job_id, "lane": lane, "reason": reason},
    )


def fail_lane(db: Connection, job_id: str, lane: str, error: str) -> None:
    """Mark a lane as failing; the first reason stands."""
    give_up(db, job_id, lane, "failed", error)
    db.execute(
        "update penstock.lane set error = coalesce(error, %s) "
        "where job_id = %s and lane = %s and state = 'open'",
        (error, job_id, lane),
    )


def fail_stream(db: Connection, job: dict[str, Any], error: str) -> Next:
    """End the stream with an error, and with it every lane that has not ended. Where the stream
    had ended before, a lane that has settled all of it needs no more of the source.
    """
    job_id = job["job_id"]
    db.execute(
        "update penstock.job set stream = 'ended', lease_until = null, epoch = epoch + 1, "
        "error = %s where job_id = %s",
        (error, job_id),
    )
    for row in db.execute(
        "select lane from penstock.lane where job_id = %s and state = 'open' and error is null "
        "and (not %s or settled < recorded)",
        (job_id, job["stream"] == "ended"),
    ).fetchall():
        fail_lane(db, job_id, row["lane"], error)
    return Next(job_id, close=closable(db, job_id))
