"""Who comes too late, or a second time, changes nothing; who does not get on does not pile up."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.contract import Artifact, LaneOutcome, Tally
from penstock.ledger import Next
from penstock.ledger.base import in_flight
from penstock.ledger.closings import Closing
from penstock.ledger.parts import PART_BYTES
from penstock.ledger.stream import StreamLease
from penstock.routes import LANE_QUEUES
from tests.builders import FILES, GOOGLE, JOB, META, Books


def everything(book: Books) -> dict[str, list[dict[str, Any]]]:
    with book.ledger.transaction() as db:
        return {
            "jobs": db.execute("select * from penstock.job order by job_id").fetchall(),
            "lanes": db.execute("select * from penstock.lane order by job_id, idx").fetchall(),
            "deliveries": db.execute(
                "select * from penstock.delivery order by job_id, lane, seq"
            ).fetchall(),
        }


class TestRefusingStore:
    """A piece that lies in Redis frees the window only as long as parts are taken out of it."""

    @staticmethod
    def _in_flight(book: Books) -> int:
        with book.ledger.transaction() as db:
            return in_flight(db, JOB)

    @staticmethod
    def _ready(book: Books, *seqs: int) -> list[Next | None]:
        return [book.ledger.parts.ready(book.claim("files", s), PART_BYTES, 0) for s in seqs]

    @staticmethod
    def _refused(book: Books, seq: int) -> None:
        claim = book.claim("files", seq)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.release(claim, part, 0, attempt=True)

    @staticmethod
    def _store(book: Books, seq: int) -> Next:
        claim = book.claim("files", seq)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        todo = book.ledger.parts.settle(claim, part)
        assert todo is not None
        return todo

    def test_the_stream_parks_until_the_part_is_stored(self, book: Books) -> None:
        book.open(FILES, window=4)
        lease = book.lease()
        book.record(lease)
        self._ready(book, 0)
        assert self._in_flight(book) == 0
        self._refused(book, 0)
        for seq in range(1, 5):
            book.record(lease)
            self._ready(book, seq)
            assert self._in_flight(book) == seq
        assert book.ledger.stream.park(lease)
        assert self._store(book, 0).extract
        assert (self._in_flight(book), book.lane("files")["released"]) == (0, 5)
        assert book.job()["stream"] == "waiting"

    def test_a_piece_that_becomes_ready_does_not_wake_the_stream(self, book: Books) -> None:
        book.open(FILES, window=2)
        lease = book.lease()
        book.record(lease)
        self._ready(book, 0)
        self._refused(book, 0)
        book.record(lease, 2)
        assert book.ledger.stream.park(lease)
        assert [todo.extract for todo in self._ready(book, 1, 2) if todo] == [False, False]
        assert book.job()["stream"] == "parked"

    def test_each_of_two_parts_put_off_keeps_the_window(self, book: Books) -> None:
        book.open(FILES, window=4)
        lease = book.lease()
        book.record(lease, 2)
        self._ready(book, 0, 1)
        claims = [book.claim("files", seq) for seq in (0, 1)]
        parts = [book.ledger.parts.cut(claim) for claim in claims]
        for claim, part in zip(claims, parts, strict=True):
            assert part is not None
            book.ledger.parts.release(claim, part, 600, attempt=True)
        book.record(lease, 3)
        self._ready(book, 2, 3, 4)
        assert self._in_flight(book) == 3
        assert book.ledger.stream.park(lease)
        opened = []
        for claim, part in zip(claims, parts, strict=True):
            assert part is not None
            todo = book.ledger.parts.settle(claim, part)
            assert todo is not None
            opened.append((todo.extract, self._in_flight(book)))
        assert opened == [(False, 3), (True, 0)]


class TestClosing:
    LATE = LaneOutcome(artifacts=[Artifact("bucket", "key", "https://x", 1, 20, "00", "")])

    def _overtaken_by_a_new_start(self, book: Books) -> Closing:
        book.open(GOOGLE, META, source_key=None)
        book.read(2)
        book.deliver("google", 0, 1)
        closing = book.closing("google")
        assert book.ledger.deliveries.missing(book.claim("meta", 0)) == Next(JOB, extract=True)
        return closing

    @pytest.mark.parametrize("lost_to", [None, "failed"])
    def test_of_a_stream_that_started_over_is_void(self, book: Books, lost_to: Any) -> None:
        closing = self._overtaken_by_a_new_start(book)
        before = everything(book)
        late = LaneOutcome(artifacts=self.LATE.artifacts, lost_to=lost_to)
        assert book.ledger.closings.close(closing, late) is None
        assert everything(book) == before
        assert book.lane("google")["state"] == "open"
        assert not book.ledger.closings.renew(closing)

    def test_of_a_stream_read_again_in_part_moves_no_row(self, book: Books) -> None:
        closing = self._overtaken_by_a_new_start(book)
        book.record(book.lease())
        again = book.claim("google", generation=2)
        assert book.ledger.deliveries.settle(again, Tally(accepted=10)) is not None
        before = everything(book)
        assert book.ledger.closings.close(closing, LaneOutcome(lost_to="failed")) is None
        assert everything(book) == before
        assert book.figures("google") == {"rows": 10, "accepted": 10}

    def test_the_lane_closes_again_with_what_was_read_again(self, book: Books) -> None:
        late = self._overtaken_by_a_new_start(book)
        book.read(3)
        for seq in range(3):
            claim = book.claim("google", seq, generation=2)
            book.ledger.deliveries.settle(claim, Tally(accepted=10))
        closing = book.closing("google")  # the lease of the late one is no hindrance
        assert (closing.rows, closing.tries) == (30, 0)
        written = book.ledger.closings.close(closing, LaneOutcome())
        assert written is not None
        assert written["accepted"] == 30
        # Written once, it is told to whoever comes after.
        assert book.ledger.closings.close(late, self.LATE) == written
        assert book.lane("google")["artifacts"] == []

    @pytest.mark.parametrize("lost_to", [None, "failed"])
    def test_that_is_another_s_by_now_changes_nothing(self, book: Books, lost_to: Any) -> None:
        book.open(GOOGLE)
        book.read(2)
        book.deliver("google", 0, 1)
        slow = book.closing("google", by=book.hasty)
        heir = book.ledger.closings.claim(JOB, "google", "another")
        assert isinstance(heir, Closing)
        before = everything(book)
        late = LaneOutcome(error="late", lost_to=lost_to)
        assert book.ledger.closings.close(slow, late) is None
        assert everything(book) == before
        written = book.ledger.closings.close(heir, LaneOutcome())
        assert written is not None
        assert written["state"] == "succeeded"
        assert book.figures("google") == {"rows": 20, "accepted": 20}


class TestSourceThatIsGone:
    """A refill finds it, after the stream had been read to its end."""

    def test_a_lane_that_has_all_goes_on_and_one_that_lacks_a_batch_fails(
        self, book: Books
    ) -> None:
        book.open(GOOGLE, META)
        book.read(2)
        book.deliver("google", 0, 1)
        # Google's job runs meanwhile; the lane is open and polled.
        book.ledger.closings.snooze(book.closing("google"), 30, attempt=False)
        book.deliver("meta", 0)
        assert book.ledger.deliveries.missing(book.claim("meta", 1)).refill == [(1, 1)]
        todo = book.ledger.stream.fail_range(JOB, 1, "The source refused.")
        assert [lane for _, lane, _, _ in todo.close] == ["meta"]
        assert book.lane("google")["error"] is None
        assert book.lane("meta")["error"] == "The source refused."
        closing = book.closing("google")
        assert closing.error is None
        written = book.ledger.closings.close(closing, LaneOutcome())
        assert written is not None
        assert written["state"] == "succeeded"
        book.close("meta")
        assert book.figures("google") == {"rows": 20, "accepted": 20}
        assert book.figures("meta") == {"rows": 20, "accepted": 10, "failed": 10}

    def test_a_stream_not_yet_read_to_its_end_fails_every_lane(self, book: Books) -> None:
        book.open(GOOGLE, META)
        book.record(book.lease())
        book.deliver("google")
        book.ledger.stream.fail_range(JOB, 1, "The source refused.")
        assert {book.lane(x)["error"] for x in ("google", "meta")} == {"The source refused."}


class TestEcho:
    def test_a_no_to_a_batch_that_has_settled_is_not_heard(self, book: Books) -> None:
        book.open(GOOGLE, META)
        book.read()
        slow = book.claim("google", by=book.hasty)
        book.deliver("google")
        before = everything(book)
        todo = book.ledger.deliveries.fail_lane(slow.batch, "The job has been started already.")
        assert todo == Next(JOB)
        assert everything(book) == before
        assert book.close("google")["state"] == "succeeded"

    def test_nor_one_to_a_batch_that_there_is_not(self, book: Books) -> None:
        book.open(GOOGLE)
        book.read()
        before = everything(book)
        assert book.ledger.deliveries.fail_lane(book.batch("google", 7), "no") == Next(JOB)
        assert everything(book) == before


class TestLostPayload:
    def test_what_was_sent_of_the_batch_is_forgotten_with_it(self, book: Books) -> None:
        book.open(META)
        book.read()
        claim = book.claim("meta")
        assert book.ledger.deliveries.renew(claim, {"done": 6, "accepted": 6, "rejected": {}})
        assert book.ledger.deliveries.missing(claim).refill == [(0, 1)]
        assert book.claim("meta").progress == {}

    def test_a_payload_that_never_comes_back_fails_the_job(self, book: Books) -> None:
        book.open(META)
        book.read()
        for _ in range(20):
            assert isinstance(book.hasty.stream.range(JOB, 0, 1), tuple)  # its worker dies
        end = book.hasty.stream.range(JOB, 0, 1)
        assert isinstance(end, Next)
        assert [lane for _, lane, _, _ in end.close] == ["meta"]
        assert "could not be read again" in book.job()["error"]
        assert "20 attempts" in book.job()["error"]
        assert book.close("meta")["state"] == "failed"
        assert book.figures("meta") == {"rows": 10, "failed": 10}

    def test_a_refill_that_succeeds_begins_the_count_anew(self, book: Books) -> None:
        book.open(META)
        book.read()
        for _ in range(2):
            for _ in range(20):
                assert isinstance(book.hasty.stream.range(JOB, 0, 1), tuple)
            book.ledger.stream.refilled(JOB, 0, 1)
        assert book.job()["error"] is None


class TestStream:
    def test_nobody_takes_a_parked_one(self, book: Books) -> None:
        book.open(META, window=2)
        lease = book.lease()
        book.record(lease, 2)
        assert book.ledger.stream.park(lease)
        before = everything(book)
        assert book.ledger.stream.lease(JOB) is None
        assert everything(book) == before
        # Its window opens it, and then it is there to be taken.
        assert [todo.extract for todo in book.deliver("meta", 0) if todo] == [True]
        assert isinstance(book.ledger.stream.lease(JOB), StreamLease)

    def test_a_source_that_did_not_answer_is_not_asked_before_its_time(self, book: Books) -> None:
        book.open()
        book.ledger.stream.pause(book.lease(), 600, attempt=True)
        before = everything(book)
        assert book.ledger.stream.lease(JOB) is None
        assert everything(book) == before
        book.time_to_wake()
        assert book.lease().tries == 1

    def test_one_that_only_gave_its_slot_back_is_taken_at_once(self, book: Books) -> None:
        book.open()
        assert book.ledger.stream.pause(book.lease()) == Next(JOB, extract=True)
        assert book.lease().tries == 0


class TestSweep:
    def test_many_that_wait_in_a_long_queue_do_not_hide_what_is_lost(self, book: Books) -> None:
        book.open(GOOGLE, META)
        book.read(1)
        with book.ledger.transaction() as db:
            db.execute(
                "insert into penstock.batch (job_id, seq, generation, epoch, rows, bytes) "
                "select job_id, n, generation, epoch, rows, bytes "
                "from penstock.batch, generate_series(1, 600) as n"
            )
            db.execute(
                "insert into penstock.delivery (job_id, lane, seq, due_at) "
                "select job_id, lane, n, clock_timestamp() - interval '1 minute' "
                "from penstock.lane, generate_series(1, 600) as n where lane = 'google'"
            )
            # The one that is due last of all.
            db.execute(
                "update penstock.delivery set due_at = clock_timestamp() where lane = 'meta'"
            )
        busy = LANE_QUEUES[book.lane("google")["kind"]]
        idle = LANE_QUEUES[book.lane("meta")["kind"]]
        assert busy != idle
        found = book.ledger.sweep.deliveries(lambda queue: queue != busy)
        assert [(lane, seq) for todo in found for _, lane, seq, _ in todo.deliver] == [("meta", 0)]
