"""Specs and ledgers for tests, with as much in them as a test wants to say."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from penstock.contract import Batch, JobSpec, LaneOutcome, Tally
from penstock.ledger import Ledger, Next, Policy
from penstock.ledger.closings import Closing
from penstock.ledger.deliveries import Claim
from penstock.ledger.stream import StreamLease
from sandbox.servers import Postgres

GOOGLE = {"connection": "google", "customer_id": "1234567890", "user_list_id": "111"}
META = {"connection": "meta", "audience_id": "222"}
FILES = {"connection": "files", "bucket": "bucket", "key": "{job_id}.csv.gz"}

JOB = "job-1"
ROWS = 10


def document(*destinations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A spec as a person writes it; keys of `source` may be given with the prefix `source_`."""
    source = {"connection": "warehouse", "table": "customers", "key": "id"}
    source |= {k.removeprefix("source_"): v for k, v in changes.items() if k.startswith("source_")}
    rest = {k: v for k, v in changes.items() if not k.startswith("source_")}
    return {
        "name": "nightly",
        "source": {k: v for k, v in source.items() if v is not None},
        "destinations": [dict(d) for d in destinations] or [dict(META)],
        **rest,
    }


def spec(*destinations: dict[str, Any], **changes: Any) -> JobSpec:
    return JobSpec.parse(document(*destinations, **changes))


@dataclass
class Books:
    """One ledger, as two workers see it: to one, leases and graces last; to the other they are over
    as soon as they begin, so that no test has to wait for the end of one."""

    url: str
    ledger: Ledger
    hasty: Ledger

    def open(self, *destinations: dict[str, Any], job_id: str = JOB, **changes: Any) -> Next:
        self.ledger.jobs.submit(job_id, spec(*destinations, **changes))
        todo = self.ledger.jobs.open(job_id)
        assert todo is not None
        return todo

    def lease(self, by: Ledger | None = None, job_id: str = JOB) -> StreamLease:
        lease = (by or self.ledger).stream.lease(job_id)
        assert isinstance(lease, StreamLease), lease
        return lease

    def record(self, lease: StreamLease, batches: int = 1, rows: int = ROWS) -> list[Next]:
        first = self.job(lease.job_id)["next_seq"]
        return [
            self.ledger.stream.record(lease, seq, rows, f"{(seq + 1) * rows:06}", 100)[0]
            for seq in range(first, first + batches)
        ]

    def read(self, batches: int = 1, rows: int = ROWS, job_id: str = JOB) -> StreamLease:
        """Read the source to its end."""
        lease = self.lease(job_id=job_id)
        self.record(lease, batches, rows)
        self.ledger.stream.end(lease)
        return lease

    def stream_worker_dies(self) -> None:
        """Its lease, renewed by each batch, comes to its end."""
        with self.ledger.transaction() as db:
            db.execute("update penstock.job set lease_until = clock_timestamp()")

    def time_to_wake(self, job_id: str = JOB) -> None:
        """What a stream waits for is over."""
        with self.ledger.transaction() as db:
            db.execute(
                "update penstock.job set wake_at = clock_timestamp() where job_id = %s", (job_id,)
            )

    def batch(self, lane: str, seq: int = 0, generation: int = 1, job_id: str = JOB) -> Batch:
        return Batch(job_id, seq, generation, lane)

    def claim(self, lane: str, seq: int = 0, by: Ledger | None = None, **more: Any) -> Claim:
        """`more`: the job's id, the generation."""
        claim = (by or self.ledger).deliveries.claim(self.batch(lane, seq, **more), f"h{seq}")
        assert isinstance(claim, Claim), claim
        return claim

    def deliver(self, lane: str, *seqs: int, tally: Tally | None = None) -> list[Next | None]:
        return [
            self.ledger.deliveries.settle(claim, tally or Tally(accepted=claim.rows))
            for claim in (self.claim(lane, seq) for seq in seqs or (0,))
        ]

    def closing(self, lane: str, by: Ledger | None = None, job_id: str = JOB) -> Closing:
        closing = (by or self.ledger).closings.claim(job_id, lane, "closer")
        assert isinstance(closing, Closing), closing
        return closing

    def close(self, lane: str, outcome: LaneOutcome | None = None) -> dict[str, Any] | None:
        return self.ledger.closings.close(self.closing(lane), outcome or LaneOutcome())

    def job(self, job_id: str = JOB) -> dict[str, Any]:
        return self.one("select * from penstock.job where job_id = %s", job_id)

    def lane(self, lane: str, job_id: str = JOB) -> dict[str, Any]:
        return self.one("select * from penstock.lane where job_id = %s and lane = %s", job_id, lane)

    def delivery(self, lane: str, seq: int) -> dict[str, Any]:
        return self.one(
            "select * from penstock.delivery where job_id = %s and lane = %s and seq = %s",
            JOB, lane, seq,
        )  # fmt: skip

    def one(self, query: str, *values: Any) -> dict[str, Any]:
        with self.ledger.transaction() as db:
            row = db.execute(query, values).fetchone()
        assert row is not None
        return row

    def figures(self, lane: str, job_id: str = JOB) -> dict[str, int]:
        """Of the lane, after a check that they add up."""
        found = next(x for x in self.ledger.jobs.status(job_id)["lanes"] if x["lane"] == lane)
        assert found["rows"] == sum(found[k] for k in ("accepted", "rejected", "skipped", "failed"))
        assert sum(r["count"] for r in found["reasons"]) == found["rows"] - found["accepted"]
        return {k: v for k, v in found.items() if isinstance(v, int) and v}


@contextmanager
def database(server: Postgres) -> Iterator[str]:
    """For a module whose tests share one, because to make one for each takes longer than they do."""
    name = f"shared_{uuid.uuid4().hex}"
    try:
        yield server.create_database(name)
    finally:
        server.drop_database(name)


@contextmanager
def books(url: str, **policy: Any) -> Iterator[Books]:
    """Empty ones."""
    ledger = Ledger(url, Policy(lease_seconds=600, grace_seconds=600, **policy))
    hasty = Ledger(url, Policy(lease_seconds=0, grace_seconds=0, **policy))
    try:
        ledger.migrate()
        execute(url, "truncate penstock.job cascade")
        yield Books(url, ledger, hasty)
    finally:
        ledger.close()
        hasty.close()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
