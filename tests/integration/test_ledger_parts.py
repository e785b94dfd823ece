"""Pieces of a file in any order, parts in order, every row in exactly one of them."""

from __future__ import annotations

import random

from penstock.contract import Batch
from penstock.ledger import Ledger, Next
from penstock.ledger.parts import PART_BYTES, Part
from tests.builders import FILES, JOB, META, Books

THIRD = PART_BYTES // 3 + 1


def ready(book: Books, *seqs: int, size: int = THIRD, gone: int = 0) -> list[Next | None]:
    return [book.ledger.parts.ready(book.claim("files", seq), size, gone) for seq in seqs]


def cut(book: Books, seq: int = 0, by: Ledger | None = None) -> Part | None:
    return (by or book.ledger).parts.cut(book.claim("files", seq))


def seqs(part: Part | None) -> list[int]:
    return [seq for _, seq in part.pieces] if part else []


def store(book: Books, seq: int = 0) -> list[list[int]]:
    """As a worker does: whatever parts are whole."""
    claim, stored = book.claim("files", seq), []
    while (part := book.ledger.parts.cut(claim)) is not None:
        assert book.ledger.parts.settle(claim, part) is not None
        stored.append(seqs(part))
    return stored


class TestCutting:
    def test_pieces_ready_out_of_order_are_cut_in_order(self, book: Books) -> None:
        book.open(FILES)
        lease = book.lease()
        book.record(lease, 8)
        ready(book, 5, 1, 2, 4)
        assert cut(book, 5) is None
        ready(book, 0)
        first = cut(book, 0)
        assert first is not None
        assert (first.number, first.pieces) == (1, ((1, 0), (1, 1), (1, 2)))
        assert cut(book, 4) is None
        ready(book, 3)
        second = cut(book, 3)
        assert second is not None
        assert (second.number, seqs(second)) == (2, [3, 4, 5])

    def test_the_tail_is_cut_when_the_stream_has_ended(self, book: Books) -> None:
        book.open(FILES)
        lease = book.lease()
        book.record(lease, 2)
        ready(book, 1, 0, size=10)
        assert cut(book, 0) is None
        assert book.ledger.stream.end(lease).deliver == [("s3", "files", 1, 1)]
        assert store(book, 1) == [[0, 1]]
        assert book.close("files")["state"] == "succeeded"
        assert book.figures("files") == {"rows": 20, "accepted": 20}

    def test_a_large_piece_is_a_part_alone(self, book: Books) -> None:
        book.open(FILES)
        book.read(3)
        ready(book, 0, 1, 2, size=PART_BYTES)
        assert store(book) == [[0], [1], [2]]
        assert book.lane("files")["parts"] == 3

    def test_any_number_of_tiny_pieces_is_cut(self, book: Books) -> None:
        book.open(FILES)
        book.read(1)
        with book.ledger.transaction() as db:
            db.execute(
                "insert into penstock.batch select job_id, n, generation, epoch, rows, '', '', 1 "
                "from penstock.batch, generate_series(1, 7000) as n"
            )
            db.execute(
                "insert into penstock.delivery (job_id, lane, seq, state, size, progress) "
                "select job_id, lane, n, 'ready', 9, '{}' from penstock.delivery, "
                "generate_series(1, 7000) as n"
            )
            db.execute("update penstock.lane set recorded = 7001, rows = 70010")
            db.execute("update penstock.job set next_seq = 7001")
        ready(book, 0, size=9)
        (stored,) = store(book)
        assert stored == list(range(7001))
        book.close("files")
        assert book.figures("files") == {"rows": 70_010, "accepted": 70_010}

    def test_nothing_is_cut_for_a_lane_or_job_that_is_on_its_way_out(self, book: Books) -> None:
        book.open(FILES, META)
        book.read(3)
        ready(book, 0, 1)
        claim = book.claim("files", 0)
        book.ledger.parts.ready(book.claim("files", 2), THIRD, 0)
        book.ledger.deliveries.fail_lane(book.batch("files"), "no such bucket")
        assert book.ledger.parts.cut(claim) is None

    def test_any_order_makes_every_row_part_of_one_part(self, book: Books) -> None:
        for trial in range(5):
            job = f"any-{trial}"
            book.open(FILES, job_id=job)
            lease = book.lease(job_id=job)
            batches = 12
            book.record(lease, batches)
            ended, order, found = False, random.Random(trial).sample(range(batches), batches), []
            for n, seq in enumerate(order):
                if n == trial * 2:
                    todo = book.ledger.stream.end(lease)
                    ended = True
                    assert todo.close == []
                claim = book.claim("files", seq, job_id=job)
                book.ledger.parts.ready(claim, THIRD, 0)
                while (part := book.ledger.parts.cut(claim)) is not None:
                    book.ledger.parts.settle(claim, part)
                    found.append(part)
            assert ended
            assert [p.number for p in found] == list(range(1, len(found) + 1))
            assert [seq for p in found for seq in seqs(p)] == list(range(batches))
            closing = book.closing("files", job_id=job)
            assert (closing.rows, closing.accepted, closing.parts) == (120, 120, len(found))


class TestLastPiece:
    """Where the worker dies between its last piece and the last part, only the sweep is left."""

    def test_ready_when_the_stream_ends(self, book: Books) -> None:
        book.open(FILES)
        lease = book.lease()
        book.record(lease, 2)
        ready(book, 0, 1, size=10)
        book.hasty.stream.end(lease)  # and the message is lost
        assert self._swept(book) == [1]
        assert store(book, 1) == [[0, 1]]

    def test_ready_after_the_stream_ended(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        ready(book, 0, size=10)
        assert self._swept(book) == []
        book.hasty.parts.ready(book.claim("files", 1), 10, 0)  # and the worker dies
        assert self._swept(book) == [1]
        assert store(book, 1) == [[0, 1]]

    def test_dead_between_two_parts(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        book.hasty.parts.ready(book.claim("files", 1), 10, 0)
        ready(book, 0, size=PART_BYTES)
        claim = book.claim("files", 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.settle(claim, part)  # and the worker dies
        assert self._swept(book) == [1]
        assert store(book, 1) == [[1]]

    @staticmethod
    def _swept(book: Books) -> list[int]:
        found = book.hasty.sweep.deliveries(lambda _: True)
        return [seq for todo in found for _, lane, seq, _ in todo.deliver if lane == "files"]


class TestWindow:
    def test_pieces_that_are_there_free_the_window_up_to_the_first_that_is_not(
        self, book: Books
    ) -> None:
        book.open(FILES, window=4)
        lease = book.lease()
        book.record(lease, 4)
        assert book.ledger.stream.park(lease)
        assert [t.extract for t in ready(book, 1, 2, size=1) if t] == [False, False]
        assert [t.extract for t in ready(book, 0, size=1) if t] == [True]
        assert book.lane("files")["released"] == 3

    def test_a_payload_goes_when_its_piece_is_there(self, book: Books) -> None:
        book.open(FILES, FILES)
        book.read()
        assert [t.drop for t in ready(book, 0) if t] == [[]]
        todo = book.ledger.parts.ready(book.claim("files-2"), THIRD, 0)
        assert todo is not None
        assert todo.drop == [(1, 0, "rows")]


class TestOnce:
    def test_a_piece_is_ready_once(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        claim = book.claim("files")
        assert book.ledger.parts.ready(claim, 10, 0) is not None
        assert book.ledger.parts.ready(claim, 11, 0) is None
        assert book.delivery("files", 0)["size"] == 10

    def test_a_part_is_one_worker_s_and_settles_once(self, book: Books) -> None:
        book.open(FILES)
        book.read(3)
        first, second = book.claim("files", 0), book.claim("files", 1)
        book.ledger.parts.ready(first, THIRD, 0)
        book.ledger.parts.ready(second, THIRD, 0)
        book.ledger.parts.ready(book.claim("files", 2), THIRD, 0)
        part = book.ledger.parts.cut(first)
        assert part is not None
        assert book.ledger.parts.renew(first, part)
        assert book.ledger.parts.cut(second) is None
        todo = book.ledger.parts.settle(first, part)
        assert todo is not None
        assert todo.close == [("s3", "files", 0, 1)]
        assert todo.drop == [(1, seq, "piece:files") for seq in (0, 1, 2)]
        assert book.ledger.parts.settle(first, part) is None

    def test_rows_gone_at_a_second_reading_are_skipped_rows(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        ready(book, 0, gone=3)
        ready(book, 1)
        assert store(book) == [[0, 1]]
        book.close("files")
        assert book.figures("files") == {"rows": 20, "accepted": 17, "skipped": 3}


class TestRepair:
    def test_a_part_whose_worker_died_is_taken_again_before_all_others(self, book: Books) -> None:
        book.open(FILES)
        book.read(6)
        ready(book, *range(6))
        lost = cut(book, 0, by=book.hasty)
        claim = book.claim("files", 5)
        again = book.ledger.parts.cut(claim)
        assert lost is not None
        assert again is not None
        assert (again.number, again.pieces) == (lost.number, lost.pieces)
        assert (again.crashes, again.tries) == (1, 0)
        assert not book.ledger.parts.renew(claim, lost)

    def test_a_part_the_store_did_not_take_waits_its_time(self, book: Books) -> None:
        book.open(FILES)
        book.read(3)
        ready(book, 0, 1, 2)
        claim = book.claim("files", 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.release(claim, part, 60, attempt=True)
        assert book.ledger.deliveries.claim(book.batch("files", 1), "h") is None
        book.ledger.parts.release(claim, part, 0, attempt=True)  # it is not this worker's any more
        assert book.ledger.parts.cut(claim) is None
        assert book.hasty.sweep.deliveries(lambda _: True) == []
        with book.ledger.transaction() as db:
            db.execute("update penstock.delivery set due_at = clock_timestamp()")
        again = book.ledger.parts.cut(claim)
        assert again is not None
        assert (again.number, again.crashes, again.tries) == (1, 0, 1)

    def test_a_part_that_waits_lets_later_parts_go_by(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        ready(book, 0, 1, size=PART_BYTES)
        claim = book.claim("files", 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.release(claim, part, 600, attempt=True)
        assert store(book, 1) == [[1]]
        with book.ledger.transaction() as db:
            db.execute("update penstock.delivery set due_at = clock_timestamp()")
        (todo,) = book.ledger.sweep.deliveries(lambda _: True)
        assert todo.deliver == [("s3", "files", 0, 1)]
        assert store(book) == [[0]]

    def test_lost_pieces_are_made_again_and_the_part_is_whole_again(self, book: Books) -> None:
        book.open(FILES)
        book.read(4)
        ready(book, 0, 1, 2)
        claim = book.claim("files", 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        todo = book.ledger.parts.lost(claim, part, [1])
        assert todo == Next(JOB, refill=[(1, 1)])
        assert [book.delivery("files", n)["state"] for n in (0, 1, 2)] == [
            "ready",
            "pending",
            "ready",
        ]
        found = book.ledger.stream.range(JOB, 1, 1)
        assert found is not None
        assert found[1]["views"] == ("rows",)
        assert book.ledger.stream.refilled(JOB, 1, 1).deliver == [("s3", "files", 1, 1)]
        # Later pieces do not get into its place.
        ready(book, 3)
        last = cut(book, 3)
        assert last is not None
        assert (last.number, seqs(last)) == (2, [3])
        ready(book, 1, gone=2)
        again = cut(book, 1)
        assert again is not None
        assert (again.number, seqs(again)) == (1, [0, 1, 2])
        for each in (again, last):
            assert book.ledger.parts.settle(claim, each) is not None
        book.close("files")
        assert book.figures("files") == {"rows": 40, "accepted": 38, "skipped": 2}

    def test_a_piece_lost_after_a_wait_is_taken_up_when_it_is_refilled(self, book: Books) -> None:
        book.open(FILES)
        book.read(2)
        ready(book, 0, 1)
        claim = book.claim("files", 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        book.ledger.parts.release(claim, part, 0, attempt=True)
        again = book.ledger.parts.cut(claim)
        assert again is not None
        book.ledger.parts.lost(claim, again, [0])
        ready(book, 0)
        assert store(book) == [[0, 1]]

    def test_messages_of_an_older_generation_are_void(self, book: Books) -> None:
        book.open(FILES, source_key=None)
        book.read(3)
        ready(book, 0, 1, 2)
        claim = book.claim("files", 0)
        part = book.ledger.parts.cut(claim)
        assert part is not None
        assert book.ledger.parts.lost(claim, part, [1]) == Next(JOB, extract=True)
        assert book.job()["generation"] == 2
        assert book.ledger.parts.lost(claim, part, [1]) == Next(JOB)
        assert book.ledger.parts.ready(claim, 1, 0) is None
        assert book.ledger.parts.cut(claim) is None
        assert book.ledger.parts.settle(claim, part) is None
        assert claim.batch == Batch(JOB, 0, 1, "files")
