"""A whole lane in the mode `mirror`, batches and closing, where something goes wrong on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psycopg
import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb

from penstock.broker import make_app
from penstock.contract import LaneOutcome, LaneRef
from penstock.ledger.deliveries import Claim
from penstock.payloads import Payload
from sandbox.servers import Postgres
from services.runtime.closing import Wait, close_lane
from services.runtime.verdicts import Fatal, RowsRejected
from services.runtime.worker import Worker
from services.upload.ending import bring_to_end
from services.upload.lane import Delivery, deliver
from services.upload.platform import Checked, LaneEnd, Limits, Lot, Pace, Sent
from services.upload.settings import UploadSettings
from tests.builders import META, Books, books, database, execute
from tests.harness import Stack, wait_for

Person = tuple[str | None, str | None]
MIRROR = {**META, "mode": "mirror", "max_removed_percent": 100}
CREATED = {
    "connection": "meta", "account_id": "1000", "audience": "People", "create": True,
    "mode": "mirror",
}  # fmt: skip
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


@pytest.fixture(scope="module")
def url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def runs(url: str, redis_url: str) -> Iterator[Runs]:
    # What it must wait for it comes back to.
    settings = UploadSettings(broker_url=redis_url, ledger_url=url, patience_seconds=0)
    with books(url) as book:
        execute(url, "truncate penstock.mirror, penstock.mirror_entry, penstock.suppressed")
        runs = Runs(book, settings)
        yield runs
        runs.worker.ledger.close()
        runs.worker.payloads.close()
        runs.app.close()


class TestWhoChanged:
    """Sent once more after the removals."""

    def test_a_closing_that_takes_several_slices_goes_on_where_it_was(self, runs: Runs) -> None:
        runs.whole(*[[(f"e{n}", f"old{n}")] for n in range(6)])
        job = runs.read(*[[(f"e{n}", f"new{n}")] for n in range(6)])
        runs.send(job)
        # An account of its own for each: what ends a slice is that three requests have gone.
        slices = [Platform(pace=Pace(per_minute=3)) for _ in range(3)]
        assert [(runs.close(job, each) or {}).get("state") for each in slices] == [
            None, None, "succeeded",
        ]  # fmt: skip
        calls = [call for each in slices for call in each.calls]
        assert calls == [
            ("remove", names(*[(f"old{n}", None) for n in range(6)])),
            *[("add", names((f"e{n}", f"new{n}"))) for n in range(6)],
        ]

    def test_but_not_who_was_suppressed_meanwhile(self, runs: Runs) -> None:
        runs.whole([("x", "p1"), ("y", "p1"), B])
        job = runs.read([("x", "p2"), ("y", "p3"), B])
        assert runs.send(job).of("add") == names(("x", "p2"), ("y", "p3"))
        runs.book.ledger.suppression.add([sha("x")])
        closing = Platform()
        assert runs.close(job, closing)["state"] == "succeeded"
        assert closing.calls == [("remove", names(("p1", None))), ("add", names(("y", "p3")))]
        assert runs.whole([("x", "p2"), ("y", "p3"), B]).calls == [("remove", names(("x", "p2")))]


def late(rejected: int) -> tuple[Callable[..., Sent], Callable[[LaneEnd], LaneOutcome | Checked]]:
    """Takes all that comes, and has second thoughts of each request."""
    return (
        lambda _, chunk: Sent(chunk.num_rows, request="r1"),
        lambda end: (
            Checked({r: {"Ours: no.": rejected} for r in end.requests})
            if end.requests
            else LaneOutcome()
        ),
    )


class TestRefusal:
    def test_a_removal_is_not_counted_and_is_tried_again(self, runs: Runs) -> None:
        def one_of_two(_: Lot, chunk: pa.RecordBatch) -> Sent:
            if chunk.column("email")[0].as_py() == sha("b"):
                raise RowsRejected("Ours: refused.")
            return Sent(chunk.num_rows)

        runs.whole([A, B, C])
        job = runs.read([A])
        runs.send(job)
        assert runs.close(job, Platform(one_of_two))["state"] == "succeeded"
        details = runs.lane(job)["details"]
        assert (details["removed"], details["removals_refused"]) == (1, 1)
        # Which of them were taken out need not be known: to ask for it twice does no harm.
        assert sha("b") in runs.whole([A]).of("remove")
        assert runs.whole([A]).calls == []

    def test_a_removal_is_refused_late(self, runs: Runs) -> None:
        runs.whole([A, B])
        job = runs.read([A])
        runs.send(job)
        later = Platform(*late(1))
        assert runs.close(job, later)["state"] == "succeeded"
        details = runs.lane(job)["details"]
        assert (details.get("removed", 0), details["removals_refused"]) == (0, 1)
        assert runs.whole([A]).calls == [("remove", names(B))]
        assert runs.whole([A]).calls == []

    @pytest.mark.parametrize("when", ["at once", "late"])
    def test_who_was_not_taken_once_more_is_sent_by_the_next_run(
        self, runs: Runs, when: str
    ) -> None:
        """And is no removal."""
        runs.whole([("x", "p1")], [B])
        job = runs.read([("x", "p2")], [B])
        runs.send(job)

        def answer(lot: Lot, chunk: pa.RecordBatch) -> Sent:
            if lot.action == "remove":
                return Sent(chunk.num_rows)
            if when == "late":
                return Sent(chunk.num_rows, request="r1")
            return Sent(0, {"Ours: no.": chunk.num_rows})

        assert runs.close(job, Platform(answer, late(1)[1]))["state"] == "succeeded"
        details = runs.lane(job)["details"]
        assert (details["removed"], "removals_refused" in details) == (1, False)
        assert runs.whole([("x", "p2")], [B]).of("add") == names(("x", "p2"))
        assert runs.whole([("x", "p2")], [B]).calls == []

    @pytest.mark.parametrize(("rejected", "state"), [(1, "rejected_some"), (2, "failed")])
    def test_who_was_rejected_late_is_sent_again(
        self, runs: Runs, rejected: int, state: str
    ) -> None:
        """Which of a request's rows they are nobody says: all of their batch are."""
        runs.whole([A])
        job = runs.read([A], [B, C])
        later = Platform(*late(rejected))
        assert runs.send(job, to=later).calls == [("add", names(B, C))]
        assert runs.close(job, later)["state"] == state
        assert runs.lane(job)["rejected"] == rejected
        assert runs.whole([A], [B, C]).calls == [("add", names(B, C))]
        assert runs.whole([A], [B, C]).calls == []


def refuse(_end: LaneEnd) -> LaneOutcome:
    raise Fatal("Ours: no.")


ENDS: dict[str, Callable[[LaneEnd], LaneOutcome]] = {
    "cancelled": lambda _: LaneOutcome(),
    "refused": refuse,
    "failed": lambda _: LaneOutcome(error="Ours: no.", lost_to="failed"),
}


class TestUnfinished:
    """A run that did not end well: what the audience has of it nobody knows."""

    @pytest.mark.parametrize("how", ENDS)
    def test_whom_it_added_and_who_has_left_is_taken_out(self, runs: Runs, how: str) -> None:
        runs.whole([A])
        job = runs.read([A, B])
        assert runs.send(job).calls == [("add", names(B))]
        if how == "cancelled":
            runs.book.ledger.jobs.cancel(job)
        assert runs.close(job, Platform(at_the_end=ENDS[how]))["state"] in ("cancelled", "failed")
        assert runs.whole([A]).calls == [("remove", names(B))]
        assert runs.whole([A]).calls == []

    @pytest.mark.parametrize("how", ENDS)
    def test_whom_it_took_out_and_who_is_back_is_sent(self, runs: Runs, how: str) -> None:
        runs.whole([A, B])
        job = runs.read([A])
        runs.send(job)
        closing = Platform(at_the_end=lambda _: Wait(60))
        assert runs.close(job, closing) is None
        assert closing.calls == [("remove", names(B))]
        if how == "cancelled":
            runs.book.ledger.jobs.cancel(job)
        assert runs.close(job, Platform(at_the_end=ENDS[how]))["state"] in ("cancelled", "failed")
        assert runs.whole([A, B]).calls == [("add", names(B))]
        assert runs.whole([A, B]).calls == []

    def test_removals_that_came_to_nothing_are_not_counted(self, runs: Runs) -> None:
        runs.whole([A, B])
        job = runs.read([A])
        runs.send(job)
        runs.close(job, Platform(at_the_end=ENDS["failed"]))
        assert "removed" not in runs.lane(job)["details"]


class TestClosing:
    def test_a_second_look_reads_no_removals(self, runs: Runs, url: str) -> None:
        """The platform is asked for hours; the state may have a hundred million entries."""
        runs.whole([A, B])
        job = runs.read([A])
        runs.send(job)
        working = Platform(at_the_end=lambda _: Wait(60))
        assert runs.close(job, working) is None
        assert len(working.calls) == 1
        with psycopg.connect(url) as other:
            other.execute("lock table penstock.mirror_entry in access exclusive mode")
            assert runs.close(job, working) is None  # would wait for its turn in vain
        assert len(working.calls) == 1
        assert runs.close(job)["state"] == "succeeded"
        assert runs.whole([A]).calls == []


class TestBatch:
    def test_its_lease_is_renewed_while_the_state_is_waited_for(self, runs: Runs, url: str) -> None:
        runs.whole([A])
        job = runs.read([A, B])
        hurried = runs.settings.model_copy(update={"lease_seconds": 0.3})
        claim = runs.book.claim(LANE, job_id=job)

        def lease() -> Any:
            return runs.book.one(
                "select lease_until from penstock.delivery where job_id = %s", job
            )["lease_until"]

        before = lease()
        to = Platform()
        with psycopg.connect(url) as other, ThreadPoolExecutor(1) as pool:
            other.execute("select 1 from penstock.mirror for update")
            done = pool.submit(Delivery(runs.worker, hurried, to, claim).run)
            try:
                wait_for(lambda: lease() != before, timeout=20)
                assert not done.done()
                assert to.calls == []
            finally:
                other.rollback()
            done.result()
        assert to.calls == [("add", names(B))]
        assert runs.book.lane(LANE, job)["settled"] == 1

    def test_where_nobody_is_sent_the_audience_is_there_all_the_same(self, runs: Runs) -> None:
        """Or each batch would put off those that are taken up beside it."""
        batches = [[A], [B], [C]]
        for expected in ({"add"}, set()):
            job = runs.read(*batches, to=CREATED)
            claim = runs.book.claim(LANE, 0, job_id=job)
            beside = runs.book.batch(LANE, 1, job_id=job)
            assert runs.book.ledger.deliveries.claim(beside, "h") is None  # who creates is alone
            to = Platform()
            Delivery(runs.worker, runs.settings, to, claim).run()
            runs.book.claim(LANE, 2, job_id=job)
            execute(runs.book.url, "update penstock.delivery set due_at = now()")
            found = runs.book.ledger.deliveries.claim(beside, "h")
            assert isinstance(found, Claim)
            assert {action for action, _ in to.calls} == expected
            Delivery(runs.worker, runs.settings, to, found).run()
            execute(runs.book.url, "update penstock.delivery set lease_until = null")
            runs.send(job, 2)
            assert runs.close(job)["state"] == "succeeded"


KEPT = {**MIRROR, "lane": LANE}
REPLACED = {**META, "audience_id": "333", "lane": "replaced", "mode": "replace"}


class TestReadAgain:
    """A payload that Redis lost."""

    @pytest.fixture
    def stack(self, tmp_path: Path, runs: Runs, source_url: str) -> Iterator[Stack]:
        execute(
            source_url,
            "create table customers (id numeric primary key, email text)",
            "insert into customers select n, 'e' || n || '@example.com' "
            "from generate_series(1, 11) as n",
        )
        warehouse = {"kind": "postgres", "url": source_url}
        with Stack(
            tmp_path, runs.settings.broker_url, runs.book.url, {"warehouse": warehouse}
        ) as stack:
            yield stack.start("extract", beat=False)

    def test_a_row_that_came_in_may_have_pushed_another_out(
        self, runs: Runs, stack: Stack, source_url: str
    ) -> None:
        del stack  # it reads the source
        everyone = names(*[(f"e{n}@example.com", None) for n in range(1, 12)])
        gone = names(("e11@example.com", None))
        to = self._run(runs, source_url, "first")
        assert to[LANE].of("add") == to["replaced"].of("replace") == everyone

        execute(source_url, "delete from customers where id = 11")
        to = self._run(
            runs, source_url, "cut", "insert into customers values (5.5, 'new@example.com')"
        )
        assert to[LANE].calls == [("add", names(("new@example.com", None)))]
        assert to["replaced"].calls == []
        state, error = (runs.book.lane("replaced", "cut")[k] for k in ("state", "error"))
        assert state == "failed"
        assert error.startswith("The source changed while a lost batch was read again")

        # Where none came in, whoever is gone is gone.
        to = self._run(runs, source_url, "whole", "update customers set email = email")
        assert to[LANE].calls == [("remove", gone)]
        assert len(to["replaced"].of("replace")) == 11

    def _run(
        self, runs: Runs, source_url: str, job: str, meanwhile: str = ""
    ) -> dict[str, Platform]:
        """`meanwhile`: what happens to the source between two readings."""
        runs.book.open(KEPT, REPLACED, job_id=job)
        runs.worker.dispatch.extract(job)
        wait_for(lambda: runs.book.job(job)["stream"] == "ended")
        epoch, lanes = runs.book.job(job)["epoch"], (LANE, "replaced")
        if meanwhile:
            execute(source_url, meanwhile)
            runs.worker.payloads.clear(job)
            batch = runs.book.batch(LANE, job_id=job)
            todo = deliver(runs.worker, runs.settings, lambda *_: Platform(), batch)
            runs.worker.dispatch.follow(todo)
            wait_for(lambda: runs.worker.payloads.take(job, epoch, 0, "meta"))
        to = {lane: runs.send(job, to=Platform(), lane=lane) for lane in lanes}
        for lane in lanes:
            runs.close(job, to[lane], lane=lane)
        return to


class TestTheReleaseBefore:
    @pytest.mark.parametrize(
        "progress", [{"done": 1, "accepted": 1, "rejected": {}}, {"done": 2, "accepted": 2}]
    )
    def test_its_progress_is_none(self, runs: Runs, progress: dict[str, Any]) -> None:
        job = runs.read([A, B])
        with runs.book.ledger.transaction() as db:
            db.execute(
                "update penstock.delivery set progress = %s where job_id = %s",
                (Jsonb(progress), job),
            )
        assert runs.send(job).calls == [("add", names(A, B))]
        assert runs.book.figures(LANE, job) == {"rows": 2, "accepted": 2}
