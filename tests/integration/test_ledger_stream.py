"""Who may read a source, what a recorded batch means, and how a stream waits, ends or starts over."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.contract import LaneOutcome, Tally
from penstock.ledger import Next
from penstock.ledger.stream import Fenced, StreamLease
from sandbox.servers import Postgres
from tests.builders import FILES, GOOGLE, JOB, META, Books, books, database

UNKEYED: dict[str, Any] = {"source_key": None}


@pytest.fixture(scope="module")
def shared_url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def book(shared_url: str) -> Iterator[Books]:
    with books(shared_url, max_crashes=2, max_restarts=2) as found:
        yield found


class TestLease:
    def test_one_holder_at_a_time(self, book: Books) -> None:
        book.open(META, GOOGLE, META)
        with ThreadPoolExecutor(8) as pool:
            leases = list(pool.map(lambda _: book.ledger.stream.lease(JOB), range(8)))
        (lease,) = [x for x in leases if x is not None]
        assert isinstance(lease, StreamLease)
        assert (lease.epoch, lease.generation, lease.position, lease.next_seq) == (1, 1, None, 0)
        assert lease.views == ("google", "meta")
        assert book.ledger.stream.renew(lease)

    def test_the_next_holder_fences_the_last_one_off(self, book: Books) -> None:
        book.open()
        zombie = book.lease(book.hasty)
        book.record(zombie)
        book.stream_worker_dies()
        heir = book.lease()
        assert heir.epoch == zombie.epoch + 1
        assert (heir.position, heir.next_seq) == ("000010", 1)
        for verb in (
            lambda: book.ledger.stream.record(zombie, 1, 10, "x", 1),
            lambda: book.ledger.stream.in_flight(zombie),
            lambda: book.ledger.stream.park(zombie),
            lambda: book.ledger.stream.pause(zombie),
            lambda: book.ledger.stream.end(zombie),
            lambda: book.ledger.stream.fail(zombie, "x"),
        ):
            with pytest.raises(Fenced):
                verb()
        assert not book.ledger.stream.renew(zombie)
        book.ledger.stream.describe(zombie, ["of", "the", "zombie"], 5, exact=True)
        assert book.job()["columns"] is None
        book.record(heir)
        assert book.lane("meta")["rows"] == 20

    def test_a_batch_out_of_order_is_fenced(self, book: Books) -> None:
        book.open()
        lease = book.lease()
        with pytest.raises(Fenced):
            book.ledger.stream.record(lease, 1, 10, "x", 1)

    def test_there_is_none_for_what_is_not_open(self, book: Books) -> None:
        assert book.ledger.stream.lease("nope") is None
        book.open()
        book.read()
        assert book.ledger.stream.lease(JOB) is None

    def test_a_source_that_kills_its_worker_is_given_up(self, book: Books) -> None:
        book.open(META, FILES)
        book.lease(book.hasty)
        book.lease(book.hasty)
        book.record(book.lease(book.hasty))  # which is progress: the count begins anew
        book.stream_worker_dies()
        for _ in range(2):
            book.lease(book.hasty)
        ended = book.ledger.stream.lease(JOB)
        assert isinstance(ended, Next)
        assert {lane for _, lane, _, _ in ended.close} == {"meta", "files"}
        status = book.ledger.jobs.status(JOB)
        assert "died 3 times at the same place" in status["error"]
        for lane in ("meta", "files"):
            assert book.close(lane)["state"] == "failed"
            assert book.figures(lane) == {"rows": 10, "failed": 10}
        assert book.ledger.jobs.finish(JOB) == "failed"


class TestRecord:
    def test_it_hands_the_batch_to_every_lane(self, book: Books) -> None:
        book.open(META, GOOGLE, window=5)
        lease = book.lease()
        todo, in_flight = book.ledger.stream.record(lease, 0, 10, "000010", 77)
        assert sorted(todo.deliver) == [("google_ads", "google", 0, 1), ("meta", "meta", 0, 1)]
        assert in_flight == 1
        assert book.ledger.stream.in_flight(lease) == 1
        row = book.one("select * from penstock.batch where job_id = %s", JOB)
        assert (row["after_key"], row["upto_key"], row["rows"]) == (None, "000010", 10)
        assert book.job()["extracted"] == 10

    def test_a_lane_that_fails_gets_no_more_and_counts_the_rows_as_failed(
        self, book: Books
    ) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease)
        book.ledger.deliveries.fail_lane(book.batch("google"), "no such list")
        (todo,) = book.record(lease)
        assert todo.deliver == [("meta", "meta", 1, 1)]
        assert book.figures("google") == {"rows": 20, "failed": 20}
        book.close("google")
        book.record(lease)
        assert book.figures("google") == {"rows": 30, "failed": 30}
        assert book.ledger.stream.in_flight(lease) == 3

    def test_the_total_is_kept_once_it_is_known(self, book: Books) -> None:
        book.open()
        lease = book.lease()
        assert not lease.has_total
        book.ledger.stream.describe(lease, ["id"], 1000, exact=False)
        book.ledger.stream.describe(lease, ["id"], None, exact=False)
        status = book.ledger.jobs.status(JOB)
        assert (status["total"], status["total_is_estimate"]) == (1000, True)
        book.ledger.stream.describe(lease, ["id"], 900, exact=True)
        status = book.ledger.jobs.status(JOB)
        assert (status["total"], status["total_is_estimate"]) == (900, False)


class TestWindow:
    def test_a_parked_stream_is_woken_by_the_settle_that_opens_the_window(
        self, book: Books
    ) -> None:
        book.open(META, GOOGLE, window=4)
        lease = book.lease()
        book.record(lease, 4)
        assert book.ledger.stream.park(lease)
        assert book.job()["stream"] == "parked"
        # The window is that of the slowest lane.
        assert [x.extract for x in book.deliver("meta", 0, 1, 2, 3) if x] == [False] * 4
        assert [x.extract for x in book.deliver("google", 0, 1, 2) if x] == [False, True, False]
        again = book.lease()
        assert (again.position, again.next_seq) == ("000040", 4)

    def test_a_window_that_opened_meanwhile_is_not_parked_at(self, book: Books) -> None:
        book.open(window=4)
        lease = book.lease()
        book.record(lease, 4)
        book.deliver("meta", 0, 1)
        assert not book.ledger.stream.park(lease)
        book.record(lease)

    def test_a_lane_that_fails_frees_the_window(self, book: Books) -> None:
        book.open(META, GOOGLE, window=2)
        lease = book.lease()
        book.record(lease, 2)
        book.deliver("meta", 0, 1)
        assert book.ledger.stream.park(lease)
        assert book.ledger.deliveries.fail_lane(book.batch("google"), "no").extract

    def test_park_and_settle_at_once_lose_no_wake_up(self, book: Books) -> None:
        for n in range(25):
            job = f"race-{n}"
            book.open(META, job_id=job, window=2)
            lease = book.lease(job_id=job)
            book.record(lease, 2)
            claims = [book.claim("meta", seq, job_id=job) for seq in (0, 1)]
            with ThreadPoolExecutor(3) as pool:
                parking = pool.submit(book.ledger.stream.park, lease)
                settling = [
                    pool.submit(book.ledger.deliveries.settle, c, Tally(accepted=10))
                    for c in claims
                ]
                woken = sum(x.extract for x in (s.result() for s in settling) if x)
                parked = parking.result()
            # Either the stream goes on by itself, or exactly one settle has woken it.
            assert woken == int(parked)
            assert book.job(job)["stream"] == ("waiting" if parked else "reading")


class TestPause:
    def test_after_its_time_it_gives_the_slot_back(self, book: Books) -> None:
        book.open()
        lease = book.lease()
        book.record(lease)
        assert book.ledger.stream.pause(lease).extract
        again = book.lease()
        assert (again.position, again.next_seq, again.tries) == ("000010", 1, 0)

    def test_a_source_that_does_not_answer_is_tried_later(self, book: Books) -> None:
        book.open()
        lease = book.lease()
        assert not book.ledger.stream.pause(lease, 30, attempt=True).extract
        assert book.ledger.stream.lease(JOB) is None, "a late message must not burn an attempt"
        book.time_to_wake()
        again = book.lease()
        assert again.tries == 1
        book.record(again)
        assert book.job()["tries"] == 0
        assert book.job()["crashes"] == 0


class TestStartOver:
    def test_without_a_key_a_crash_begins_a_new_generation(self, book: Books) -> None:
        book.open(META, GOOGLE, **UNKEYED)
        book.record(book.lease(book.hasty), 2)
        book.stream_worker_dies()
        old = book.claim("meta", 0)
        book.ledger.deliveries.remember(old, {"session": 5})
        book.deliver("meta", 1)
        heir = book.lease()
        assert (heir.generation, heir.next_seq, heir.position) == (2, 0, None)
        assert book.figures("meta") == {}
        assert book.lane("meta")["abandoned"] == [{"session": 5}]
        assert book.job()["extracted"] == 0
        # What is under way of the old generation counts for nothing.
        deliveries = book.ledger.deliveries
        assert deliveries.settle(old, Tally(accepted=10)) is None
        assert not deliveries.renew(old)
        assert deliveries.claim(book.batch("meta", 0, generation=1), "late") is None
        assert deliveries.fail_lane(book.batch("meta", 0, generation=1), "late") == Next(JOB)
        book.record(heir, 2)
        book.ledger.stream.end(heir)
        for lane in ("meta", "google"):
            for seq in (0, 1):
                claim = book.claim(lane, seq, generation=2)
                deliveries.settle(claim, Tally(accepted=10))
            book.close(lane)
            assert book.figures(lane) == {"rows": 20, "accepted": 20}

    def test_a_lane_that_had_failed_stays_so(self, book: Books) -> None:
        book.open(META, GOOGLE, **UNKEYED)
        lease = book.lease(book.hasty)
        book.record(lease)
        book.ledger.deliveries.fail_lane(book.batch("google"), "no such list")
        book.close("google", LaneOutcome(lost_to="failed"))
        book.stream_worker_dies()
        heir = book.lease()
        assert heir.views == ("meta",)
        book.record(heir, 2)
        assert book.figures("google") == {"rows": 20, "failed": 20}

    def test_a_crash_before_the_first_batch_costs_no_generation_s_work(self, book: Books) -> None:
        book.open(**UNKEYED)
        assert book.ledger.stream.lease(JOB)
        assert book.job()["generation"] == 1

    def test_too_often_is_given_up_with_the_advice(self, book: Books) -> None:
        book.open(**UNKEYED)
        for _ in range(3):
            book.record(book.lease())
            book.stream_worker_dies()
        ended = book.ledger.stream.lease(JOB)
        assert isinstance(ended, Next)
        assert "start over 3 times" in book.job()["error"]
        assert "give the source one" in book.job()["error"]
        book.close("meta")
        assert book.figures("meta") == {"rows": 10, "failed": 10}

    def test_a_lost_payload_starts_an_unkeyed_stream_over_once(self, book: Books) -> None:
        book.open(**UNKEYED)
        book.read(2)
        first, second = book.claim("meta", 0), book.claim("meta", 1)
        assert book.ledger.deliveries.missing(first) == Next(JOB, extract=True)
        assert (book.job()["generation"], book.job()["stream"]) == (2, "waiting")
        assert book.ledger.deliveries.missing(second) == Next(JOB)
        lease = book.lease()
        assert (lease.generation, lease.next_seq) == (2, 0)

    def test_a_payload_lost_under_a_reader_fences_it_off(self, book: Books) -> None:
        book.open(**UNKEYED)
        lease = book.lease()
        book.record(lease)
        book.ledger.deliveries.missing(book.claim("meta", 0))
        with pytest.raises(Fenced):
            book.record(lease)
        assert book.lease().next_seq == 0

    def test_payloads_lost_too_often_are_given_up(self, book: Books) -> None:
        book.open(**UNKEYED)
        for generation in (1, 2, 3):
            book.record(book.lease())
            todo = book.ledger.deliveries.missing(book.claim("meta", 0, generation=generation))
        assert todo == Next(JOB, close=[("meta", "meta", 0, 1)])
        assert "start over 3 times" in book.job()["error"]

    def test_a_lane_that_has_succeeded_keeps_its_figures(self, book: Books) -> None:
        book.open(META, GOOGLE, **UNKEYED)
        book.read(2)
        book.deliver("meta", 0, 1)
        assert book.close("meta")["state"] == "succeeded"
        done = book.lane("meta")
        assert book.ledger.deliveries.missing(book.claim("google", 0)).extract
        lease = book.lease()
        assert lease.views == ("google",)
        (first, second) = book.record(lease, 2)
        assert first.deliver + second.deliver == [
            ("google_ads", "google", seq, 2) for seq in (0, 1)
        ]
        book.ledger.stream.end(lease)
        assert book.lane("meta") == done
        assert book.figures("meta") == {"rows": 20, "accepted": 20}
        for seq in (0, 1):
            claim = book.claim("google", seq, generation=2)
            book.ledger.deliveries.settle(claim, Tally(accepted=10))
        book.close("google")
        assert book.figures("google") == {"rows": 20, "accepted": 20}
        assert book.ledger.jobs.finish(JOB) == "succeeded"


class TestRefill:
    def test_the_range_of_a_batch_is_told_to_one(self, book: Books) -> None:
        book.open(META, GOOGLE)
        book.read(3)
        book.deliver("google", 1)
        found = book.ledger.stream.range(JOB, 1, 1)
        assert found is not None
        _, row = found
        assert (row["after_key"], row["upto_key"], row["rows"]) == ("000010", "000020", 10)
        assert row["views"] == ("meta",)
        assert book.ledger.stream.range(JOB, 1, 1) is None
        assert book.ledger.stream.range(JOB, 1, 2) is None
        todo = book.ledger.stream.refilled(JOB, 1, 1)
        assert todo.deliver == [("meta", "meta", 1, 1)]
        assert book.ledger.stream.range(JOB, 1, 1) is not None

    def test_a_source_that_is_gone_by_then_fails_the_job(self, book: Books) -> None:
        book.open()
        book.read(2)
        book.deliver("meta", 0)
        assert book.ledger.stream.fail_range(JOB, 2, "gone") == Next(JOB)
        assert book.ledger.stream.fail_range(JOB, 1, "gone").close
        book.close("meta")
        assert book.figures("meta") == {"rows": 20, "accepted": 10, "failed": 10}
        assert book.ledger.jobs.finish(JOB) == "failed"


class TestEnd:
    def test_what_is_settled_already_may_close(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease)
        book.deliver("meta")
        assert [lane for _, lane, _, _ in book.ledger.stream.end(lease).close] == ["meta"]
        assert book.ledger.jobs.status(JOB)["stage"] == "closing"

    def test_a_refused_source_fails_every_lane_with_its_reason(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease)
        book.deliver("meta")
        todo = book.ledger.stream.fail(lease, "The database refused the query.")
        assert {lane for _, lane, _, _ in todo.close} == {"meta", "google"}
        for lane in ("meta", "google"):
            assert book.close(lane)["state"] == "failed"
            assert book.lane(lane)["error"] == "The database refused the query."
        assert book.figures("meta") == {"rows": 10, "accepted": 10}
        assert book.figures("google") == {"rows": 10, "failed": 10}
        assert book.ledger.jobs.finish(JOB) == "failed"
        assert book.ledger.jobs.status(JOB)["error"] == "The database refused the query."
