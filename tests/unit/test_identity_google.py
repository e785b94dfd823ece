from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extract.identity import IDENTITIES, USES, Rules
from services.extract.identity.google import COLUMNS, email, identify

ANNA = {"first_name": "Anna", "last_name": "Lee", "country": "us", "postal_code": " 94035 "}


# A shared machine may be slow; only wrong answers count.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def batch(*rows: dict[str, str | None]) -> pa.RecordBatch:
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    return pa.record_batch(
        {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    )


def identified(members):
    return members.batch.drop_columns(["row"]).to_pylist()


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        (
            "  ALEXZ@example.com   ",
            "509e933019bb285a134a9334b8bb679dff79d0ce023d529af4bd744d47b4fd8a",
        ),
        ("ca.us@gmail.com", "93d8aed730ac1b81df54d22efa758fc707f9f2763b59769d1f36c9ce9ff160b0"),
        ("us.ca@doe.com", "5de5320a299a39f8c370f6940b481ce30a46ac835d11632d99220ab0a0993dbf"),
    ],
)
def test_published_emails(value, digest):
    made = identify(batch({"email": value}), Rules())
    assert [v.hex() for v in made.batch["email"].to_pylist()] == [digest]


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        ("1-800-555-0100", "fb4f73a6ec5fdb7077d564cdd22c3554b43ce49168550c3b12c547b78c517b30"),
        ("+551199999999", "a58d4dce9db87c65ebb6137f91edb9bbe7f274f5b0d07eea82f756ea70532b9c"),
    ],
)
def test_published_phones(value, digest):
    made = identify(batch({"phone": value}), Rules())
    assert [v.hex() for v in made.batch["phone"].to_pylist()] == [digest]


@pytest.mark.parametrize(
    ("column", "value", "digest"),
    [
        (
            "first_name",
            "  GivenName  ",
            "128a07bfe2df877c52076e60d7774cf5baaa046c5a6c48daf30ff43ecca2f814",
        ),
        (
            "last_name",
            "Familyname",
            "77762c287e61ce065bee5c15464012c6fbe088398b8057627d5577249430d574",
        ),
        ("first_name", "John ", "96d9632f363564cc3032521409cf22a852f2032eec099ed5967c0d000cec607a"),
    ],
)
def test_published_names(column, value, digest):
    made = identify(batch(ANNA | {column: value}), Rules())
    assert [v.hex() for v in made.batch[column].to_pylist()] == [digest]


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("cloudy.sanfrancisco+shopping@gmail.com", "cloudysanfrancisco@gmail.com"),
        ("user.name+NYC@Example.com", "user.name+nyc@example.com"),
        ("A.B+x+y@GoogleMail.com", "ab@googlemail.com"),
        ("a.b@notgmail.com", "a.b@notgmail.com"),
        ("a.b@mail.gmail.com", "a.b@mail.gmail.com"),
        ("an na@\u00a0exam\tple.com\ufeff", "anna@example.com"),
        ("ÉLAN@Exämple.com", "élan@exämple.com"),
        ("정@example.com", "정@example.com"),
        # Nothing of these can be an address.
        ("anna", None),
        ("@example.com", None),
        ("anna@", None),
        ("anna@example", None),
        ("anna@.com", None),
        ("anna@example..com", None),
        ("anna@example.com.", None),
        ("anna@home@example.com", None),
        ("+tag@gmail.com", None),
        ("...@gmail.com", None),
        ("an\x00na@example.com", None),
        ("an\u200bna@example.com", None),
    ],
)
def test_the_normal_form_of_an_email(value, normal):
    assert email(pa.array([value])).to_pylist() == [normal]


def test_an_address_is_set_whole_or_not_at_all():
    mail = {"email": "anna@example.com"}
    made = identify(
        batch(mail | ANNA, mail | ANNA | {"last_name": " "}, ANNA, ANNA | {"country": None}),
        Rules(),
    )
    assert made.batch.schema.names == [*COLUMNS[:1], *COLUMNS[2:], "row"]
    whole = {
        "first_name": sha("anna"),
        "last_name": sha("lee"),
        "country": "US",
        "postal_code": "94035",
    }
    nothing = dict.fromkeys(whole)
    assert identified(made) == [
        {"email": sha("anna@example.com")} | whole,
        {"email": sha("anna@example.com")} | nothing,
        {"email": None} | whole,
    ]
    assert made.skipped == {"no usable identifier": 1}
    assert made.unusable == {}


def test_the_default_country_stands_in_for_a_row_without_one():
    row = {name: value for name, value in ANNA.items() if name != "country"}
    made = identify(batch(row | {"phone": "650 555 1212"}), Rules(default_country="us"))
    assert made.batch["country"].to_pylist() == ["US"]
    assert made.batch["phone"].to_pylist() == [sha("+16505551212")]


def test_a_country_that_is_none_is_told_and_the_default_does_not_hide_it():
    made = identify(
        batch(ANNA | {"country": "Germany", "phone": "0170 1234567"}), Rules(default_country="DE")
    )
    assert made.batch.num_rows == 0
    assert made.unusable == {
        "country: not an ISO alpha-2 code": 1,
        "phone: no country code": 1,
    }


def test_names_without_the_rest_of_an_address_make_no_columns():
    made = identify(batch({"first_name": "Anna", "last_name": "Lee", "email": "a@b.cd"}), Rules())
    assert made.batch.schema.names == ["email", "row"]


def test_null_and_blank_are_alike_and_not_unusable():
    blank = {"email": "", "phone": "  ", "first_name": "", "country": "\t"}
    made = identify(batch(blank, dict.fromkeys(blank), {"email": "anna@example.com"}), Rules())
    assert made.rows == 3
    assert made.batch.num_rows == 1
    assert made.skipped == {"no usable identifier": 2}
    assert made.unusable == {}


def test_unusable_values_are_counted_by_column_and_reason():
    made = identify(
        batch(
            {"email": "nobody", "phone": "650 555 1212"},
            {"email": "anna@example.com", "phone": "none"},
            {"email": "x@y", "phone": "+16505551212"},
        ),
        Rules(),
    )
    assert made.unusable == {
        "email: not an e-mail address": 2,
        "phone: no country code": 1,
        "phone: not a phone number": 1,
    }
    assert made.skipped == {"no usable identifier": 1}


def test_prehashed_values_are_taken_as_they_are_beside_plain_ones():
    known = sha("anna@example.com")
    made = identify(
        batch(
            {"email": known.hex().upper()},
            {"email": f" {known.hex()} "},
            {"email": "Anna@example.com"},
            {"email": known.hex()[:-1]},
        ),
        Rules(prehashed=frozenset({"email"})),
    )
    assert made.batch["email"].to_pylist() == [known] * 3
    assert made.unusable == {"email: not an e-mail address": 1}


def test_hashes_that_nobody_announced_are_not_email_addresses():
    made = identify(batch({"email": sha("anna@example.com").hex()}), Rules())
    assert made.unusable == {"email: not an e-mail address": 1}


def test_no_columns_of_use_leave_every_row_out():
    made = identify(pa.record_batch({"city": pa.array(["Paris", None])}), Rules())
    assert (made.rows, made.batch.num_rows) == (2, 0)
    assert made.skipped == {"no usable identifier": 2}


def test_a_slice_of_a_batch_and_an_empty_one_read_as_their_own_rows():
    rows = batch(ANNA | {"email": "a@b.cd"}, ANNA | {"phone": "650 555 1212"}, {"email": "x"})
    made = identify(rows.slice(1), Rules(prehashed=frozenset({"email"})))
    assert identified(made) == [
        {
            "email": None,
            "phone": sha("+16505551212"),
            "first_name": sha("anna"),
            "last_name": sha("lee"),
            "country": "US",
            "postal_code": "94035",
        }
    ]
    assert (made.rows, made.skipped) == (2, {"no usable identifier": 1})
    none = identify(rows.slice(3), Rules(default_country="US"))
    assert (none.rows, none.skipped, none.unusable) == (0, {}, {})
    assert none.batch.schema == made.batch.schema


def test_a_list_of_crm_ids_takes_the_advertisers_own_ids_in_clear():
    rows = pa.record_batch({"external_id": pa.array([" Id-42 ", "", None, "7"])})
    made = IDENTITIES["google_crm"](rows, Rules(consent="granted"))
    assert made.batch.to_pylist() == [
        {"external_id": "Id-42", "row": 0, "consent": 4},
        {"external_id": "7", "row": 3, "consent": 4},
    ]
    assert made.skipped == {"no usable identifier": 2}


def test_a_list_of_phones_takes_advertising_ids_in_clear():
    known = "AECE52E7-03EE-455A-B3C4-E57283966239"
    written = [known, f" {known.lower()} ", "0" * 8 + "-0000-0000-0000-" + "0" * 12,
               known.replace("-", ""), sha(known).hex(), None]  # fmt: skip
    made = IDENTITIES["google_mobile"](
        pa.record_batch({"mobile_ad_id": pa.array(written)}), Rules()
    )
    assert made.batch.to_pylist() == [
        {"mobile_ad_id": known.lower(), "row": 0},
        {"mobile_ad_id": known.lower(), "row": 1},
    ]
    assert made.unusable == {"mobile_ad_id: not an advertising id": 3}
    assert made.skipped == {"no usable identifier": 4}


def test_the_registry_names_both_platforms():
    assert IDENTITIES["google"] is identify
    assert USES["google"] == COLUMNS
    assert USES["google_crm"] == ("external_id",)
    assert USES["google_mobile"] == ("mobile_ad_id",)
    assert set(IDENTITIES) == set(USES)


values = st.none() | st.one_of(
    st.text(),
    st.text("aA1.+@ \t\x00éß정", max_size=12),
    st.emails(),
    st.from_regex(r"\A[aA.+ ]{1,8}@(gmail|googlemail|doe)\.com\Z"),
    st.sampled_from(["US", "de", "Anna", "94035", "+16505551212", "a" * 64, "650 555 1212"]),
)
rows = st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, values)), min_size=1, max_size=8)
rules = st.builds(
    Rules,
    default_country=st.sampled_from([None, "us", "DE"]),
    prehashed=st.frozensets(st.sampled_from(COLUMNS)),
)


@patient
@given(rows, rules, st.frozensets(st.sampled_from(COLUMNS), min_size=1))
def test_any_text_makes_whole_digests_and_every_row_is_accounted_for(rows, rules, names):
    kept = [name for name in COLUMNS if name in names]
    made = identify(batch(*rows).select(kept), rules)
    made.batch.validate(full=True)
    assert made.rows == len(rows) == made.batch.num_rows + sum(made.skipped.values())
    assert all(count > 0 for count in (made.skipped | made.unusable).values())
    for column in {"email", "phone", "first_name", "last_name"} & set(made.batch.schema.names):
        assert made.batch.schema.field(column).type == pa.binary(32)
    for row in identified(made):
        address = {row.get(name) is None for name in COLUMNS[2:]}
        assert len(address) == 1
        assert row.get("email") or row.get("phone") or address == {False}


@patient
@given(rows, rules)
def test_neighbours_change_nothing(rows, rules):
    together = identify(batch(*rows), rules)
    alone = [identify(batch(row), rules) for row in rows]
    assert identified(together) == [row for one in alone for row in identified(one)]
    reasons = {reason for one in alone for reason in one.unusable}
    assert together.unusable == {r: sum(one.unusable.get(r, 0) for one in alone) for r in reasons}
    assert together.batch["row"].to_pylist() == [
        place for place, one in enumerate(alone) if one.batch.num_rows
    ]
    assert together.rejects == [
        (place, *told) for place, one in enumerate(alone) for _, *told in one.rejects
    ]


@patient
@given(st.lists(values, min_size=1, max_size=15))
def test_an_email_in_its_normal_form_stays_as_it_is(values):
    once = email(pa.array(values, pa.string()))
    assert email(once).to_pylist() == once.to_pylist()


@patient
@given(rows, rules)
def test_null_and_empty_are_alike_anywhere(rows, rules):
    empty = [{name: value or "" for name, value in row.items()} for row in rows]
    nulls = [{name: value or None for name, value in row.items()} for row in rows]
    one, other = identify(batch(*empty), rules), identify(batch(*nulls), rules)
    assert identified(one) == identified(other)
    assert (one.skipped, one.unusable) == (other.skipped, other.unusable)
