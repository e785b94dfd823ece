"""A mirror sends the difference to the last run that ended well, whatever happens on the way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pyarrow as pa
import pytest

from penstock.contract import LaneOutcome, Tally
from penstock.ledger.mirrors import Mirror, Mirrors, Seen, stage
from penstock.ledger.restarts import start_over
from penstock.ledger.settling import Beside
from sandbox.servers import Postgres
from services.upload.handles import changed_members, unpacked
from services.upload.mirror import Difference, Unseen
from tests.builders import META, Books, books, database, execute

Person = tuple[str | None, str | None]
Sent = set[tuple[str, bytes]]
TARGET = "target"
LANE = "meta"


@pytest.fixture(scope="module")
def shared_url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def book(shared_url: str) -> Iterator[Books]:
    with books(shared_url, max_crashes=0) as found:
        execute(shared_url, "truncate penstock.mirror, penstock.mirror_entry")
        yield found


_jobs = count(1)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def batch_of(people: Iterable[Person]) -> pa.RecordBatch:
    rows = list(people)
    columns = {
        name: pa.array([None if p[n] is None else sha(str(p[n])) for p in rows], pa.binary(32))
        for n, name in enumerate(("email", "phone"))
    }
    return pa.record_batch({**columns, "row": pa.array(range(len(rows)), pa.uint32())})


def identifiers(members: pa.RecordBatch) -> Sent:
    return {
        (name, value)
        for name in ("email", "phone")
        if name in members.schema.names
        for value in members.column(name).to_pylist()
        if value is not None
    }


def names_of(people: Iterable[Person]) -> Sent:
    return identifiers(batch_of(people))


class Run:
    """One run of the job, as workers would do it."""

    def __init__(self, book: Books, *batches: list[Person], full: bool = False) -> None:
        self.book = book
        self.mirrors: Mirrors = book.ledger.mirrors
        self.job = f"run-{next(_jobs)}"
        self.batches = batches
        self.full = full
        book.open(META, job_id=self.job)
        lease = book.lease(job_id=self.job)
        for people in batches:
            book.record(lease, rows=max(len(people), 1))
        book.ledger.stream.end(lease)
        self.added: list[pa.RecordBatch] = []
        self.removed: list[pa.RecordBatch] = []

    def take(self) -> Mirror:
        mirror = self.mirrors.take(self.job, LANE, TARGET)
        assert mirror is not None
        return mirror

    def send(self, *seqs: int) -> None:
        for seq in seqs or range(len(self.batches)):
            mirror = self.take()
            claim = self.book.claim(LANE, seq, job_id=self.job)
            members = batch_of(self.batches[seq])
            found = Difference(self.mirrors, mirror, members, full=self.full)
            self.added.append(members.take(found.wanted.cast(pa.int64())))
            seen = found.seen()
            done = self.book.ledger.deliveries.settle(
                claim, Tally(accepted=claim.rows),
                Beside(also=lambda db, to=mirror, what=seen, of=claim.batch: stage(
                    db, to.mirror_id, of, what)),
            )  # fmt: skip
            assert done is not None

    def unseen(self) -> Unseen:
        return Unseen(self.mirrors, self.take(), self.job, LANE)

    def take_out(self, chunks: int | None = None, rows: int = 3) -> None:
        mirror = self.take()
        for n, removal in enumerate(self.unseen().removals(rows)):
            if n == chunks:
                return
            assert removal.members.num_rows <= rows
            self.mirrors.doubt(self.job, mirror.mirror_id, removal.ords)
            self.removed.append(removal.members)

    def promote(self, limit: int = 50_000) -> None:
        """The lane has ended well."""
        for removal in self.unseen().removals(1_000):
            self.mirrors.removed(self.job, self.take().mirror_id, removal.ords)
        while self.mirrors.promote(self.job, LANE, self.take().mirror_id, limit):
            pass

    def end(self) -> None:
        mirror = self.take()
        self.mirrors.release(self.job, LANE, mirror.mirror_id)
        closing = self.book.closing(LANE, job_id=self.job)
        self.book.ledger.closings.close(closing, LaneOutcome())

    def all(self) -> tuple[Sent, Sent]:
        self.send()
        self.take_out()
        self.promote()
        self.end()
        return sent(self.added), sent(self.removed)


def sent(batches: list[pa.RecordBatch]) -> Sent:
    return set().union(*(identifiers(b) for b in batches))


def state(book: Books) -> Sent:
    with book.ledger.transaction() as db:
        rows = db.execute("select ids from penstock.mirror_entry").fetchall()
    return identifiers(unpacked([row["ids"] for row in rows])) if rows else set()


def figures(book: Books) -> dict[str, int]:
    return book.one(
        "select entries, next_ord, (select count(*) from penstock.mirror_entry) as rows, "
        "(select count(*) from penstock.mirror_added) + (select count(*) from penstock.mirror_seen)"
        " as staged, (select count(*) from penstock.mirror where holder_job is null) as free "
        "from penstock.mirror"
    )


A: Person = ("a", "1")
B: Person = ("b", "2")
C: Person = ("c", "3")


class TestTake:
    def test_one_run_at_a_time_and_the_same_run_again(self, book: Books) -> None:
        runs = [Run(book, [A]) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            taken = list(
                pool.map(lambda run: book.ledger.mirrors.take(run.job, LANE, TARGET), runs)
            )
        (winner,) = [n for n, mirror in enumerate(taken) if mirror is not None]
        assert runs[winner].take() == taken[winner]
        runs[winner].all()
        assert book.ledger.mirrors.take(runs[winner - 1].job, LANE, TARGET) is not None

    def test_a_run_that_ended_without_a_release_is_cleared_away(self, book: Books) -> None:
        first = Run(book, [A], [B])
        first.send(0)
        book.ledger.jobs.cancel(first.job)
        closing = book.closing(LANE, job_id=first.job)
        book.ledger.closings.close(closing, LaneOutcome())
        assert figures(book)["free"] == 0
        # Whom it had sent the platform may have: they are taken out.
        assert Run(book, [B]).all() == (names_of([B]), names_of([A]))
        assert state(book) == names_of([B])
        assert figures(book)["staged"] == 0

    def test_another_target_is_another_state(self, book: Books) -> None:
        run, other = Run(book, [A]), Run(book, [A])
        mine = book.ledger.mirrors.take(run.job, LANE, TARGET)
        theirs = book.ledger.mirrors.take(other.job, LANE, "other")
        assert mine is not None
        assert theirs is not None
        assert mine.mirror_id != theirs.mirror_id

    def test_to_find_it_changes_nothing(self, book: Books) -> None:
        assert book.ledger.mirrors.find(TARGET) == Mirror(0, 0, 0)
        Run(book, [A]).all()
        found = book.ledger.mirrors.find(TARGET)
        assert Difference(
            book.ledger.mirrors, found, batch_of([B, A]), full=False
        ).wanted.to_pylist() == [0]
        assert figures(book)["free"] == 1

    def test_what_is_not_there_cannot_be_taken(self, book: Books) -> None:
        assert book.ledger.mirrors.take("nope", LANE, TARGET) is None


class TestDifference:
    def test_first_all_then_the_difference(self, book: Books) -> None:
        assert Run(book, [A, B], [C]).all() == (names_of([A, B, C]), set())
        assert Run(book, [A, B], [C]).all() == (set(), set())
        assert Run(book, [A], [("d", "4")]).all() == (names_of([("d", "4")]), names_of([B, C]))
        assert state(book) == names_of([A, ("d", "4")])
        assert figures(book) == {"entries": 4, "next_ord": 8, "rows": 4, "staged": 0, "free": 1}

    def test_a_new_column_takes_nobody_out(self, book: Books) -> None:
        Run(book, [("a", None), ("b", None)]).all()
        again = Run(book, [A, B])
        assert again.all() == (names_of([A, B]), set())

    def test_who_changed_is_added_before_and_sent_once_more_after(self, book: Books) -> None:
        Run(book, [A, B]).all()
        run = Run(book, [("a", "9")], [B, C])
        run.send()
        run.take_out()
        assert sent(run.added) == names_of([("a", "9"), C])
        assert sent(run.removed) == {("phone", sha("1"))}
        again = [
            changed_members(page).to_pylist() for _, page in run.mirrors.changed(run.job, LANE)
        ]
        assert again == [[{"email": sha("a"), "phone": sha("9")}]]

    def test_what_two_rows_share_stays_until_both_have_left(self, book: Books) -> None:
        Run(book, [("a", "1"), ("b", "1")]).all()
        assert Run(book, [("b", "1")]).all()[1] == {("email", sha("a"))}
        assert Run(book, [C]).all()[1] == names_of([("b", "1")])

    def test_a_full_run_sends_all_and_still_takes_out_who_left(self, book: Books) -> None:
        Run(book, [A, B]).all()
        assert Run(book, [A], full=True).all() == (names_of([A]), names_of([B]))
        assert state(book) == names_of([A])

    def test_a_lost_state_sends_all(self, book: Books, shared_url: str) -> None:
        Run(book, [A, B]).all()
        execute(shared_url, "truncate penstock.mirror, penstock.mirror_entry")
        assert Run(book, [A]).all() == (names_of([A]), set())

    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_what_sets_say(self, book: Books, seed: int) -> None:
        chance = random.Random(seed)
        held: Sent = set()
        for _ in range(5):
            people = [
                (f"e{chance.randrange(60)}", chance.choice([None, f"p{chance.randrange(60)}"]))
                for _ in range(chance.randrange(1, 70))
            ]
            cuts = sorted(chance.sample(range(len(people) + 1), 2)) if len(people) > 1 else [0, 1]
            run = Run(book, people[: cuts[0]], people[cuts[0] : cuts[1]], people[cuts[1] :],
                      full=chance.random() < 0.2)  # fmt: skip
            added, removed = run.all()
            wanted = names_of(people)
            assert removed == held - wanted
            assert wanted - held <= added <= wanted
            held = wanted
            assert state(book) == held
            assert figures(book)["entries"] == figures(book)["rows"] == len(held)


class TestUnseen:
    def test_the_count_is_that_of_the_entries(self, book: Books) -> None:
        Run(book, [(f"e{n}", f"p{n}") for n in range(50)]).all()
        run = Run(book, [(f"e{n}", f"p{n}") for n in range(0, 50, 2)])
        run.send()
        assert run.unseen().count() == 50
        for removal in list(run.unseen().removals(5))[:4]:
            run.mirrors.removed(run.job, run.take().mirror_id, removal.ords)
        assert run.unseen().count() == 10
        last = list(run.unseen().removals(100))
        assert [c.members.num_rows for c in last] == [5]
        assert list(run.unseen().removals(100, after=last[-1].ords[-1])) == []
        assert len(list(run.unseen().removals(100, after=last[-1].ords[-3]))) == 1

    def test_more_than_a_page(self, book: Books) -> None:
        """More leave than the ledger is asked for at a time."""
        people: list[Person] = [(f"e{n}", None) for n in range(2_503)]
        Run(book, people).all()
        run = Run(book, [C])
        run.send()
        chunks = list(run.unseen().removals(700))
        assert [c.members.num_rows for c in chunks] == [700, 700, 700, 403]
        assert sent([c.members for c in chunks]) == names_of(people)

    def test_a_batch_that_was_given_up_means_that_nobody_is_taken_out(self, book: Books) -> None:
        Run(book, [A], [B]).all()
        run = Run(book, [A], [B])
        run.send(0)
        book.claim(LANE, 1, by=book.hasty, job_id=run.job)
        book.ledger.deliveries.claim(book.batch(LANE, 1, job_id=run.job), "heir")
        assert book.figures(LANE, run.job)["failed"] == 1
        run.take_out()
        assert run.removed == []
        assert run.unseen().count() == 0

    def test_nor_where_the_source_had_no_row(self, book: Books) -> None:
        Run(book, [A]).all()
        run = Run(book)
        run.take_out()
        assert run.removed == []

    def test_nor_for_a_run_that_does_not_hold_the_state_any_more(self, book: Books) -> None:
        Run(book, [A, B]).all()
        late = Run(book, [A])
        late.send()
        chunks = late.unseen()
        late.promote()
        late.end()
        Run(book, [A]).take()
        assert list(chunks.removals(10)) == []

    def test_what_a_run_promoted_does_not_count_as_unseen(self, book: Books) -> None:
        Run(book, [A, B]).all()
        run = Run(book, [A, C])
        run.send()
        before = run.unseen()
        run.promote()
        assert list(before.removals(10)) == []
        assert list(run.unseen().removals(10)) == []


class TestStage:
    def test_a_batch_is_staged_once_with_its_settle(self, book: Books) -> None:
        run = Run(book, [A])
        mirror, claim = run.take(), book.claim(LANE, job_id=run.job)
        seen = Difference(run.mirrors, mirror, batch_of([A]), full=False).seen()
        beside = Beside(also=lambda db: stage(db, mirror.mirror_id, claim.batch, seen))
        with ThreadPoolExecutor(4) as pool:
            done = list(
                pool.map(
                    lambda _: book.ledger.deliveries.settle(claim, Tally(accepted=1), beside),
                    range(4),
                )
            )
        assert len([d for d in done if d is not None]) == 1
        run.promote()
        assert state(book) == names_of([A])

    def test_a_stream_that_starts_over_forgets_what_was_staged(self, book: Books) -> None:
        Run(book, [A]).all()
        run = Run(book, [A, B], [C])
        run.send()
        assert figures(book)["staged"] == 4
        with book.ledger.transaction() as db:
            start_over(db, run.job)
        assert figures(book)["staged"] == 0
        run.promote()
        assert state(book) == names_of([A])

    def test_only_who_holds_the_state_may_stage(self, book: Books) -> None:
        run = Run(book, [A])
        mirror, claim = run.take(), book.claim(LANE, job_id=run.job)
        run.mirrors.release(run.job, LANE, mirror.mirror_id)
        beside = Beside(also=lambda db: stage(db, mirror.mirror_id, claim.batch, Seen()))
        with pytest.raises(ValueError, match="does not hold the mirror"):
            book.ledger.deliveries.settle(claim, Tally(accepted=1), beside)
        assert book.lane(LANE, run.job)["settled"] == 0


class TestEnd:
    def test_promote_goes_on_after_a_kill(self, book: Books) -> None:
        batches: list[list[Person]] = [[(f"e{n}-{i}", None) for i in range(10)] for n in range(5)]
        run = Run(book, *batches)
        run.send()
        mirror = run.take()
        moved = [run.mirrors.promote(run.job, LANE, mirror.mirror_id, 25)]
        assert len(state(book)) == 20
        with ThreadPoolExecutor(3) as pool:
            moved += pool.map(
                lambda _: run.mirrors.promote(run.job, LANE, mirror.mirror_id, 5), range(5)
            )
        assert sorted(moved) == [0, 0, 10, 10, 10, 20]
        run.end()
        assert state(book) == names_of(p for people in batches for p in people)
        assert figures(book)["staged"] == 0
        assert Run(book, *batches).all() == (set(), set())

    def test_what_a_run_that_failed_sent_is_in_doubt(self, book: Books) -> None:
        Run(book, [A, B]).all()
        failed = Run(book, [A, C])
        failed.send()
        failed.end()
        assert figures(book)["staged"] == 0
        # Who is still there is sent once more, and then known.
        assert Run(book, [A, C]).all() == (names_of([C]), names_of([B]))
        assert Run(book, [A, C]).all() == (set(), set())

    def test_whom_a_failed_run_sent_and_who_has_left_since_is_taken_out(self, book: Books) -> None:
        Run(book, [A]).all()
        failed = Run(book, [A, C])
        failed.send()
        failed.end()
        assert Run(book, [A]).all() == (set(), names_of([C]))
        assert state(book) == names_of([A])

    def test_whom_a_failed_run_took_out_and_who_is_back_is_sent(self, book: Books) -> None:
        Run(book, [A, B, C]).all()
        failed = Run(book, [A])
        failed.send()
        failed.take_out(chunks=1, rows=1)
        failed.end()
        assert sent(failed.removed) == names_of([B])
        assert Run(book, [A, B]).all() == (names_of([B]), names_of([C]))
        assert Run(book, [A, B]).all() == (set(), set())

    def test_a_run_that_is_being_forgotten_has_no_unseen(
        self, book: Books, shared_url: str
    ) -> None:
        """Killed in the middle of a release: half of what was seen is gone."""
        Run(book, [A], [B]).all()
        run = Run(book, [A], [B])
        run.send()
        run.end()
        execute(shared_url, f"update penstock.mirror set holder_job = '{run.job}'")
        assert run.take().upto == 0
        run.take_out()
        assert run.removed == []

    def test_many(self, book: Books) -> None:
        """More than the ledger takes in one piece, and a percent of them changed."""
        people: list[Person] = [(f"e{n}", f"p{n}") for n in range(50_000)]
        Run(book, people).all()
        after = [(f"new{n}", f"np{n}") if n % 100 == 0 else p for n, p in enumerate(people)]
        run = Run(book, after[:25_000], after[25_000:])
        run.send()
        run.take_out(rows=10_000)
        assert sum(b.num_rows for b in run.added) == 500
        assert [b.num_rows for b in run.removed] == [500]
        run.promote()
        run.end()
        assert state(book) == names_of(after)
