"""A batch counts once for a lane, whoever sends it and however often."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.contract import LaneOutcome, Tally
from penstock.ledger import Next
from penstock.ledger.deliveries import Claim
from sandbox.servers import Postgres
from tests.builders import FILES, GOOGLE, JOB, META, Books, books, database


@pytest.fixture(scope="module")
def shared_url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def book(shared_url: str) -> Iterator[Books]:
    with books(shared_url, max_crashes=2) as found:
        yield found


class TestClaim:
    def test_one_holder_at_a_time(self, book: Books) -> None:
        book.open()
        book.read()
        with ThreadPoolExecutor(8) as pool:
            claims = list(
                pool.map(
                    lambda n: book.ledger.deliveries.claim(book.batch("meta"), f"h{n}"), range(8)
                )
            )
        (claim,) = [c for c in claims if c is not None]
        assert not isinstance(claim, Next)
        assert (claim.rows, claim.view, claim.kind, claim.epoch) == (10, "meta", "meta", 1)
        assert book.ledger.deliveries.renew(claim)

    def test_a_worker_that_lost_its_lease_hears_of_it_and_its_progress_is_kept(
        self, book: Books
    ) -> None:
        book.open()
        book.read()
        zombie = book.ledger.deliveries
        lost = book.claim("meta", by=book.hasty)
        assert book.hasty.deliveries.renew(lost, {"done": 4})
        heir = zombie.claim(book.batch("meta"), "heir")
        assert heir is not None
        assert not isinstance(heir, Next)
        assert heir.progress == {"done": 4}
        assert not zombie.renew(lost)
        assert zombie.settle(heir, Tally(accepted=10)) is not None
        assert zombie.settle(lost, Tally(accepted=10)) is None

    def test_nor_may_it_say_where_the_lane_goes(self, book: Books) -> None:
        book.open()
        book.read()
        lost = book.claim("meta", by=book.hasty)
        heir = book.ledger.deliveries.claim(book.batch("meta"), "heir")
        assert isinstance(heir, Claim)
        for ledger in (book.ledger, book.hasty):
            assert ledger.deliveries.remember(lost, {"audience": "lost"}) is None
        assert book.lane("meta")["memo"] == {}
        found = {"audience": "found"}
        assert book.ledger.deliveries.remember(heir, found) == found

    def test_not_even_where_nobody_has_taken_over_yet(self, book: Books) -> None:
        book.open()
        book.read()
        lost = book.claim("meta", by=book.hasty)
        assert book.ledger.deliveries.remember(lost, {"audience": "lost"}) is None
        assert book.lane("meta")["memo"] == {}

    def test_there_is_none_of_what_is_not_there(self, book: Books) -> None:
        book.open()
        book.read()
        for batch in (
            book.batch("meta", 1),
            book.batch("google"),
            book.batch("meta", generation=2),
            book.batch("meta", job_id="nope"),
        ):
            assert book.ledger.deliveries.claim(batch, "h") is None

    def test_a_batch_that_kills_its_workers_counts_as_failed(self, book: Books) -> None:
        book.open()
        book.read()
        for _ in range(3):
            book.claim("meta", by=book.hasty)
        given_up = book.ledger.deliveries.claim(book.batch("meta"), "h")
        assert isinstance(given_up, Next)
        assert given_up.drop == [(1, 0, "meta")]
        book.close("meta")
        assert book.figures("meta") == {"rows": 10, "failed": 10}
        assert book.lane("meta")["reasons"] == {"the worker died 3 times on it": 10}

    def test_a_file_with_a_batch_that_kills_its_workers_fails_whole(self, book: Books) -> None:
        book.open(META, FILES)
        book.read(3)
        for _ in range(3):
            book.claim("files", 1, by=book.hasty)
        given_up = book.ledger.deliveries.claim(book.batch("files", 1), "h")
        assert isinstance(given_up, Next)
        assert [lane for _, lane, _, _ in given_up.close] == ["files"]
        assert book.close("files", LaneOutcome(lost_to="failed"))["state"] == "failed"
        assert "died 3 times on one batch of the file" in book.lane("files")["error"]
        assert book.figures("files") == {"rows": 30, "failed": 30}


class TestSettle:
    def test_it_counts_once_at_once(self, book: Books) -> None:
        book.open()
        book.read()
        claim = book.claim("meta")
        with ThreadPoolExecutor(8) as pool:
            done = list(
                pool.map(
                    lambda _: book.ledger.deliveries.settle(claim, Tally(accepted=10)), range(8)
                )
            )
        (todo,) = [d for d in done if d is not None]
        assert todo.close == [("meta", "meta", 0, 1)]
        assert todo.drop == [(1, 0, "meta")]
        book.close("meta")
        assert book.figures("meta") == {"rows": 10, "accepted": 10}

    def test_figures_and_reasons_are_summed(self, book: Books) -> None:
        book.open()
        book.read(2)
        for seq in (0, 1):
            tally = Tally(accepted=4, unusable={"email: not an e-mail address": 3})
            tally.count("rejected", 3, "bad hash")
            tally.count("skipped", 2, "no usable identifier")
            tally.count("failed", 1, f"timeout {seq}")
            book.deliver("meta", seq, tally=tally)
        book.close("meta")
        assert book.figures("meta") == {
            "rows": 20, "accepted": 8, "rejected": 6, "skipped": 4, "failed": 2,
        }  # fmt: skip
        status = book.ledger.jobs.status(JOB)["lanes"][0]
        assert status["reasons"] == [
            {"reason": "bad hash", "count": 6},
            {"reason": "no usable identifier", "count": 4},
            {"reason": "timeout 0", "count": 1},
            {"reason": "timeout 1", "count": 1},
        ]
        assert status["details"] == {"unusable_values": {"email: not an e-mail address": 6}}

    @pytest.mark.parametrize(
        "tally",
        [Tally(accepted=9), Tally(accepted=11), Tally(accepted=9, failed=1),
         Tally(accepted=10, reasons={"why": 1})],
    )  # fmt: skip
    def test_a_tally_that_does_not_add_up_is_refused(self, book: Books, tally: Tally) -> None:
        book.open()
        book.read()
        claim = book.claim("meta")
        with pytest.raises(ValueError, match="the tally of batch 0 counts"):
            book.ledger.deliveries.settle(claim, tally)
        assert book.delivery("meta", 0)["state"] == "pending"
        assert book.lane("meta")["accepted"] == 0

    def test_a_payload_goes_when_the_last_lane_that_reads_it_has_settled(self, book: Books) -> None:
        book.open(META, META, GOOGLE)
        book.read()
        assert [t.drop for t in book.deliver("meta") if t] == [[]]
        assert [t.drop for t in book.deliver("google") if t] == [[(1, 0, "google")]]
        assert [t.drop for t in book.deliver("meta-2") if t] == [[(1, 0, "meta")]]


class TestSerialLanes:
    def test_one_batch_at_a_time_and_the_next_is_handed_on(self, book: Books) -> None:
        book.open(GOOGLE, META)
        book.read(3)
        claim = book.claim("google", 1)
        for seq in (2, 0):
            assert book.ledger.deliveries.claim(book.batch("google", seq), "h") is None
            assert book.delivery("google", seq)["deferred"]
        todo = book.ledger.deliveries.settle(claim, Tally(accepted=10))
        assert todo is not None
        assert todo.deliver == [("google_ads", "google", 0, 1)]
        (todo,) = book.deliver("google", 0)
        assert todo is not None
        assert todo.deliver == [("google_ads", "google", 2, 1)]
        # Another lane of the job is not held up by it.
        book.claim("meta", 0)
        book.claim("meta", 1)

    def test_a_dead_holder_holds_nobody_up(self, book: Books) -> None:
        book.open(GOOGLE)
        book.read(2)
        book.claim("google", 0, by=book.hasty)
        book.claim("google", 1)


class TestSnooze:
    def test_a_batch_given_back_is_not_taken_before_its_time(self, book: Books) -> None:
        book.open()
        book.read(2)
        claim = book.claim("meta")
        book.ledger.deliveries.snooze(claim, 60, {"done": 3}, tries=2, throttled=False)
        assert book.ledger.deliveries.claim(book.batch("meta"), "h") is None
        book.claim("meta", 1)  # which has no part in it

    def test_after_its_time_it_goes_on_where_it_was(self, book: Books) -> None:
        book.open()
        book.read()
        claim = book.claim("meta")
        book.ledger.deliveries.snooze(claim, 0, {"done": 3}, tries=2, throttled=False)
        again = book.claim("meta")
        assert (again.progress, again.tries) == ({"done": 3}, 2)
        assert book.delivery("meta", 0)["crashes"] == 0

    def test_throttling_holds_the_whole_lane(self, book: Books) -> None:
        book.open(META, GOOGLE)
        book.read(2)
        claim = book.claim("meta")
        book.ledger.deliveries.snooze(claim, 60, {}, tries=0, throttled=True)
        assert book.ledger.deliveries.claim(book.batch("meta", 1), "h") is None
        lane, delivery = book.lane("meta"), book.delivery("meta", 1)
        assert delivery["due_at"] == lane["not_before"]
        book.claim("google", 0)

    def test_a_lost_payload_gives_the_batch_back(self, book: Books) -> None:
        book.open()
        book.read()
        book.ledger.deliveries.snooze(book.claim("meta"), 0, {}, tries=1, throttled=False)
        todo = book.ledger.deliveries.missing(book.claim("meta"))
        assert todo == Next(JOB, refill=[(0, 1)])
        book.claim("meta")
        assert book.delivery("meta", 0)["crashes"] == 0


class TestRemember:
    def test_the_first_of_two_ids_wins(self, book: Books) -> None:
        book.open()
        book.read(2)
        first, second = book.claim("meta", 0), book.claim("meta", 1)
        assert book.ledger.deliveries.remember(first, {"session": 1}) == {"session": 1}
        kept = book.ledger.deliveries.remember(second, {"session": 2, "account": 3})
        assert kept == {"session": 1, "account": 3}
        assert book.ledger.deliveries.settle(first, Tally(accepted=10)) is not None
        assert book.lane("meta")["memo"] == kept


class TestFailLane:
    def test_the_others_go_on(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease, 3)
        book.deliver("google", 0)
        busy = book.claim("google", 1)
        todo = book.ledger.deliveries.fail_lane(book.batch("google", 1), "no such list")
        assert [lane for _, lane, _, _ in todo.close] == ["google"]
        assert not book.ledger.deliveries.renew(busy)
        assert book.ledger.deliveries.settle(busy, Tally(accepted=10)) is None
        # The second of two workers that were told the same: the first reason stands.
        book.ledger.deliveries.fail_lane(book.batch("google", 2), "another reason")
        assert book.lane("google")["error"] == "no such list"
        book.record(lease)
        book.ledger.stream.end(lease)
        book.deliver("meta", 0, 1, 2, 3)
        assert book.close("google")["state"] == "failed"
        assert book.close("meta")["state"] == "succeeded"
        assert book.figures("google") == {"rows": 40, "accepted": 10, "failed": 30}
        assert book.lane("google")["reasons"] == {"no such list": 30}
        assert book.figures("meta") == {"rows": 40, "accepted": 40}
        assert book.ledger.jobs.finish(JOB) == "partial"

    def test_payloads_that_only_it_read_go(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease, 2)
        todo = book.ledger.deliveries.fail_lane(book.batch("google"), "no such list")
        assert sorted(todo.drop) == [(1, 0, "google"), (1, 1, "google")]

    def test_when_all_have_failed_the_stream_ends(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease, 2)
        book.ledger.deliveries.fail_lane(book.batch("google"), "no such list")
        assert book.ledger.stream.renew(lease)
        book.ledger.deliveries.fail_lane(book.batch("meta"), "no such audience")
        assert not book.ledger.stream.renew(lease)
        assert book.job()["stream"] == "ended"
        for lane in ("meta", "google"):
            book.close(lane)
            assert book.figures(lane) == {"rows": 20, "failed": 20}
        assert book.ledger.jobs.finish(JOB) == "failed"
