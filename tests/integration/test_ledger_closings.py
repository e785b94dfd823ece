"""When a lane may be brought to its end, by whom, and what is written of it: once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.contract import Artifact, LaneOutcome, Tally
from penstock.ledger.closings import Closing
from tests.builders import FILES, GOOGLE, JOB, META, Books


class TestClaim:
    def test_not_before_the_stream_has_ended_and_all_is_settled(self, book: Books) -> None:
        claim = book.ledger.closings.claim
        assert claim(JOB, "meta", "h") is None
        book.open()
        assert claim(JOB, "meta", "h") is None
        assert claim(JOB, "nope", "h") is None
        lease = book.lease()
        book.record(lease, 2)
        book.deliver("meta", 0)
        assert claim(JOB, "meta", "h") is None
        book.ledger.stream.end(lease)
        assert claim(JOB, "meta", "h") is None
        book.deliver("meta", 1)
        closing = book.closing("meta")
        assert (closing.rows, closing.accepted, closing.error) == (20, 20, None)
        assert not closing.cancelled

    def test_a_lane_that_fails_closes_while_the_stream_goes_on(self, book: Books) -> None:
        book.open(META, GOOGLE)
        lease = book.lease()
        book.record(lease)
        claim = book.claim("google")
        book.ledger.deliveries.remember(claim, {"job": "customers/1/jobs/5"})
        book.ledger.deliveries.fail_lane(book.batch("google"), "no such list")
        closing = book.closing("google")
        assert (closing.error, closing.memo) == ("no such list", {"job": "customers/1/jobs/5"})
        assert book.ledger.stream.renew(lease)

    def test_one_holder_at_a_time(self, book: Books) -> None:
        book.open()
        book.read(0)
        with ThreadPoolExecutor(8) as pool:
            claims = list(
                pool.map(lambda n: book.ledger.closings.claim(JOB, "meta", f"h{n}"), range(8))
            )
        (closing,) = [c for c in claims if c is not None]
        assert not isinstance(closing, dict)
        assert book.ledger.closings.renew(closing)

    def test_a_dead_holder_is_followed_by_another_and_counted(self, book: Books) -> None:
        book.open()
        book.read(0)
        assert book.closing("meta", by=book.hasty).tries == 0
        assert book.closing("meta", by=book.hasty).tries == 1
        assert book.closing("meta").tries == 2

    def test_who_comes_late_gets_the_outcome(self, book: Books) -> None:
        book.open()
        book.read()
        book.deliver("meta")
        written = book.close("meta")
        assert book.ledger.closings.claim(JOB, "meta", "h") == written
        assert written == {
            "lane": "meta", "state": "succeeded", "rows": 10, "accepted": 10, "rejected": 0,
            "skipped": 0, "failed": 0,
        }  # fmt: skip


class TestSnooze:
    def test_a_platform_at_work_is_asked_again_and_costs_no_try(self, book: Books) -> None:
        book.open()
        book.read(0)
        book.ledger.closings.snooze(book.closing("meta"), 60, attempt=False)
        again = book.closing("meta")
        assert again.tries == 0
        book.ledger.closings.snooze(again, 60, attempt=True)
        again = book.closing("meta")
        assert again.tries == 1
        book.ledger.closings.snooze(again, 60, attempt=False)
        assert book.closing("meta").tries == 0

    def test_who_lost_the_lease_neither_holds_nor_puts_off_what_is_another_s(
        self, book: Books
    ) -> None:
        book.open()
        book.read(0)
        late = book.closing("meta", by=book.hasty)
        heir = book.ledger.closings.claim(JOB, "meta", "another")
        assert isinstance(heir, Closing)
        before = book.lane("meta")
        assert not book.ledger.closings.renew(late)
        book.ledger.closings.snooze(late, 0, attempt=True)
        assert book.lane("meta") == before
        assert book.ledger.closings.renew(heir)
        assert book.ledger.closings.claim(JOB, "meta", "third") is None


class TestCancelled:
    def test_what_is_on_its_way_is_waited_for(self, book: Books) -> None:
        book.open()
        book.read(2)
        claim = book.claim("meta", 0)
        book.ledger.jobs.cancel(JOB)
        assert book.ledger.closings.claim(JOB, "meta", "h") is None
        assert book.ledger.deliveries.claim(book.batch("meta", 1), "h") is None
        assert book.ledger.deliveries.settle(claim, Tally(accepted=10)) is not None
        assert book.close("meta")["state"] == "cancelled"
        assert book.figures("meta") == {"rows": 20, "accepted": 10, "skipped": 10}
        assert book.lane("meta")["reasons"] == {"cancelled": 10}

    def test_what_died_on_its_way_is_not(self, book: Books) -> None:
        book.open()
        book.read(1)
        claim = book.claim("meta", by=book.hasty)
        book.ledger.jobs.cancel(JOB)
        closing = book.closing("meta")
        # The dead worker was only slow: too late to count.
        assert book.ledger.deliveries.settle(claim, Tally(accepted=10)) is None
        book.ledger.closings.close(closing, LaneOutcome())
        assert book.figures("meta") == {"rows": 10, "skipped": 10}

    def test_a_part_that_waits_for_its_store_is_not(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        claim = book.claim("files", 0)
        book.ledger.parts.ready(claim, 10**7, 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.release(claim, part, 600, attempt=True)
        book.ledger.jobs.cancel(JOB)
        assert book.close("files")["state"] == "cancelled"
        assert book.figures("files") == {"rows": 20, "skipped": 20}

    def test_a_file_taken_back_delivered_no_row(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        claim = book.claim("files", 0)
        book.ledger.parts.ready(claim, 10**7, 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.settle(claim, part)
        book.ledger.jobs.cancel(JOB)
        assert book.close("files", LaneOutcome(lost_to="skipped"))["state"] == "cancelled"
        assert book.figures("files") == {"rows": 20, "skipped": 20}
        assert book.lane("files")["reasons"] == {"cancelled": 20}


class TestClose:
    def test_once(self, book: Books) -> None:
        book.open()
        book.read()
        book.deliver("meta")
        closing = book.closing("meta")

        def close(n: int) -> dict[str, Any]:
            lost = LaneOutcome(error="late", lost_to="failed")
            return book.ledger.closings.close(closing, LaneOutcome() if n % 2 else lost)

        with ThreadPoolExecutor(8) as pool:
            written = list(pool.map(close, range(8)))
        assert all(w == written[0] for w in written)
        assert len(book.figures("meta")) == 2  # all accepted or all failed, and the rows
        assert not book.ledger.closings.renew(closing)

    @pytest.mark.parametrize("figure", ["failed", "skipped", "rejected"])
    def test_rows_that_came_to_nothing_are_moved(self, book: Books, figure: str) -> None:
        book.open()
        book.read(2)
        tally = Tally(accepted=7)
        tally.count("rejected", 3, "bad hash")
        book.deliver("meta", 0, 1, tally=tally)
        book.close("meta", LaneOutcome(error="Google's job failed.", lost_to=figure))
        moved = {"rejected": 6, figure: 14} if figure != "rejected" else {"rejected": 20}
        assert book.figures("meta") == {"rows": 20} | moved
        assert book.lane("meta")["reasons"] == {"bad hash": 6, "Google's job failed.": 14}
        assert book.lane("meta")["state"] == "failed"

    def test_rows_are_lost_to_nothing_else(self, book: Books) -> None:
        book.open()
        book.read(0)
        with pytest.raises(ValueError, match="cannot be lost to 'accepted'"):
            book.ledger.closings.close(book.closing("meta"), LaneOutcome(lost_to="accepted"))

    def test_rows_lost_with_a_lane_that_failed_bear_its_reason(self, book: Books) -> None:
        book.open(FILES, META)
        book.read(2)
        claim = book.claim("files", 0)
        book.ledger.parts.ready(claim, 10**7, 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.settle(claim, part)
        book.ledger.deliveries.fail_lane(book.batch("files", 1), "The bucket is gone.")
        book.close("files", LaneOutcome(lost_to="failed"))
        assert book.figures("files") == {"rows": 20, "failed": 20}
        assert book.lane("files")["reasons"] == {"The bucket is gone.": 20}

    def test_a_lane_with_failed_rows_has_failed_and_says_how_many(self, book: Books) -> None:
        book.open()
        book.read()
        tally = Tally(accepted=7)
        tally.count("failed", 3, "timeout")
        book.deliver("meta", tally=tally)
        assert book.close("meta")["state"] == "failed"
        assert book.lane("meta")["error"] == "3 rows could not be delivered; see the reasons."

    def test_what_the_lane_made_and_the_platform_told(self, book: Books) -> None:
        book.open(FILES)
        book.read(0)
        made = Artifact("bucket", "key", "https://x", 5, 0, "00", "2026-11-20T00:00:00+00:00")
        book.close("files", LaneOutcome(artifacts=[made], details={"match_rate": "50-60"}))
        status = book.ledger.jobs.status(JOB)["lanes"][0]
        assert status["artifacts"] == [made.wire()]
        assert status["details"] == {"match_rate": "50-60"}
        # The outcome that goes through Redis has no link in it.
        outcome = book.ledger.closings.claim(JOB, "files", "h")
        assert "https" not in str(outcome)
        assert book.lane("files")["memo"] == {}
