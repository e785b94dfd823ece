from __future__ import annotations

import pyarrow as pa
import pytest

from services.extract.identity import IDENTITIES, Rules
from services.extract.identity.rejects import MOST_REJECTS

GOOD, BAD, LATE = "a@b.cd", "nobody", "x@y"


def emails(values: list[str | None], **more: list[str | None]) -> pa.RecordBatch:
    columns = {"email": values} | more
    return pa.record_batch({name: pa.array(v, pa.string()) for name, v in columns.items()})


@pytest.mark.parametrize("view", ["google", "meta"])
def test_rejects_name_place_field_and_reason_in_the_order_of_the_rows(view):
    phones = ["+16505551212", None, "none", "650 555 1212", ""]
    made = IDENTITIES[view](emails([BAD, GOOD, GOOD, BAD, None], phone=phones), Rules())
    assert made.batch["row"].to_pylist() == [0, 1, 2]
    assert made.rejects == [
        (0, "email", "not an e-mail address"),
        (2, "phone", "not a phone number"),
        (3, "email", "not an e-mail address"),
        (3, "phone", "no country code"),
        (3, "", "no usable identifier"),
        (4, "", "no usable identifier"),
    ]


@pytest.mark.parametrize("view", ["google", "meta"])
def test_the_first_are_told_and_all_are_counted(view):
    bad = 2 * MOST_REJECTS
    made = IDENTITIES[view](emails([GOOD] * 5 + [BAD] * bad + [GOOD]), Rules())
    assert made.skipped == {"no usable identifier": bad}
    assert made.unusable == {"email: not an e-mail address": bad}
    both = (("email", "not an e-mail address"), ("", "no usable identifier"))
    assert made.rejects == [
        (5 + place, *told) for place in range(MOST_REJECTS // 2) for told in both
    ]
    assert made.batch["row"].to_pylist() == [*range(5), 5 + bad]


def test_places_are_those_of_a_slice():
    made = IDENTITIES["google"](emails([GOOD, BAD, BAD, GOOD]).slice(2), Rules())
    assert [place for place, field, _ in made.rejects if field] == [0]
    assert made.batch["row"].to_pylist() == [1]
    assert made.batch.schema.field("row").type == pa.uint32()


def test_rejects_hold_no_value():
    made = IDENTITIES["meta"](
        emails(["secret-mail"], phone=["secret-phone"], country=["secret-land"],
               gender=["secret-sex"], consent=["secret-word"], row_key=["secret-key"]),
        Rules(),
    )  # fmt: skip
    assert len(made.rejects) == 5
    assert "secret" not in repr((made.rejects, made.unusable, made.skipped))


@pytest.mark.parametrize("view", ["google", "meta"])
def test_a_rows_own_key_goes_with_it(view):
    made = IDENTITIES[view](emails([GOOD, BAD, GOOD], row_key=["7", "8", "9"]), Rules())
    assert made.batch["row_key"].to_pylist() == ["7", "9"]
    assert made.batch.schema.field("row_key").type == pa.string()


def test_a_key_that_is_an_address_stays_here():
    made = IDENTITIES["meta"](emails([GOOD, GOOD], row_key=["7", GOOD]), Rules())
    assert made.batch["row_key"].to_pylist() == ["7", None]
