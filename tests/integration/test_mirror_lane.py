"""A whole lane in the mode `mirror`, batches and closing, where something goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb

from penstock.contract import LaneOutcome
from penstock.ledger.deliveries import Claim
from sandbox.servers import Postgres
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, RowsRejected
from services.upload.lane import Delivery, deliver
from services.upload.platform import Checked, LaneEnd, Lot, Pace, Sent
from tests.builders import META, database, execute
from tests.harness import Stack, wait_for
from tests.lanes import LANE, MIRROR, A, B, C, Platform, Runs, names, running, sha

CREATED = {
    "connection": "meta", "account_id": "1000", "audience": "People", "create": True,
    "mode": "mirror",
}  # fmt: skip


@pytest.fixture(scope="module")
def url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def runs(url: str, redis_url: str) -> Iterator[Runs]:
    with running(url, redis_url) as runs:
        yield runs


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

    def test_and_not_before_the_platform_is_through_with_the_removals(self, runs: Runs) -> None:
        """Or it may work through them after what was to undo them."""
        runs.whole([("x", "p1")], [B])
        job = runs.read([("x", "p2")], [B])
        runs.send(job)

        def answer(lot: Lot, chunk: pa.RecordBatch) -> Sent:
            return Sent(chunk.num_rows, request="r1" if lot.action == "remove" else None)

        closing = Platform(answer, lambda _: Wait(60))
        for _ in range(2):
            assert runs.close(job, closing) is None
            assert closing.calls == [("remove", names(("p1", None)))]
        closing.at_the_end = late(0)[1]
        assert runs.close(job, closing)["state"] == "succeeded"
        assert closing.calls[1:] == [("add", names(("x", "p2")))]
        assert runs.lane(job)["details"]["removed"] == 1


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
