"""How a batch counts for a lane: once, with all that it leaves in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import Batch, Rejection, Tally
from penstock.ledger.base import Connection, Next, after_settling
from penstock.ledger.reports import report


@dataclass(slots=True)
class Beside:
    """What a settled batch leaves in the ledger beside its figures, in the same transaction."""

    rejections: list[Rejection] = field(default_factory=list)
    #: Requests that the platform works on by itself, and their rows.
    requests: list[tuple[str, int]] = field(default_factory=list)
    #: Written over the lane's memo.
    keep: dict[str, Any] = field(default_factory=dict)
    #: Added to the lane's figures.
    figures: dict[str, int] = field(default_factory=dict)
    #: More to write, by another group's verb.
    also: Callable[[Connection], None] | None = None


def set_delivery(db: Connection, batch: Batch, what: str, *values: Any) -> None:
    db.execute(
        f"update penstock.delivery set {what} "  # noqa: S608 - `what` is from this module
        "where job_id = %s and lane = %s and seq = %s",
        (*values, batch.job_id, batch.lane, batch.seq),
    )


def keep_memo(db: Connection, batch: Batch, keep: dict[str, Any]) -> None:
    db.execute(
        "update penstock.lane set memo = memo || %s where job_id = %s and lane = %s",
        (Jsonb(keep), batch.job_id, batch.lane),
    )


def write_beside(db: Connection, most_reported: int, batch: Batch, beside: Beside) -> None:
    if beside.keep:
        keep_memo(db, batch, beside.keep)
    if beside.figures:
        db.execute(
            "update penstock.lane set figures = penstock.add_counts(figures, %s) "
            "where job_id = %s and lane = %s",
            (Jsonb(beside.figures), batch.job_id, batch.lane),
        )
    for request, rows in beside.requests:
        db.execute(
            "insert into penstock.request (job_id, lane, seq, request, rows) "
            "values (%s, %s, %s, %s, %s) on conflict do nothing",
            (batch.job_id, batch.lane, batch.seq, request, rows),
        )
    report(db, most_reported, batch, beside.rejections)
    if beside.also is not None:
        beside.also(db)


def settle(
    db: Connection, job: dict[str, Any], batch: Batch, row: dict[str, Any], tally: Tally
) -> Next:
    count_rows(db, batch, row["rows"], tally)
    set_delivery(db, batch, "state = 'settled', lease_until = null, progress = null")
    db.execute(
        "update penstock.lane set settled = settled + 1, released = released + 1, waiting = null "
        "where job_id = %s and lane = %s",
        (batch.job_id, batch.lane),
    )
    todo = after_settling(db, job)
    if not _still_read(db, batch.job_id, batch.seq, row["view"]):
        todo.drop.append((row["epoch"], batch.seq, row["view"]))
    if row["serial"]:
        waiting = db.execute(
            "update penstock.delivery set deferred = false where (job_id, lane, seq) in ("
            "select job_id, lane, seq from penstock.delivery where job_id = %s and lane = %s "
            "and deferred and state = 'pending' order by seq limit 1) returning seq",
            (batch.job_id, batch.lane),
        ).fetchone()
        if waiting:
            todo.deliver.append((row["kind"], batch.lane, waiting["seq"], batch.generation))
    return todo


def count_rows(db: Connection, batch: Batch, rows: int, tally: Tally) -> None:
    """Add a batch's figures to its lane's; the caller settles the batch in the same transaction."""
    if tally.rows != rows or sum(tally.reasons.values()) != rows - tally.accepted:
        raise ValueError(
            f"the tally of batch {batch.seq} counts {tally.rows} rows where it has {rows}"
        )
    db.execute(
        "update penstock.lane set accepted = accepted + %s, rejected = rejected + %s, "
        "skipped = skipped + %s, failed = failed + %s, "
        "reasons = penstock.add_counts(reasons, %s), unusable = penstock.add_counts(unusable, %s) "
        "where job_id = %s and lane = %s",
        (tally.accepted, tally.rejected, tally.skipped, tally.failed, Jsonb(tally.reasons),
         Jsonb(tally.unusable), batch.job_id, batch.lane),
    )  # fmt: skip


def _still_read(db: Connection, job_id: str, seq: int, view: str) -> bool:
    return (
        db.execute(
            "select 1 from penstock.delivery as d join penstock.lane as l using (job_id, lane) "
            "where d.job_id = %s and d.seq = %s and l.view = %s and d.state = 'pending' limit 1",
            (job_id, seq, view),
        ).fetchone()
        is not None
    )


def unread(db: Connection, job_id: str) -> list[tuple[int, int, str]]:
    """Payloads of batches in the window that no lane waits for: a failed lane leaves such."""
    rows = db.execute(
        """
        select b.epoch, b.seq, v.view
        from penstock.batch as b
        cross join (select distinct view from penstock.lane where job_id = %(job)s) as v
        where b.job_id = %(job)s
          and b.seq >= (select min(l.released) from penstock.lane as l where l.job_id = %(job)s
                        and l.state = 'open') - (select (spec->>'window')::int from penstock.job
                                                 where job_id = %(job)s)
          and not exists (select 1 from penstock.delivery as d join penstock.lane as l
                          using (job_id, lane)
                          where d.job_id = b.job_id and d.seq = b.seq and l.view = v.view
                            and d.state = 'pending')
        """,
        {"job": job_id},
    ).fetchall()
    return [(r["epoch"], r["seq"], r["view"]) for r in rows]
