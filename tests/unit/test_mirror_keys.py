"""What a mirror knows members by, and how it keeps them."""

from __future__ import annotations

import hashlib
from array import array
from typing import Any

import pyarrow as pa
import pytest

from penstock.ledger.mirrors import KEY_BYTES, Entry, Mirror
from services.upload.handles import changed_members, unpacked
from services.upload.mirror import Difference, Unseen, target_of
from tests.builders import GOOGLE, META, spec


def sha(text: str | None) -> bytes | None:
    return None if text is None else hashlib.sha256(text.encode()).digest()


def batch(texts: tuple[str, ...] = (), **columns: list[str | None]) -> pa.RecordBatch:
    """Columns of digests, but for those named in `texts`."""
    made: dict[str, Any] = {
        name: pa.array(values, pa.string())
        if name in texts
        else pa.array([sha(v) for v in values], pa.binary(32))
        for name, values in columns.items()
    }
    rows = len(next(iter(columns.values())))
    return pa.record_batch({**made, "row": pa.array(range(10, 10 + rows), pa.uint32())})


class State:
    """What a ledger answers that knows these keys."""

    def __init__(self, *keys: bytes) -> None:
        self.entries = [(key, 0) for key in keys]

    def known(self, _mirror_id: int, keys: bytes) -> array[int]:
        each = [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
        found = {key: 8 * n + tied for n, (key, tied) in enumerate(self.entries)}
        return array("q", [found.get(key, -1) for key in each])

    def remember(self, members: pa.RecordBatch) -> None:
        self.entries += [(key, ids[1] >> 6) for key, ids in of(members, self).seen().added]


def of(members: pa.RecordBatch, state: State | None = None, *, full: bool = False) -> Difference:
    ledger: Any = state or State()
    return Difference(ledger, Mirror(1, 0, 0), members, full=full)


def added(members: pa.RecordBatch, state: State | None = None) -> list[dict[str, bytes]]:
    """What is kept of each new entry."""
    entries = unpacked([ids for _, ids in of(members, state).seen().added]).to_pylist()
    return [{k: v for k, v in entry.items() if v is not None} for entry in entries]


class TestKeys:
    def test_each_identifier_by_itself(self) -> None:
        members = batch(email=["a", None, "c"], phone=["1", "2", None])
        assert added(members) == [
            {"email": sha("a")}, {"phone": sha("1")}, {"phone": sha("2")}, {"email": sha("c")},
        ]  # fmt: skip
        keys = [key for key, _ in of(members).seen().added]
        assert len(set(keys)) == 4
        assert {len(key) for key in keys} == {KEY_BYTES}

    def test_a_slice_is_read_from_its_own_first_row(self) -> None:
        members = batch(email=["a", None, "c", "d"])
        assert added(members.slice(1, 2)) == [{"email": sha("c")}]
        assert of(members.slice(1, 2)).not_mirrored.to_pylist() == [11]

    def test_a_column_without_a_value(self) -> None:
        members = pa.record_batch({
            "email": pa.array([sha("a")], pa.binary(32)), "phone": pa.nulls(1, pa.binary(32)),
            "row": pa.array([0], pa.uint32()),
        })  # fmt: skip
        assert added(members) == [{"email": sha("a")}]

    def test_a_name_with_a_place_where_there_is_nothing_else(self) -> None:
        members = batch(
            email=["a", None, None, None],
            first_name=["f", "f", "f", "f"],
            last_name=["l", "l", "l", None],
            city=["c", "c", None, "c"],
            gender=["m", "m", "m", "m"],
        )
        name = {"first_name": "f", "last_name": "l", "city": "c", "gender": "m"}
        assert added(members) == [{"email": sha("a")}, {k: sha(v) for k, v in name.items()}]
        assert of(members).not_mirrored.to_pylist() == [12, 13]

    def test_a_name_with_another_place_or_the_same_texts_elsewhere_is_another(self) -> None:
        keys = {
            of(batch(**{k: [v] for k, v in row.items()})).seen().added[0][0]
            for row in (
                {"first_name": "x", "last_name": "y", "city": "z"},
                {"first_name": "y", "last_name": "x", "city": "z"},
                {"first_name": "x", "last_name": "y", "postal_code": "z"},
                {"first_name": "x", "last_name": "y", "city": "z", "postal_code": "z"},
            )
        }
        assert len(keys) == 4

    def test_what_narrows_a_match_does_not_make_another_member(self) -> None:
        state = State()
        name = {"first_name": ["f"], "last_name": ["l"], "city": ["c"]}
        state.remember(batch(**name))
        assert of(batch(**name, gender=["m"]), state).unchanged.to_pylist() == [10]

    def test_an_address_whose_place_is_a_text_is_not_kept(self) -> None:
        members = batch(
            ("country", "postal_code"), email=["a", None], first_name=["f", "f"],
            last_name=["l", "l"], country=["DE", "DE"], postal_code=["1", "1"],
        )  # fmt: skip
        assert added(members) == [{"email": sha("a")}]
        assert of(members).not_mirrored.to_pylist() == [11]
        assert b"DE" not in b"".join(ids for _, ids in of(members).seen().added)

    @pytest.mark.parametrize("name", ["external_id", "mobile_ad_id", "email"])
    def test_texts_are_not_mirrored(self, name: str) -> None:
        found = of(batch((name,), **{name: ["a", "b"]}))
        assert found.not_mirrored.to_pylist() == [10, 11]
        assert found.wanted.to_pylist() == []
        assert not found.seen().added


class TestDifference:
    def test_what_is_known_is_not_sent_and_what_is_new_or_has_changed_is(self) -> None:
        state = State()
        state.remember(batch(email=["a", "b"], phone=["1", "2"]))
        found = of(batch(email=["a", "b", "c", "a"], phone=["1", "9", "3", None]), state)
        assert found.unchanged.to_pylist() == [10, 13]
        assert found.wanted.to_pylist() == [11, 12]
        seen = found.seen()
        # The last has lost the phone that went with the address: whoever takes that phone out
        # takes out the person.
        changed = [{"email": sha("b"), "phone": sha("9")}, {"email": sha("a"), "phone": None}]
        assert changed_members(seen.changed).to_pylist() == changed
        # All identifiers of those, to be numbered together anew, and the two of who is new.
        assert len(seen.added) == 5
        assert list(seen.blocks) == [0]

    def test_a_full_run_sends_all_and_adds_only_what_is_new(self) -> None:
        state = State()
        state.remember(batch(email=["a"]))
        found = of(batch(email=["a", "b"]), state, full=True)
        assert found.wanted.to_pylist() == [10, 11]
        assert found.unchanged.to_pylist() == []
        assert [key for key, _ in found.seen().added] == [(sha("b") or b"")[:KEY_BYTES]]

    def test_what_was_refused_is_not_believed_to_be_there(self) -> None:
        state = State()
        state.remember(batch(email=["a"]))
        members = batch(email=["a", "b", "c"], phone=["1", None, None])
        refused = of(members, state).seen([10, 12])
        assert unpacked([ids for _, ids in refused.added]).to_pylist() == [{"email": sha("b")}]
        assert not refused.changed
        assert refused.blocks, "it was found in the source all the same"

    def test_who_changed_keeps_their_consent(self) -> None:
        state = State()
        state.remember(batch(email=["a", "b", "c"]))
        members = batch(email=["a", "b", "c"], phone=["1", None, "3"], city=[None, None, None])
        members = members.append_column("consent", pa.array([4, 8, 5], pa.uint8()))
        found = changed_members(of(members, state).seen().changed)
        assert found.column("consent").to_pylist() == [4, 5]
        assert found.column("phone").to_pylist() == [sha("1"), sha("3")]

    def test_no_rows(self) -> None:
        found = of(batch(email=["a"]).slice(1))
        assert (found.wanted.to_pylist(), found.seen().added, found.seen().blocks) == ([], [], {})


class TestRemovals:
    def test_identifiers_of_one_row_go_together_where_all_have_left(self) -> None:
        ids = [i for _, i in of(batch(email=["a", "b", "c"], phone=["1", "2", "3"])).seen().added]
        a, a1, _b, b2, c, c3 = [Entry(n, b"", packed) for n, packed in enumerate(ids)]

        class Ledger:
            def whole(self, *_: Any) -> bool:
                return True

            def seen(self, *_: Any) -> list[Any]:
                return []

            def unseen(self, *_: Any, **__: Any) -> list[Entry]:
                return [a, a1, b2, c, c3]

        ledger: Any = Ledger()
        chunks = list(Unseen(ledger, Mirror(1, 6, 6), "job", "lane").removals(2))
        assert [chunk.ords for chunk in chunks] == [[0, 1, 3], [4, 5]]
        assert chunks[0].members.to_pylist() == [
            {"email": sha("a"), "phone": sha("1")}, {"email": None, "phone": sha("2")},
        ]  # fmt: skip
        assert chunks[1].members.to_pylist() == [{"email": sha("c"), "phone": sha("3")}]


class TestTarget:
    def test_the_same_for_every_run_of_a_job(self) -> None:
        first = target_of(spec(META, job_id="one", batch_rows=5), "meta")
        assert first == target_of(spec(META, GOOGLE, job_id="two", full=True), "meta")

    def test_another_for_another_job_lane_or_audience(self) -> None:
        targets = [
            target_of(spec(META), "meta"),
            target_of(spec(META, name="weekly"), "meta"),
            target_of(spec({**META, "lane": "other"}), "other"),
            target_of(spec({**META, "audience_id": "333"}), "meta"),
            target_of(spec(GOOGLE), "google"),
            target_of(spec({**GOOGLE, "customer_id": "1234567891"}), "google"),
            target_of(spec({**GOOGLE, "user_list_id": "112"}), "google"),
        ]
        assert len(set(targets)) == len(targets)
