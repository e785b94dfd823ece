"""Migrations, and a job from its submit to its end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.contract import JobSpec, LaneOutcome, Tally
from penstock.errors import (
    JobExistsError,
    JobStateError,
    LedgerRefusedError,
    LedgerSchemaError,
    LedgerUnreachableError,
    UnknownJobError,
)
from penstock.ledger import Ledger
from sandbox.servers import Postgres
from tests.builders import FILES, GOOGLE, JOB, META, Books, books, document, execute, spec


def failed(reason: str = "no such audience") -> LaneOutcome:
    return LaneOutcome(error=reason, lost_to="failed")


class TestMigrations:
    def test_once_is_enough(self, ledger_url: str) -> None:
        ledger = Ledger(ledger_url)
        with pytest.raises(LedgerSchemaError, match="no tables yet; run `penstock init`"):
            ledger.check()
        with pytest.raises(LedgerSchemaError, match="run `penstock init`"):
            ledger.jobs.status(JOB)
        first = ledger.migrate()
        assert first[0] == "0001_spine.sql"
        assert ledger.migrate() == []
        ledger.check()
        ledger.close()

    def test_many_at_once_apply_each_one_once(self, ledger_url: str) -> None:
        def migrate(_: int) -> list[str]:
            ledger = Ledger(ledger_url)
            try:
                return ledger.migrate()
            finally:
                ledger.close()

        with ThreadPoolExecutor(8) as pool:
            done = [name for names in pool.map(migrate, range(8)) for name in names]
        assert len(done) == len(set(done)) > 0

    def test_an_older_schema_is_told_and_a_newer_one_serves(self, ledger_url: str) -> None:
        with books(ledger_url) as book:
            execute(book.url, "insert into penstock.migration (number) values (9999)")
            book.ledger.check()
            execute(book.url, "delete from penstock.migration where number > 0",
                    "insert into penstock.migration (number) values (0)")  # fmt: skip
            with pytest.raises(LedgerSchemaError, match="at migration 0 and this release needs"):
                book.ledger.check()

    def test_a_ledger_that_went_away_is_found_again(self, private_postgres: Postgres) -> None:
        with books(private_postgres.url) as book:
            book.open()
            private_postgres.stop("immediate")
            unreachable = Ledger(private_postgres.url)
            unreachable._pool.timeout = 0.5
            with pytest.raises(LedgerUnreachableError, match="PENSTOCK_LEDGER_URL"):
                unreachable.check()
            unreachable.close()
            private_postgres.start()
            assert book.ledger.jobs.status(JOB)["state"] == "running"

    def test_a_statement_that_fails_is_told_without_its_values(self, book: Books) -> None:
        with pytest.raises(LedgerRefusedError) as caught, book.ledger.transaction() as db:
            db.execute("select 'mary@example.com'::int")
        assert str(caught.value) == (
            "The ledger refused a statement (22P02 InvalidTextRepresentation)."
        )


class TestSubmit:
    def test_the_same_job_twice_is_one_job(self, book: Books) -> None:
        assert book.ledger.jobs.submit(JOB, spec())
        assert not book.ledger.jobs.submit(JOB, spec())
        assert [j["job_id"] for j in book.ledger.jobs.recent()] == [JOB]

    def test_many_at_once_are_one_job(self, book: Books) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: book.ledger.jobs.submit(JOB, spec()), range(8)))
        assert made.count(True) == 1

    def test_the_same_id_with_another_spec_is_refused(self, book: Books) -> None:
        book.ledger.jobs.submit(JOB, spec())
        with pytest.raises(JobExistsError, match="'job-1' exists already with a different spec"):
            book.ledger.jobs.submit(JOB, spec(batch_rows=5))
        assert book.job()["spec"]["batch_rows"] == 20_000

    def test_warnings_are_in_the_status(self, book: Books) -> None:
        book.ledger.jobs.submit(JOB, spec(), ["The unknown key x was ignored."])
        assert book.ledger.jobs.status(JOB)["warnings"] == ["The unknown key x was ignored."]

    def test_a_spec_with_keys_of_a_newer_release_is_still_worked_on(self, book: Books) -> None:
        book.ledger.jobs.submit(JOB, spec())
        execute(book.url, """update penstock.job set spec = spec || '{"priority": 5}'""")
        assert book.ledger.jobs.open(JOB) is not None
        lease = book.lease()
        book.record(lease)
        book.ledger.stream.end(lease)
        book.deliver("meta")
        assert book.close("meta")["state"] == "succeeded"


class TestOpen:
    def test_it_makes_the_lanes_in_the_order_of_the_spec(self, book: Books) -> None:
        todo = book.open(GOOGLE, META, FILES)
        assert todo.extract
        assert todo.close == [
            ("google_ads", "google", 0, 3), ("meta", "meta", 1, 3), ("s3", "files", 2, 3),
        ]  # fmt: skip
        status = book.ledger.jobs.status(JOB)
        assert (status["state"], status["stage"]) == ("running", "waiting for an extract worker")
        assert [(x["lane"], x["state"]) for x in status["lanes"]] == [
            ("google", "open"), ("meta", "open"), ("files", "open"),
        ]  # fmt: skip

    def test_again_before_the_stream_began_leaves_the_same_to_be_done(self, book: Books) -> None:
        first = book.open(META)
        assert book.ledger.jobs.open(JOB) == first

    def test_again_when_the_stream_is_read_leaves_nothing(self, book: Books) -> None:
        book.open()
        book.lease()
        assert book.ledger.jobs.open(JOB) is None

    def test_a_job_that_is_not_there(self, book: Books) -> None:
        with pytest.raises(UnknownJobError, match="There is no job 'nope'"):
            book.ledger.jobs.open("nope")
        for verb in (book.ledger.jobs.status, book.ledger.jobs.cancel, book.ledger.jobs.retry):
            with pytest.raises(UnknownJobError):
                verb("nope")


class TestRefuse:
    def test_who_sent_it_by_name_finds_the_reason(self, book: Books) -> None:
        book.ledger.jobs.refuse(JOB, "nightly", {}, "The spec has no 'source'.")
        status = book.ledger.jobs.status(JOB)
        assert (status["state"], status["error"]) == ("failed", "The spec has no 'source'.")
        with pytest.raises(JobStateError, match="mend its spec and submit it anew"):
            book.ledger.jobs.retry(JOB)

    def test_a_job_that_runs_is_not_disturbed(self, book: Books) -> None:
        book.open()
        book.ledger.jobs.refuse(JOB, "nightly", {}, "no")
        assert book.ledger.jobs.status(JOB)["state"] == "running"


class TestFinish:
    @pytest.mark.parametrize(
        ("outcomes", "state"),
        [
            ([LaneOutcome(), LaneOutcome()], "succeeded"),
            ([LaneOutcome(), failed()], "partial"),
            ([failed(), failed()], "failed"),
            ([LaneOutcome(state="skipped"), LaneOutcome()], "succeeded"),
        ],
    )
    def test_the_lanes_make_the_job_s_end_and_make_it_once(
        self, book: Books, outcomes: list[LaneOutcome], state: str
    ) -> None:
        book.open(META, META)
        book.read()
        for lane, outcome in zip(("meta", "meta-2"), outcomes, strict=True):
            book.deliver(lane)
            assert book.ledger.jobs.finish(JOB) is None
            book.close(lane, outcome)
            book.figures(lane)
        with ThreadPoolExecutor(8) as pool:
            ends = list(pool.map(lambda _: book.ledger.jobs.finish(JOB), range(8)))
        assert sorted(ends, key=str) == [None] * 7 + [state]
        status = book.ledger.jobs.status(JOB)
        assert status["state"] == status["stage"] == state
        assert status["ended_at"] is not None

    def test_rejected_rows_do_not_fail_a_lane_but_the_lane_says_so(self, book: Books) -> None:
        book.open()
        book.read()
        tally = Tally(accepted=8)
        tally.count("rejected", 2, "bad hash")
        book.deliver("meta", tally=tally)
        assert book.close("meta")["state"] == "rejected_some"
        assert book.ledger.jobs.finish(JOB) == "succeeded"
        assert book.figures("meta") == {"rows": 10, "accepted": 8, "rejected": 2}

    def test_a_lane_that_delivered_nothing_has_failed(self, book: Books) -> None:
        book.open()
        book.read()
        tally = Tally()
        tally.count("rejected", 10, "bad hash")
        book.deliver("meta", tally=tally)
        assert book.close("meta")["state"] == "failed"
        assert "rejected every row" in book.lane("meta")["error"]
        assert book.ledger.jobs.finish(JOB) == "failed"

    def test_an_empty_source_is_a_success(self, book: Books) -> None:
        book.open(META, FILES)
        book.read(0)
        book.close("meta")
        book.close("files")
        assert book.ledger.jobs.finish(JOB) == "succeeded"
        assert book.figures("meta") == {}


class TestCancel:
    def test_before_it_is_open(self, book: Books) -> None:
        book.ledger.jobs.submit(JOB, spec())
        book.ledger.jobs.cancel(JOB)
        assert book.ledger.jobs.status(JOB)["state"] == "cancelled"
        assert book.ledger.jobs.open(JOB) is None

    @pytest.mark.parametrize("stage", ["waiting", "reading", "parked", "ended"])
    def test_what_was_sent_counts_and_the_rest_is_left(self, book: Books, stage: str) -> None:
        book.open(META, FILES, window=2)
        if stage != "waiting":
            lease = book.lease()
            book.record(lease, 2)
            book.deliver("meta", 0)
            if stage == "parked":
                assert book.ledger.stream.park(lease)
            if stage == "ended":
                book.ledger.stream.end(lease)
        todo = book.ledger.jobs.cancel(JOB)
        assert {lane for _, lane, _, _ in todo.close} == {"meta", "files"}
        assert book.ledger.jobs.status(JOB)["stage"] == "cancelling"
        assert book.ledger.stream.lease(JOB) is None
        for lane in ("meta", "files"):
            closing = book.closing(lane)
            assert closing.cancelled
            assert book.ledger.closings.close(closing, LaneOutcome())["state"] == "cancelled"
        assert book.ledger.jobs.finish(JOB) == "cancelled"
        read = 0 if stage == "waiting" else 20
        sent = 0 if stage == "waiting" else 10
        want = {"rows": read, "accepted": sent, "skipped": read - sent}
        assert book.figures("meta") == {k: v for k, v in want.items() if v}
        assert book.figures("files") == ({"rows": read, "skipped": read} if read else {})

    def test_twice_is_as_once(self, book: Books) -> None:
        book.open()
        book.ledger.jobs.cancel(JOB)
        assert [lane for _, lane, _, _ in book.ledger.jobs.cancel(JOB).close] == ["meta"]

    def test_after_its_end_is_refused(self, book: Books) -> None:
        book.open()
        book.read(0)
        book.close("meta")
        book.ledger.jobs.finish(JOB)
        with pytest.raises(JobStateError, match=r"has ended already \(succeeded\)"):
            book.ledger.jobs.cancel(JOB)


class TestRetry:
    def _half_failed(self, book: Books, job_id: str = JOB) -> None:
        book.open(META, FILES, META, job_id=job_id)
        book.read(0, job_id=job_id)
        for lane, outcome in (("meta", LaneOutcome()), ("files", failed()), ("meta-2", failed())):
            closing = book.closing(lane, job_id=job_id)
            book.ledger.closings.close(closing, outcome)
        assert book.ledger.jobs.finish(job_id) == "partial"

    def test_it_is_a_new_job_of_the_lanes_that_failed(self, book: Books) -> None:
        self._half_failed(book)
        new_id, again = book.ledger.jobs.retry(JOB)
        assert new_id == "job-1.retry1"
        assert list(again.lanes()) == ["files", "meta-2"]
        status = book.ledger.jobs.status(new_id)
        assert (status["state"], status["retry_of"]) == ("submitted", JOB)
        # The message that opens it carries the same spec as the ledger holds.
        sent, _ = JobSpec.from_wire({**again.wire(), "job_id": new_id})
        assert not book.ledger.jobs.submit(new_id, sent)

    def test_twice_is_the_same_new_job_until_that_has_ended(self, book: Books) -> None:
        self._half_failed(book)
        first = book.ledger.jobs.retry(JOB)
        assert book.ledger.jobs.retry(JOB) == first
        book.ledger.jobs.open(first[0])
        assert book.ledger.jobs.retry(JOB) == first
        book.ledger.jobs.cancel(first[0])
        for lane in ("files", "meta-2"):
            closing = book.closing(lane, job_id=first[0])
            book.ledger.closings.close(closing, LaneOutcome())
        assert book.ledger.jobs.finish(first[0]) == "cancelled"
        assert book.ledger.jobs.retry(JOB)[0] == "job-1.retry2"

    def test_at_once_it_is_one_new_job(self, book: Books) -> None:
        self._half_failed(book)
        with ThreadPoolExecutor(4) as pool:
            made = set(pool.map(lambda _: book.ledger.jobs.retry(JOB)[0], range(4)))
        assert made == {"job-1.retry1"}

    def test_long_ids_that_begin_alike_stay_apart(self, book: Books) -> None:
        ids = ["j" * 99 + end for end in "ab"]
        for job_id in ids:
            self._half_failed(book, job_id)
        made = [book.ledger.jobs.retry(job_id)[0] for job_id in ids]
        assert made[0] != made[1]
        assert max(map(len, made)) <= 100
        assert JobSpec.parse(document(job_id=made[0])).job_id == made[0]

    def test_a_job_cancelled_before_it_was_open_is_retried_whole(self, book: Books) -> None:
        book.ledger.jobs.submit(JOB, spec(META, FILES))
        book.ledger.jobs.cancel(JOB)
        assert list(book.ledger.jobs.retry(JOB)[1].lanes()) == ["meta", "files"]

    def test_what_runs_or_succeeded_is_not_retried(self, book: Books) -> None:
        book.open()
        with pytest.raises(JobStateError, match="has not ended yet"):
            book.ledger.jobs.retry(JOB)
        book.read(0)
        book.close("meta")
        book.ledger.jobs.finish(JOB)
        with pytest.raises(JobStateError, match="nothing to retry"):
            book.ledger.jobs.retry(JOB)
