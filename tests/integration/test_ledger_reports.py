"""What a lane's batches and its closing leave beside the figures: rejected rows by their keys, and
requests whose verdict comes late. Each counts once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from penstock.contract import LaneOutcome, Rejection, Tally
from penstock.errors import JobExistsError, UnknownJobError
from penstock.ledger.closings import Closing
from penstock.ledger.mirrors import Seen, stage
from penstock.ledger.restarts import start_over
from penstock.ledger.settling import Beside
from sandbox.servers import Postgres
from tests.builders import GOOGLE, JOB, META, ROWS, Books, books, database, execute, spec


@pytest.fixture(scope="module")
def shared_url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def book(shared_url: str) -> Iterator[Books]:
    with books(shared_url, report_rows=20_000) as found:
        yield found


@pytest.fixture
def small(shared_url: str) -> Iterator[Books]:
    with books(shared_url, report_rows=5) as found:
        yield found


def rejected(seq: int, rows: int) -> list[Rejection]:
    return [Rejection(f"{seq}.{n}", "email", "not an address") for n in range(rows)]


def settle(book: Books, seq: int, *, lane: str = "meta", **beside: Any) -> None:
    claim = book.claim(lane, seq)
    done = book.ledger.deliveries.settle(claim, Tally(accepted=claim.rows), Beside(**beside))
    assert done is not None


def told(book: Books, lane: str | None = None) -> list[str]:
    return [row["row"] for row in book.ledger.reports.rejections(JOB, lane)]


class TestReport:
    def test_more_than_a_page_in_the_order_of_the_source(self, book: Books) -> None:
        """A page ends in the middle of a batch, and another where a batch does."""
        book.open()
        book.read(3)
        sizes = (3_000, 7_000, 1)
        for seq in (1, 2, 0):
            settle(book, seq, rejections=rejected(seq, sizes[seq]))
        wanted = [f"{seq}.{n}" for seq, size in enumerate(sizes) for n in range(size)]
        assert told(book) == wanted
        assert book.ledger.reports.not_kept(JOB) == 0
        assert next(book.ledger.reports.rejections(JOB)) == {
            "lane": "meta", "row": "0.0", "field": "email", "reason": "not an address",
        }  # fmt: skip

    def test_a_page_that_is_full_and_the_last(self, book: Books) -> None:
        book.open()
        book.read()
        settle(book, 0, rejections=rejected(0, 5_000))
        assert len(told(book)) == 5_000

    def test_a_lane_has_room_for_so_many_and_the_rest_is_counted(self, small: Books) -> None:
        small.open(GOOGLE, META)
        small.read(3)
        settle(small, 0, rejections=rejected(0, 3))
        assert (told(small), small.ledger.reports.not_kept(JOB)) == (["0.0", "0.1", "0.2"], 0)
        settle(small, 1, rejections=rejected(1, 4))
        settle(small, 2, rejections=rejected(2, 10))
        assert told(small) == ["0.0", "0.1", "0.2", "1.0", "1.1"]
        assert small.ledger.jobs.status(JOB)["lanes"][1]["reported"] == 5
        # The other lane's room is its own.
        settle(small, 0, lane="google", rejections=rejected(7, 6))
        assert told(small, "google") == [f"7.{n}" for n in range(5)]
        not_kept = small.ledger.reports.not_kept
        assert (not_kept(JOB, "meta"), not_kept(JOB, "google"), not_kept(JOB)) == (12, 1, 13)
        assert [row["lane"] for row in small.ledger.reports.rejections(JOB)] == (
            ["google"] * 5 + ["meta"] * 5
        )

    def test_room_for_none(self, shared_url: str) -> None:
        with books(shared_url, report_rows=0) as book:
            book.open()
            book.read()
            settle(book, 0, rejections=rejected(0, 3))
            assert (told(book), book.ledger.reports.not_kept(JOB)) == ([], 3)

    def test_a_batch_that_is_settled_twice_is_told_once(self, small: Books) -> None:
        small.open()
        small.read(2)
        claim = small.claim("meta")
        beside = Beside(rejections=rejected(0, 4), requests=[("r0", 4)])
        with ThreadPoolExecutor(4) as pool:
            done = list(
                pool.map(
                    lambda _: small.ledger.deliveries.settle(
                        claim, Tally(accepted=claim.rows), beside
                    ),
                    range(4),
                )
            )
        assert len([each for each in done if each is not None]) == 1
        assert (len(told(small)), small.ledger.reports.not_kept(JOB)) == (4, 0)

    def test_what_is_not_there_is_said(self, book: Books) -> None:
        book.open(GOOGLE, META)
        with pytest.raises(UnknownJobError, match=r"^There is no job 'nope'\.$"):
            list(book.ledger.reports.rejections("nope"))
        with pytest.raises(
            UnknownJobError, match=r"^Job 'job-1' has no lane 'files'; it has google, meta\.$"
        ):
            list(book.ledger.reports.rejections(JOB, "files"))
        assert list(book.ledger.reports.rejections(JOB)) == []

    def test_a_stream_that_starts_over_forgets_it(self, small: Books) -> None:
        small.open()
        small.read(2)
        settle(small, 0, rejections=rejected(0, 7), requests=[("r0", 1)])
        with small.ledger.transaction() as db:
            start_over(db, JOB)
        assert (told(small), small.ledger.reports.not_kept(JOB)) == ([], 0)
        assert small.one("select count(*) as n from penstock.request") == {"n": 0}
        small.record(small.lease(), 1)
        claim = small.claim("meta", generation=2)
        beside = Beside(rejections=rejected(0, 4))
        assert small.ledger.deliveries.settle(claim, Tally(accepted=ROWS), beside) is not None
        assert (len(told(small)), small.ledger.reports.not_kept(JOB)) == (4, 0)

    def test_to_forget_requests_reads_none_that_stay(self, book: Books) -> None:
        """Deliveries go by the thousand, and each looks for its requests."""
        book.open()
        book.read(200)
        execute(
            book.url,
            "insert into penstock.request (job_id, lane, seq, request, rows, checked) "
            f"select '{JOB}', 'meta', n / 50, 'r' || n, 1, true from generate_series(0, 9999) as n",
            "analyze penstock.request",
        )
        # What the foreign key runs for each delivery.
        plan = book.one(
            "explain (format json) delete from penstock.request "
            "where job_id = %s and lane = 'meta' and seq = 7", JOB,
        )  # fmt: skip
        found = json.dumps(plan["QUERY PLAN"])
        assert "(seq = 7)" in found
        assert '"Filter"' not in found
        assert "Seq Scan" not in found


@pytest.fixture
def closings(book: Books) -> tuple[Closing, Closing]:
    """Who holds the closing of a lane with three requests, and who lost it."""
    book.open()
    book.read(3)
    for seq in range(3):
        settle(book, seq, requests=[(f"{seq}:r", 5)])
    lost = book.closing("meta", by=book.hasty)
    heir = book.ledger.closings.claim(JOB, "meta", "another")
    assert isinstance(heir, Closing)
    return heir, lost


class TestKeep:
    def test_it_is_written_over_the_memo_and_counts_the_removed(
        self, book: Books, closings: tuple[Closing, Closing]
    ) -> None:
        held, _ = closings
        keep = book.ledger.closings.keep
        assert keep(held, {"a": 1, "b": 1}, 3)
        assert keep(held, {"b": 2}, -1)
        assert keep(held, {}, 5)
        assert book.lane("meta")["memo"] == {"a": 1, "b": 2}
        assert book.lane("meta")["removed"] == 7
        book.ledger.closings.snooze(held, 0, attempt=False)
        again = book.closing("meta")
        assert (again.memo, again.removed) == ({"a": 1, "b": 2}, 7)

    def test_not_for_who_has_lost_the_closing_nor_after_its_end(
        self, book: Books, closings: tuple[Closing, Closing]
    ) -> None:
        held, lost = closings
        assert not book.ledger.closings.keep(lost, {"a": 1}, 3)
        assert (book.lane("meta")["memo"], book.lane("meta")["removed"]) == ({}, 0)
        book.ledger.closings.close(held, LaneOutcome())
        assert not book.ledger.closings.keep(held, {"a": 1}, 3)
        assert book.lane("meta")["removed"] == 0


class TestLateVerdicts:
    def test_a_request_counts_once_and_is_asked_for_no_more(
        self, book: Books, closings: tuple[Closing, Closing]
    ) -> None:
        held, lost = closings
        verbs = book.ledger.closings
        assert verbs.requests(held) == ["0:r", "1:r", "2:r"]
        assert verbs.requests(held, 2) == ["0:r", "1:r"]
        verdicts = {"0:r": {"bad": 2, "worse": 1}, "1:r": {}, "unheard of": {"bad": 5}}
        with ThreadPoolExecutor(6) as pool:
            told = list(pool.map(lambda n: verbs.checked((held, lost)[n % 2], verdicts), range(6)))
        assert sorted(told) == [(0, 0)] * 5 + [(3, 0)]
        assert verbs.requests(held) == ["2:r"]
        assert book.figures("meta") == {"rows": 30, "accepted": 27, "rejected": 3}
        assert book.lane("meta")["reasons"] == {"bad": 2, "worse": 1}

    def test_no_more_rows_than_the_request_had(
        self, book: Books, closings: tuple[Closing, Closing]
    ) -> None:
        """A platform may count one row for several reasons."""
        held, _ = closings
        assert book.ledger.closings.checked(held, {"0:r": {"bad": 4, "worse": 4}}) == (5, 0)
        assert book.lane("meta")["reasons"] == {"bad": 4, "worse": 1}
        assert book.figures("meta") == {"rows": 30, "accepted": 25, "rejected": 5}

    def test_the_closing_s_own_bring_no_rows_and_are_told_apart(
        self, book: Books, closings: tuple[Closing, Closing]
    ) -> None:
        held, _ = closings
        verbs = book.ledger.closings
        verbs.ask_after(held, [])
        for _ in range(2):
            verbs.ask_after(held, ["0:s", "0:r"])  # the second is a batch's, and stays so
        assert verbs.requests(held) == ["0:r", "0:s", "1:r", "2:r"]
        verdicts = {"0:s": {"bad": 4}, "0:r": {"bad": 1}}
        assert verbs.checked(held, verdicts) == (1, 4)
        assert verbs.checked(held, verdicts) == (0, 0)
        assert book.figures("meta") == {"rows": 30, "accepted": 29, "rejected": 1}

    def test_another_lane_s_are_not_touched(self, book: Books) -> None:
        book.open(GOOGLE, META)
        book.read()
        settle(book, 0, requests=[("r", 5)])
        settle(book, 0, lane="google", requests=[("r", 5)])
        held = book.closing("google")
        assert book.ledger.closings.checked(held, {"r": {"bad": 1}}) == (1, 0)
        assert book.ledger.closings.requests(replace(held, lane="meta")) == ["r"]
        assert book.lane("meta")["rejected"] == 0

    def test_a_mirror_s_batch_is_in_doubt_and_no_other(self, book: Books) -> None:
        book.open()
        book.read(3)
        mirror = book.ledger.mirrors.take(JOB, "meta", "target")
        assert mirror is not None
        for seq in range(3):
            batch, seen = book.batch("meta", seq), Seen([(bytes([seq]) * 16, bytes(34))])
            settle(
                book, seq, requests=[(f"{seq}:r", 5)],
                also=lambda db, of=batch, what=seen: stage(db, mirror.mirror_id, of, what),
            )  # fmt: skip
        held = book.closing("meta")
        book.ledger.closings.checked(held, {"1:r": {"bad": 1}, "2:r": {}})
        rows = book.one("select array_agg(doubted order by seq) as d from penstock.mirror_added")
        assert rows["d"] == [False, True, False]


def test_a_job_with_the_digest_of_another_release_is_the_same_if_its_spec_is(book: Books) -> None:
    jobs = book.ledger.jobs
    assert jobs.submit(JOB, spec(META))
    execute(book.url, "update penstock.job set digest = 'made otherwise'")
    assert not jobs.submit(JOB, spec(META))
    with pytest.raises(JobExistsError):
        jobs.submit(JOB, spec(GOOGLE))
    jobs.refuse("refused", "nightly", {"name": "nightly"}, "No.")
    with pytest.raises(JobExistsError):
        jobs.submit("refused", spec(META))
