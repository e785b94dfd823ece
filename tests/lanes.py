"""Whole lanes, batches and closing, on a worker in this process and with a stand-in for a platform
that does what the test wants of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa

from penstock.broker import make_app
from penstock.contract import LaneOutcome, LaneRef
from penstock.payloads import Payload
from services.runtime.closing import Wait, close_lane
from services.runtime.worker import Worker
from services.upload.ending import bring_to_end
from services.upload.lane import deliver
from services.upload.platform import Checked, LaneEnd, Limits, Lot, Pace, Sent
from services.upload.settings import UploadSettings
from tests.builders import META, Books, books, execute

Person = tuple[str | None, str | None]
MIRROR = {**META, "mode": "mirror", "max_removed_percent": 100}
LANE = "meta"
A, B, C = ("a", None), ("b", None), ("c", None)
_numbers = count(1)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def names(*people: Person) -> set[bytes]:
    return {sha(text) for person in people for text in person if text is not None}


@dataclass
class Platform:
    """Takes whom it is sent, unless a test has it say something else."""

    answer: Callable[[Lot, pa.RecordBatch], Sent] = lambda _, chunk: Sent(chunk.num_rows)
    at_the_end: Callable[[LaneEnd], LaneOutcome | Wait | Checked] = lambda _: LaneOutcome()
    pace: Pace = field(default_factory=Pace)
    account: str = field(default_factory=lambda: f"ours/{next(_numbers)}")
    #: Of each request, in order.
    calls: list[tuple[str, frozenset[bytes]]] = field(default_factory=list)
    limits: ClassVar[Limits] = Limits(1_000, 1_000_000)
    by_consent: ClassVar[bool] = False

    def prepare(self, memo: dict[str, Any], _lot: Lot) -> dict[str, Any]:
        return {} if "audience" in memo else {"audience": "1"}

    def sender(self, _memo: dict[str, Any], _rows: int, lot: Lot) -> SimpleNamespace:
        return SimpleNamespace(send=partial(self._send, lot))

    def close(self, _memo: dict[str, Any], end: LaneEnd) -> LaneOutcome | Wait | Checked:
        return self.at_the_end(end)

    def row_bytes(self, _columns: list[str]) -> int:
        return 64

    def _send(self, lot: Lot, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        given = [chunk.column(n).to_pylist() for n in ("email", "phone") if n in chunk.schema.names]
        self.calls.append((lot.action, frozenset(v for c in given for v in c if v is not None)))
        return self.answer(lot, chunk)

    def of(self, action: str) -> set[bytes]:
        return set().union(*(members for done, members in self.calls if done == action))


class Runs:
    """The runs of one job, on one worker."""

    def __init__(self, book: Books, settings: UploadSettings) -> None:
        self.book = book
        self.settings = settings
        self.app = make_app(settings.broker_url, "test")
        self.worker = Worker(self.app, settings)

    def read(self, *batches: list[Person], to: dict[str, Any] = MIRROR) -> str:
        """A run whose source has been read."""
        job = f"run-{next(_numbers)}"
        self.book.open(to, job_id=job)
        lease = self.book.lease(job_id=job)
        for seq, people in enumerate(batches):
            self.book.record(lease, rows=len(people))
            self.worker.payloads.put(job, lease.epoch, seq, {"meta": payload_of(people)})
        self.book.ledger.stream.end(lease)
        return job

    def send(self, job: str, *seqs: int, to: Platform | None = None, lane: str = LANE) -> Platform:
        to = to or Platform()
        for seq in seqs or range(self.book.lane(lane, job)["recorded"]):
            batch = self.book.batch(lane, seq, job_id=job)
            deliver(self.worker, self.settings, lambda *_: to, batch)
        return to

    def close(
        self, job: str, to: Platform | None = None, lane: str = LANE
    ) -> dict[str, Any] | None:
        end = partial(bring_to_end, self.worker, self.settings, lambda *_: to or Platform())
        return close_lane(self.worker, self.settings, LaneRef(job, lane), end)

    def whole(self, *batches: list[Person], to: Platform | None = None) -> Platform:
        to = to or Platform()
        job = self.read(*batches)
        self.send(job, to=to)
        assert self.close(job, to)["state"] == "succeeded"
        return to

    def lane(self, job: str) -> dict[str, Any]:
        return self.book.ledger.jobs.status(job)["lanes"][0]


def payload_of(people: list[Person]) -> Payload:
    columns = {
        name: pa.array([None if p[n] is None else sha(str(p[n])) for p in people], pa.binary(32))
        for n, name in enumerate(("email", "phone"))
    }
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return Payload(sink.getvalue().to_pybytes(), {"form": "arrow", "rows": len(people)})


@contextmanager
def running(url: str, redis_url: str) -> Iterator[Runs]:
    """On an empty ledger."""
    # What it must wait for it comes back to.
    settings = UploadSettings(broker_url=redis_url, ledger_url=url, patience_seconds=0)
    with books(url) as book:
        execute(url, "truncate penstock.mirror, penstock.mirror_entry, penstock.suppressed")
        runs = Runs(book, settings)
        yield runs
        runs.worker.ledger.close()
        runs.worker.payloads.close()
        runs.app.close()
