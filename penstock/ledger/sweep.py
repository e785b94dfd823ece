"""The repair: what is recorded and does not move is set going again. Safe to run many at once."""

from __future__ import annotations

from collections.abc import Callable

from penstock import routes
from penstock.ledger.base import Ledger, Next, closable, in_flight, lock_job

#: A message in a long queue is not lost: where the queue is not empty, it is sent again ever later.
_LONGEST_SECONDS = 600
_AT_A_TIME = 500


class Sweep:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def jobs(self, queue_is_empty: Callable[[str], bool]) -> list[Next]:
        """Jobs nobody opened, streams nobody reads, jobs whose chord is gone."""
        grace = self._ledger.policy.grace_seconds
        found = []
        with self._ledger.transaction() as db:
            rows = db.execute(
                """
                update penstock.job set look_at = clock_timestamp() + %s * interval '1 second'
                where job_id in (
                    select job_id from penstock.job where state in ('submitted', 'running')
                    and look_at < clock_timestamp() order by look_at limit %s
                    for update skip locked)
                returning job_id, state, stream,
                    created_at < clock_timestamp() - %s * interval '1 second' as old,
                    (stream = 'reading' and lease_until < clock_timestamp()
                     or stream = 'waiting' and wake_at < clock_timestamp())
                    and coalesce(called_at, '-infinity')
                        < clock_timestamp() - %s * interval '1 second' as unread,
                    greatest(wake_at, called_at) < clock_timestamp() - %s * interval '1 second'
                        as long_unread,
                    (select count(*) from penstock.lane as l
                     where l.job_id = job.job_id and l.state = 'open') as open_lanes,
                    (select max(ended_at) from penstock.lane as l where l.job_id = job.job_id)
                        < clock_timestamp() - %s * interval '1 second' as overdue
                """,
                (grace / 4, _AT_A_TIME, grace, grace, _LONGEST_SECONDS, grace / 2),
            ).fetchall()
        for row in rows:
            todo = Next(row["job_id"])
            if row["state"] == "submitted":
                todo.open = bool(row["old"])
            else:
                todo.extract = row["unread"] and self._wakes(
                    row["job_id"], sure=row["long_unread"] or queue_is_empty(routes.EXTRACT_QUEUE)
                )
                todo.finalize = (
                    row["stream"] == "ended" and row["open_lanes"] == 0 and bool(row["overdue"])
                )
                self._overlooked(todo, row["stream"])
            if todo.open or todo.extract or todo.finalize or todo.close:
                found.append(todo)
        return found

    def _wakes(self, job_id: str, *, sure: bool) -> bool:
        """Whether to send for the stream: where others queue for a slot, its message may too."""
        if sure:
            with self._ledger.transaction() as db:
                db.execute(
                    "update penstock.job set called_at = clock_timestamp() where job_id = %s",
                    (job_id,),
                )
        return sure

    def _overlooked(self, todo: Next, stream: str) -> None:
        """Transactions leave neither of these behind; an operator's repair by hand may."""
        with self._ledger.transaction() as db:
            job = lock_job(db, todo.job_id)
            if job is None or job["state"] != "running":
                return
            if (
                stream == "parked"
                and job["stream"] == "parked"
                and in_flight(db, todo.job_id) <= job["spec"]["window"] // 2
            ):
                db.execute(
                    "update penstock.job set stream = 'waiting', wake_at = clock_timestamp() "
                    "where job_id = %s",
                    (todo.job_id,),
                )
                todo.extract = True
            todo.close = closable(db, todo.job_id)

    def deliveries(self, queue_is_empty: Callable[[str], bool]) -> list[Next]:
        """Batches whose message never arrived, whose worker died, or whose wait is over."""
        grace = self._ledger.policy.grace_seconds
        with self._ledger.transaction() as db:
            due = db.execute(
                "select distinct l.kind from penstock.delivery as d "
                "join penstock.lane as l using (job_id, lane) "
                "where d.state <> 'settled' and d.due_at < clock_timestamp()"
            ).fetchall()
        # Each is a question to the broker, and most of the time nothing is due.
        busy = [row["kind"] for row in due if not queue_is_empty(routes.LANE_QUEUES[row["kind"]])]
        if not due:
            return []
        with self._ledger.transaction() as db:
            rows = db.execute(
                """
                select d.job_id, d.lane, d.seq, l.kind, j.generation
                from penstock.delivery as d
                join penstock.lane as l using (job_id, lane)
                join penstock.job as j using (job_id)
                where d.state <> 'settled' and d.due_at < clock_timestamp()
                  and (d.lease_until is null or d.lease_until < clock_timestamp())
                  and l.state = 'open' and j.state = 'running' and not j.cancelling
                  -- in a queue that is not empty its message may just be waiting
                  and not (l.kind = any(%(busy)s)
                           and d.holder is null and d.published between 1 and 5
                           and clock_timestamp() < d.due_at
                               + (%(grace)s * power(2, d.published)) * interval '1 second')
                order by d.due_at limit %(limit)s
                for update of d skip locked
                """,
                {"grace": grace, "limit": _AT_A_TIME, "busy": busy},
            ).fetchall()
            found: dict[str, Next] = {}
            for row in rows:
                db.execute(
                    "update penstock.delivery set published = published + 1, due_at = "
                    "clock_timestamp() + least(%s, %s * power(2, least(published, 10))) "
                    "* interval '1 second' where job_id = %s and lane = %s and seq = %s",
                    (_LONGEST_SECONDS, grace, row["job_id"], row["lane"], row["seq"]),
                )
                todo = found.setdefault(row["job_id"], Next(row["job_id"]))
                todo.deliver.append((row["kind"], row["lane"], row["seq"], row["generation"]))
        return list(found.values())

    def closings(self) -> list[Next]:
        """Lanes that may close and whose closing is due: parked, polling, or lost."""
        with self._ledger.transaction() as db:
            rows = db.execute(
                """
                update penstock.lane as l
                set close_at = clock_timestamp() + %s * interval '1 second'
                where (job_id, lane) in (
                    select c.job_id, c.lane from penstock.lane as c
                    join penstock.job as j using (job_id)
                    where c.state = 'open' and c.close_at < clock_timestamp()
                      and (c.close_lease is null or c.close_lease < clock_timestamp())
                      and j.state = 'running' order by c.close_at limit %s
                    for update of c skip locked)
                returning job_id, kind, lane, idx,
                    (select count(*) from penstock.lane as o where o.job_id = l.job_id) as lanes
                """,
                (self._ledger.policy.grace_seconds, _AT_A_TIME),
            ).fetchall()
        found: dict[str, Next] = {}
        for row in rows:
            found.setdefault(row["job_id"], Next(row["job_id"])).close.append(
                (row["kind"], row["lane"], row["idx"], row["lanes"])
            )
        return list(found.values())
