"""The report of a lane: which rows it did not take whole, and why. By row keys, never by values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.contract import Batch, Rejection
from penstock.errors import UnknownJobError
from penstock.ledger.base import Connection, Ledger

_PAGE = 5_000


class Reports:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def rejections(self, job_id: str, lane: str | None = None) -> Iterator[dict[str, Any]]:
        """Every row that is kept, in the order of the source, page by page."""
        with self._ledger.transaction() as db:
            lanes = [
                row["lane"]
                for row in db.execute(
                    "select lane from penstock.lane where job_id = %s order by idx", (job_id,)
                )
            ]
            known = db.execute("select 1 from penstock.job where job_id = %s", (job_id,)).fetchone()
        if known is None:
            raise UnknownJobError(f"There is no job {job_id!r}.")
        if lane is not None and lane not in lanes:
            raise UnknownJobError(
                f"Job {job_id!r} has no lane {lane!r}; it has {', '.join(lanes)}."
            )
        for each in lanes if lane is None else [lane]:
            yield from self._of_lane(job_id, each)

    def not_kept(self, job_id: str, lane: str | None = None) -> int:
        """How many more there are than the lanes' reports have room for."""
        with self._ledger.transaction() as db:
            row = db.execute(
                "select coalesce(sum(report_more), 0) as n from penstock.lane "
                "where job_id = %s and lane = coalesce(%s, lane)",
                (job_id, lane),
            ).fetchone()
        return int(row["n"]) if row else 0

    def _of_lane(self, job_id: str, lane: str) -> Iterator[dict[str, Any]]:
        after = (-1, -1)
        while True:
            with self._ledger.transaction() as db:
                page = db.execute(
                    "select seq, n, row, field, reason from penstock.rejection "
                    "where job_id = %s and lane = %s and (seq, n) > (%s, %s) "
                    "order by seq, n limit %s",
                    (job_id, lane, *after, _PAGE),
                ).fetchall()
            for row in page:
                yield {"lane": lane, **{k: row[k] for k in ("row", "field", "reason")}}
            if len(page) < _PAGE:
                return
            after = (page[-1]["seq"], page[-1]["n"])


def report(db: Connection, most: int, batch: Batch, rejections: list[Rejection]) -> None:
    """Keep a batch's, as far as the lane's report has room; the rest is counted. The caller holds
    the job's lock.
    """
    if not rejections:
        return
    row = db.execute(
        "update penstock.lane set reported = least(%(most)s, reported + %(new)s), "
        "report_more = report_more + greatest(0, reported + %(new)s - %(most)s) "
        "where job_id = %(job)s and lane = %(lane)s "
        "returning reported",
        {"most": most, "new": len(rejections), "job": batch.job_id, "lane": batch.lane},
    ).fetchone()
    if row is None:
        return
    have = db.execute(
        "select count(*) as n from penstock.rejection where job_id = %s and lane = %s",
        (batch.job_id, batch.lane),
    ).fetchone()
    room = row["reported"] - (have["n"] if have else 0)
    kept = rejections[: max(room, 0)]
    if not kept:
        return
    db.execute(
        "insert into penstock.rejection (job_id, lane, seq, n, row, field, reason) "
        "select %s, %s, %s, n, row, field, reason "
        "from unnest(%s::int[], %s::text[], %s::text[], %s::text[]) as r (n, row, field, reason)",
        (
            batch.job_id, batch.lane, batch.seq, list(range(len(kept))),
            [r.row for r in kept], [r.field for r in kept], [r.reason for r in kept],
        ),
    )  # fmt: skip
