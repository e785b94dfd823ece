"""Whatever stands still is found, and nothing that moves is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from penstock.contract import Tally
from penstock.ledger import Next
from penstock.routes import EXTRACT_QUEUE, LANE_QUEUES
from tests.builders import FILES, GOOGLE, JOB, META, Books, spec


def empty(_: str) -> bool:
    return True


def full(_: str) -> bool:
    return False


def messages(found: list[Next]) -> list[tuple[str, int]]:
    return sorted((lane, seq) for todo in found for _, lane, seq, _ in todo.deliver)


def closes(found: list[Next]) -> list[str]:
    return sorted(lane for todo in found for _, lane, _, _ in todo.close)


class TestJobs:
    def test_a_job_that_nobody_opened(self, book: Books) -> None:
        book.ledger.jobs.submit(JOB, spec())
        assert book.ledger.sweep.jobs(empty) == []  # it is young
        book.ledger.jobs.submit("job-2", spec())
        assert Next("job-2", open=True) in book.hasty.sweep.jobs(empty)

    def test_a_stream_that_nobody_took_up(self, book: Books) -> None:
        book.hasty.jobs.submit(JOB, spec())
        book.hasty.jobs.open(JOB)
        assert book.hasty.sweep.jobs(empty) == [Next(JOB, extract=True)]

    def test_a_stream_whose_worker_died(self, book: Books) -> None:
        book.open()
        book.lease()
        assert book.hasty.sweep.jobs(empty) == []
        book.stream_worker_dies()
        assert book.hasty.sweep.jobs(empty) == [Next(JOB, extract=True)]

    def test_a_stream_in_a_long_queue_is_not_lost(self, book: Books) -> None:
        book.hasty.jobs.submit(JOB, spec())
        book.hasty.jobs.open(JOB)
        asked = []

        def not_empty(queue: str) -> bool:
            asked.append(queue)
            return False

        assert book.hasty.sweep.jobs(not_empty) == []
        assert asked == [EXTRACT_QUEUE]
        assert book.hasty.sweep.jobs(empty) == [Next(JOB, extract=True)]

    def test_a_stream_that_waits_for_very_long_is_sent_whatever_is_queued(
        self, book: Books
    ) -> None:
        book.hasty.jobs.submit(JOB, spec())
        book.hasty.jobs.open(JOB)
        self._waits_since(book, 590)
        assert book.hasty.sweep.jobs(full) == []
        self._waits_since(book, 610)
        assert book.hasty.sweep.jobs(full) == [Next(JOB, extract=True)]
        assert book.hasty.sweep.jobs(full) == []  # once, and then it waits anew

    def test_a_source_that_is_tried_later_is_left_alone_till_then(self, book: Books) -> None:
        book.open()
        book.ledger.stream.pause(book.lease(), 600, attempt=True)
        assert book.hasty.sweep.jobs(empty) == []
        book.time_to_wake()
        assert book.hasty.sweep.jobs(empty) == [Next(JOB, extract=True)]

    def test_a_parked_stream_is_not_woken_before_its_window_opens(self, book: Books) -> None:
        book.open(window=2)
        lease = book.lease()
        book.record(lease, 2)
        book.ledger.stream.park(lease)
        assert book.hasty.sweep.jobs(empty) == []

    def test_a_parked_stream_that_was_overlooked(self, book: Books) -> None:
        book.open(window=2)
        lease = book.lease()
        book.record(lease, 2)
        book.ledger.stream.park(lease)
        with book.ledger.transaction() as db:  # as an operator may
            db.execute("update penstock.lane set released = 2")
        assert book.hasty.sweep.jobs(empty) == [Next(JOB, extract=True)]
        assert book.job()["stream"] == "waiting"

    def test_a_job_whose_chord_is_gone(self, book: Books) -> None:
        book.open()
        book.read(0)
        book.close("meta")
        assert book.ledger.sweep.jobs(empty) == []  # the chord has its time first
        with book.ledger.transaction() as db:
            db.execute("update penstock.job set look_at = clock_timestamp()")
        assert book.hasty.sweep.jobs(empty) == [Next(JOB, finalize=True)]
        book.ledger.jobs.finish(JOB)
        assert book.hasty.sweep.jobs(empty) == []

    def test_two_sweeps_at_once_find_a_thing_once(self, book: Books) -> None:
        for n in range(20):
            book.ledger.jobs.submit(f"job-{n}", spec())
        with book.ledger.transaction() as db:
            db.execute("update penstock.job set created_at = created_at - interval '1 day'")
        with ThreadPoolExecutor(4) as pool:
            found = [
                t
                for todo in pool.map(lambda _: book.ledger.sweep.jobs(empty), range(4))
                for t in todo
            ]
        assert sorted(t.job_id for t in found) == sorted(f"job-{n}" for n in range(20))

    @staticmethod
    def _waits_since(book: Books, seconds: float) -> None:
        with book.ledger.transaction() as db:
            db.execute(
                "update penstock.job set wake_at = clock_timestamp() - %s * interval '1 second'",
                (seconds,),
            )


class TestDeliveries:
    def test_a_message_that_never_arrived(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease)  # in good time
        book.hasty.stream.record(lease, 1, 10, "000020", 1)
        found = book.ledger.sweep.deliveries(empty)
        assert messages(found) == [("google", 1), ("meta", 1)]
        assert book.ledger.sweep.deliveries(empty) == []

    def test_a_message_in_a_long_queue_is_not_lost(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.hasty.stream.record(lease, 0, 10, "000010", 1)
        asked = []

        def only_google_is_empty(queue: str) -> bool:
            asked.append(queue)
            return queue == LANE_QUEUES["google_ads"]

        book.hasty.stream.record(lease, 1, 10, "000020", 1)
        found = book.ledger.sweep.deliveries(only_google_is_empty)
        assert messages(found) == [("google", 0), ("google", 1)]
        # Each queue that something is due for is looked at, and once.
        assert sorted(asked) == sorted(LANE_QUEUES[kind] for kind in ("google_ads", "meta"))

    def test_a_batch_whose_worker_died_is_sent_whatever_is_queued(self, book: Books) -> None:
        book.open()
        book.read()
        book.claim("meta", by=book.hasty)
        assert messages(book.ledger.sweep.deliveries(full)) == [("meta", 0)]

    def test_a_batch_that_is_being_sent_is_left_alone(self, book: Books) -> None:
        book.open()
        lease = book.lease()
        book.hasty.stream.record(lease, 0, 10, "x", 1)
        book.claim("meta")
        assert book.hasty.sweep.deliveries(empty) == []

    def test_a_wait_that_is_over(self, book: Books) -> None:
        book.open()
        book.read(2)
        deliveries = book.ledger.deliveries
        deliveries.snooze(book.claim("meta", 0), 600, {}, tries=1, throttled=False)
        deliveries.snooze(book.claim("meta", 1), 0, {}, tries=1, throttled=False)
        assert messages(book.ledger.sweep.deliveries(full)) == [("meta", 1)]

    def test_a_lost_payload_whose_refill_was_lost(self, book: Books) -> None:
        book.open()
        book.read()
        book.hasty.deliveries.missing(book.claim("meta"))
        assert messages(book.ledger.sweep.deliveries(empty)) == [("meta", 0)]

    def test_a_part_whose_worker_died(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        for seq in (0, 1):
            book.ledger.parts.ready(book.claim("files", seq), 10**7, 0)
        part = book.hasty.parts.cut(book.claim("files", 0))
        assert part is not None
        assert messages(book.ledger.sweep.deliveries(full)) == [("files", 0)]

    def test_what_is_settled_failed_or_cancelled_is_not_sent(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.hasty.stream.record(lease, 0, 10, "x", 1)
        book.hasty.stream.record(lease, 1, 10, "y", 1)
        book.deliver("meta", 0)
        book.ledger.deliveries.fail_lane(book.batch("google"), "no")
        assert messages(book.ledger.sweep.deliveries(empty)) == [("meta", 1)]
        with book.ledger.transaction() as db:
            db.execute("update penstock.delivery set due_at = clock_timestamp()")
        book.ledger.jobs.cancel(JOB)
        assert book.ledger.sweep.deliveries(empty) == []

    def test_two_sweeps_at_once_send_a_thing_once(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        for seq in range(50):
            book.hasty.stream.record(lease, seq, 10, f"{seq:03}", 1)
        with ThreadPoolExecutor(4) as pool:
            found = [
                t for todo in pool.map(lambda _: book.ledger.sweep.deliveries(empty), range(4))
                for t in todo
            ]  # fmt: skip
        assert messages(found) == sorted(
            (lane, n) for lane in ("meta", "google") for n in range(50)
        )


class TestClosings:
    def test_a_closing_that_was_lost(self, book: Books) -> None:
        book.open(META, GOOGLE)
        book.read()
        assert closes(book.ledger.sweep.closings()) == []
        book.deliver("meta")
        self._due(book)
        assert closes(book.ledger.sweep.closings()) == ["meta"]
        assert closes(book.ledger.sweep.closings()) == []

    def test_one_that_was_taken_over_is_left_to_its_holder(self, book: Books) -> None:
        book.open()
        book.read(0)
        late = book.closing("meta", by=book.hasty)
        book.ledger.closings.claim(JOB, "meta", "another")
        book.ledger.closings.snooze(late, 0, attempt=True)
        assert closes(book.ledger.sweep.closings()) == []

    def test_a_poll_that_is_due(self, book: Books) -> None:
        book.open()
        book.read(0)
        book.ledger.closings.snooze(book.closing("meta"), 600, attempt=False)
        assert closes(book.ledger.sweep.closings()) == []
        book.ledger.closings.snooze(book.closing("meta"), 0, attempt=False)
        assert closes(book.ledger.sweep.closings()) == ["meta"]

    def test_a_closing_whose_worker_died(self, book: Books) -> None:
        book.open()
        book.read(0)
        book.closing("meta")
        self._due(book)
        assert closes(book.ledger.sweep.closings()) == []
        with book.ledger.transaction() as db:
            db.execute("update penstock.lane set close_lease = clock_timestamp()")
        assert closes(book.ledger.sweep.closings()) == ["meta"]

    def test_a_closing_that_was_never_called(self, book: Books) -> None:
        book.open()
        book.read()
        claim = book.claim("meta")
        book.ledger.deliveries.settle(claim, Tally(accepted=10))
        with book.ledger.transaction() as db:  # as an operator may
            db.execute("update penstock.lane set close_at = null")
        (todo,) = book.hasty.sweep.jobs(empty)
        assert todo.close == [("meta", "meta", 0, 1)]

    @staticmethod
    def _due(book: Books) -> None:
        with book.ledger.transaction() as db:
            db.execute(
                "update penstock.lane set close_at = clock_timestamp() where close_at is not null"
            )
