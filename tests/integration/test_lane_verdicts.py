"""What becomes of a lane where its platform is away, refuses, or never comes to an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from penstock.contract import LaneOutcome, Tally
from sandbox.servers import Postgres
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platform import LaneEnd, Lot, Sent
from tests.builders import META, database
from tests.lanes import LANE, A, B, C, Platform, Runs, names, running

REPLACED = {**META, "mode": "replace"}
AWAY = Retryable("The sign-in service is away.")
SLOW_DOWN = Retryable("Ours: slow down.", 60, throttled=True)
REFUSED = RowsRejected("Ours: too large.")


@dataclass
class Refusing(Platform):
    """Raises these first, one at a time."""

    prepares: list[Verdict] = field(default_factory=list)
    senders: list[Verdict] = field(default_factory=list)

    def prepare(self, memo: dict[str, Any], lot: Lot) -> dict[str, Any]:
        if self.prepares:
            raise self.prepares.pop()
        return super().prepare(memo, lot)

    def sender(self, memo: dict[str, Any], rows: int, lot: Lot) -> SimpleNamespace:
        if self.senders:
            raise self.senders.pop()
        return super().sender(memo, rows, lot)


@pytest.fixture(scope="module")
def url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def runs(url: str, redis_url: str) -> Iterator[Runs]:
    with running(url, redis_url) as runs:
        yield runs


def attempts(runs: Runs, job: str) -> tuple[str | None, int, int]:
    """Who sends the batch, and what it has cost so far: crashes, and tries."""
    row = runs.book.one(
        "select holder, crashes, tries from penstock.delivery where job_id = %s", job
    )
    return row["holder"], row["crashes"], row["tries"]


def wait_is_over(runs: Runs, job: str) -> None:
    with runs.book.ledger.transaction() as db:
        db.execute(
            "update penstock.delivery set due_at = clock_timestamp() where job_id = %s", (job,)
        )


class TestBeforeAChunk:
    def test_who_cannot_sign_in_comes_back_and_that_is_no_crash(self, runs: Runs) -> None:
        job = runs.read([A], to=META)
        to = Refusing(senders=[AWAY, AWAY])
        for tries in (1, 2):
            assert runs.send(job, to=to).calls == []
            assert attempts(runs, job) == (None, 0, tries)
            wait_is_over(runs, job)
        assert runs.send(job, to=to).calls == [("add", names(A))]
        assert runs.close(job)["state"] == "succeeded"

    def test_a_short_wait_is_slept_through(self, runs: Runs) -> None:
        runs.settings = runs.settings.model_copy(
            update={"patience_seconds": 5, "backoff_seconds": 0.01}
        )
        job = runs.read([A], to=META)
        to = runs.send(job, to=Refusing(prepares=[AWAY], senders=[AWAY]))
        assert to.calls == [("add", names(A))]
        assert attempts(runs, job)[1] == 0

    def test_in_the_end_the_lane_fails(self, runs: Runs) -> None:
        runs.settings = runs.settings.model_copy(update={"lane_tries": 2})
        job = runs.read([A], to=META)
        for _ in range(2):
            runs.send(job, to=Refusing(senders=[AWAY]))
            wait_is_over(runs, job)
        assert runs.close(job)["state"] == "failed"
        assert runs.lane(job)["error"] == "The sign-in service is away. (tried 2 times)"

    @pytest.mark.parametrize("where", ["prepares", "senders"])
    def test_whoever_shares_the_account_slows_down_with_it(self, runs: Runs, where: str) -> None:
        job, other = runs.read([A], to=META), runs.read([B], to=META)
        throttled = runs.send(job, to=Refusing(**{where: [SLOW_DOWN]}))
        assert attempts(runs, job) == (None, 0, 0)
        assert runs.send(other, to=Platform(account=throttled.account)).calls == []

    @pytest.mark.parametrize("where", ["prepares", "senders"])
    def test_a_refusal_ends_the_lane_with_its_reason(self, runs: Runs, where: str) -> None:
        job = runs.read([A, B], to=META)
        assert runs.send(job, to=Refusing(**{where: [REFUSED]})).calls == []
        assert runs.close(job)["state"] == "failed"
        assert (runs.lane(job)["error"], runs.lane(job)["failed"]) == ("Ours: too large.", 2)


def refuse(verdict: Verdict) -> Callable[[LaneEnd], LaneOutcome]:
    def at_the_end(_end: LaneEnd) -> LaneOutcome:
        raise verdict

    return at_the_end


class TestClosing:
    @pytest.mark.parametrize("verdict", [REFUSED, Fatal("Ours: no.")])
    def test_a_refusal_ends_the_lane_with_its_reason(self, runs: Runs, verdict: Verdict) -> None:
        """And where the rows went stays known."""
        job = runs.read([A, B], to=META)
        listed = {"list": "customers/1/userLists/5"}
        runs.send(job, to=Platform(lambda _, chunk: Sent(chunk.num_rows, keep=listed)))
        assert runs.close(job, Platform(at_the_end=refuse(verdict)))["state"] == "failed"
        lane = runs.lane(job)
        assert (lane["error"], lane["failed"]) == (verdict.reason, 2)
        assert {"audience": "1", **listed}.items() <= lane["details"].items()
        assert "left_behind" in lane["details"]

    def test_what_was_never_found_is_not_named(self, runs: Runs) -> None:
        job = runs.read([A], to=META)
        runs.send(job, to=Refusing(prepares=[REFUSED]))
        runs.close(job, Platform(at_the_end=refuse(REFUSED)))
        assert runs.lane(job)["details"].keys().isdisjoint({"audience", "list", "left_behind"})

    def test_the_platform_is_not_waited_for_without_end(self, runs: Runs) -> None:
        job = runs.read([A], to=META)
        runs.send(job)
        working = Platform(at_the_end=lambda _: Wait(60))
        for hours in (0, 47):
            self._has_waited(runs, job, hours)
            assert runs.close(job, working) is None
        self._has_waited(runs, job, 49)
        assert runs.close(job, working)["state"] == "failed"
        lane = runs.lane(job)
        assert lane["error"] == "The platform did not come to an end within two days."
        assert (lane["failed"], lane["details"]["audience"]) == (1, "1")

    def _has_waited(self, runs: Runs, job: str, hours: float) -> None:
        if not hours:
            return
        assert "waits_since" in runs.book.lane(LANE, job)["memo"]
        with runs.book.ledger.transaction() as db:
            db.execute(
                "update penstock.lane set memo = memo || %s where job_id = %s",
                (Jsonb({"waits_since": time.time() - hours * 3600}), job),
            )


class TestReplacing:
    @pytest.mark.parametrize("lost", [0, 1])
    def test_where_rows_were_lost_the_platform_hears_of_it(self, runs: Runs, lost: int) -> None:
        job = runs.read([A, B], [C], to=REPLACED)
        assert runs.send(job, 0).calls == [("replace", names(A, B))]
        tally = Tally(accepted=1 - lost)
        if lost:
            tally.count("failed", lost, "the worker died")
        claim = runs.book.claim(LANE, 1, job_id=job)
        runs.book.ledger.deliveries.settle(claim, tally)

        heard: list[str | None] = []

        def at_the_end(end: LaneEnd) -> LaneOutcome:
            heard.append(end.error)
            return LaneOutcome()

        told = "Rows were lost on the way: the audience was not replaced. Retry the job."
        runs.close(job, Platform(at_the_end=at_the_end))
        assert heard == [told if lost else None]
        lane = runs.lane(job)
        assert lane["state"] == ("failed" if lost else "succeeded")
        assert lane["error"] == heard[0]

    def test_an_earlier_reason_stands(self, runs: Runs) -> None:
        job = runs.read([A], [B], to=REPLACED)
        runs.send(job, 0)
        runs.send(job, 1, to=Refusing(prepares=[Fatal("Ours: no such audience.")]))
        runs.close(job)
        assert runs.lane(job)["error"] == "Ours: no such audience."
