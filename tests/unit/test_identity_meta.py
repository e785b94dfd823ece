from __future__ import annotations

import hashlib
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extract.identity import IDENTITIES, USES, Rules
from services.extract.identity.meta import (
    COLUMNS,
    city,
    email,
    gender,
    identify,
    name,
    postal_code,
    state,
)

TEXTS = ("external_id", "mobile_ad_id")
PHONE_ID = "aece52e7-03ee-455a-b3c4-e57283966239"


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
    ("column", "value", "digest"),
    [
        (
            "email",
            "mary@example.com",
            "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79",
        ),
        (
            "email",
            "John_Smith@gmail.com",
            "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f",
        ),
        (
            "phone",
            "15559876543",
            "1ef970831d7963307784fa8688e8fce101a15685d62aa765fed23f3a2c576a4e",
        ),
        ("first_name", "Mary", "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec"),
        (
            "first_name",
            "Valéry",
            "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c",
        ),
        ("last_name", "정", "8fa8cd9c440be61d0151429310034083132b35975c4bea67fdd74158eb51db14"),
        ("country", "us", "79adb2a2fce5c6ba215fe5f27f532d4e7edbac4b6a5e09e1ef3a08084a904621"),
        ("country", " US ", "79adb2a2fce5c6ba215fe5f27f532d4e7edbac4b6a5e09e1ef3a08084a904621"),
    ],
)
def test_published_values(column, value, digest):
    made = identify(batch({"external_id": "1", column: value}), Rules())
    assert [v.hex() for v in made.batch[column].to_pylist()] == [digest]


@pytest.mark.parametrize("rules", [Rules(), Rules(default_country="DE")])
def test_the_published_phone_of_a_row_in_the_united_states(rules):
    made = identify(batch({"phone": "(650)555-1212", "country": "US"}), rules)
    assert [v.hex() for v in made.batch["phone"].to_pylist()] == [
        "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176"
    ]


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        (" Mary@Example.com ", "mary@example.com"),
        ("john.smith+x@gmail.com", "john.smith+x@gmail.com"),
        ("mary ann@example.com", None),
        ("mary@example", None),
        ("ma\x00ry@example.com", None),
    ],
)
def test_the_normal_form_of_an_email(value, normal):
    made = identify(batch({"email": value, "external_id": "1"}), Rules())
    assert made.batch["email"].to_pylist() == [normal and sha(normal)]


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("Mary-Ann", "maryann"),
        ("O'Neil", "oneil"),
        ("O\u2019Neil", "oneil"),
        ("van der Berg", "vanderberg"),
        ("Mr. Smith, Jr.", "mrsmithjr"),
        ("ÅSA", "åsa"),
        ("ИВАН", "иван"),
        ("शर्मा", "शर्मा"),
        (
            "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
            "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
        ),
        ("Ma\x00ry", "mary"),
        ("John 3rd", "john3rd"),
        ("-", None),
        ("★", None),
        ("\u0301", None),
    ],
)
def test_names_lose_punctuation_and_keep_the_letters_of_any_script(value, normal):
    assert name(pa.array([value])).to_pylist() == [normal]


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("San José", "sanjosé"),
        ("St. John's", "stjohns"),
        ("Paris 15", "paris"),
        ("東京", "東京"),
        ("75015", None),
    ],
)
def test_cities_are_letters_only(value, normal):
    assert city(pa.array([value])).to_pylist() == [normal]


@pytest.mark.parametrize(
    ("value", "country", "normal"),
    [
        ("94035", "US", "94035"),
        ("94035-1234", "US", "94035"),
        ("94035 1234", "US", "94035"),
        ("9403", "US", None),
        ("K1A 0B1", "US", None),
        ("K1A 0B1", "CA", "k1a0b1"),
        ("SW1A\u00a01AA", "GB", "sw1a1aa"),
        ("1234-567", "PT", "1234567"),
        ("1010", "AT", "1010"),
        ("94035-1234", None, "940351234"),
        ("-", "DE", None),
    ],
)
def test_postal_codes_follow_their_country(value, country, normal):
    codes = postal_code(pa.array([value]), pa.array([country], pa.string()))
    assert codes.to_pylist() == [normal]


@pytest.mark.parametrize(
    ("row", "usable"),
    [
        ({"email": "mary@example.com"}, True),
        ({"phone": "+16505551212"}, True),
        ({"external_id": "42"}, True),
        ({"mobile_ad_id": PHONE_ID}, True),
        ({"first_name": "Mary", "last_name": "Lee", "city": "Paris"}, True),
        ({"first_name": "Mary", "last_name": "Lee", "postal_code": "75015"}, True),
        ({"first_name": "Mary", "last_name": "Lee", "country": "FR"}, False),
        (
            {"first_name": "Mary", "last_name": "Lee", "state": "CA", "gender": "f"}
            | {"date_of_birth": "1980-05-17"},
            False,
        ),
        ({"first_name": "Mary", "last_name": "Lee"}, False),
        ({"first_name": "Mary", "city": "Paris", "postal_code": "75015", "country": "FR"}, False),
        ({"email": "mary", "phone": "12", "external_id": " ", "mobile_ad_id": "1"}, False),
    ],
)
def test_what_makes_a_row_usable(row, usable):
    made = identify(batch(row), Rules())
    assert made.batch.num_rows == int(usable)
    assert made.skipped == ({} if usable else {"no usable identifier": 1})


def test_all_columns_in_their_order_with_ids_in_clear():
    row = {
        "email": "Mary@Example.com",
        "phone": "06 12 34 56 78",
        "first_name": "Mary",
        "last_name": "Lee",
        "city": "Saint-Denis",
        "state": "Île-de-France",
        "postal_code": "93 200",
        "country": "fr",
        "gender": "Female",
        "date_of_birth": "1980-05-07",
        "external_id": " Id-42 ",
        "mobile_ad_id": PHONE_ID.upper(),
    }
    made = identify(batch(row).select(list(reversed(COLUMNS))), Rules())
    want = dict.fromkeys(COLUMNS) | {
        "email": "mary@example.com",
        "phone": "33612345678",
        "first_name": "mary",
        "last_name": "lee",
        "city": "saintdenis",
        "state": "îledefrance",
        "postal_code": "93200",
        "country": "fr",
        "gender": "f",
    }
    before, after = COLUMNS[: COLUMNS.index("date_of_birth")], TEXTS
    birth = {"birth_year": "1980", "birth_month": "05", "birth_day": "07"}
    assert made.batch.schema.names == [*before, *birth, *after, "row"]
    hashed = {name: sha(want[name]) for name in before} | {n: sha(v) for n, v in birth.items()}
    clear = {"external_id": "Id-42", "mobile_ad_id": PHONE_ID}
    assert identified(made) == [hashed | clear]


@pytest.mark.parametrize(
    ("value", "country", "normal"),
    [
        ("CA", "US", "ca"),
        ("California", "US", "ca"),
        ("new  york", "US", "ny"),
        ("N.Y.", "US", "ny"),
        ("Washington, D.C.", "US", "dc"),
        ("U.S. Virgin Islands", "US", "vi"),
        ("Bavaria", "US", None),
        ("XX", "US", None),
        ("California", "MX", "california"),
        ("California", None, "california"),
        ("Baden-Württemberg", "DE", "badenwürttemberg"),
        ("75", "FR", None),
    ],
)
def test_states_are_codes_in_the_united_states_and_letters_elsewhere(value, country, normal):
    states = state(pa.array([value]), pa.array([country], pa.string()))
    assert states.to_pylist() == [normal]


def test_states_where_no_row_has_a_country():
    assert state(pa.array(["California", None]), None).to_pylist() == ["california", None]


def test_genders_are_what_is_sure():
    written = ["m", "F", "Male", "FEMALE", "w", "x", "divers", "1", None]
    assert gender(pa.array(written)).to_pylist() == ["m", "f", "m", "f", "f", *[None] * 4]


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("1980-05-17", ("1980", "05", "17")),
        ("2000-02-29", ("2000", "02", "29")),
        ("1980-05-17 00:00:00", ("1980", "05", "17")),
        ("1980-05-17 23:59:59.123+02", ("1980", "05", "17")),
        ("1980-05-17T00:00:00Z", ("1980", "05", "17")),
        ("1900-01-01", ("1900", "01", "01")),
        ("1899-12-31", None),
        ("2999-01-01", None),
        ("1981-02-29", None),
        ("1980-04-31", None),
        ("1980-13-01", None),
        ("1980-00-10", None),
        ("1980-5-17", None),
        ("17.05.1980", None),
        ("05/17/1980", None),
        ("1980-05-17 or so", None),
        ("1980-05-17\n", ("1980", "05", "17")),
        ("infinity", None),
        (" ", None),
    ],
)
def test_a_date_of_birth_is_hashed_in_its_parts(value, parts):
    made = identify(batch({"external_id": "1", "date_of_birth": value}), Rules())
    found = identified(made)[0]
    names = ("birth_year", "birth_month", "birth_day")
    want = (None,) * 3 if parts is None else tuple(map(sha, parts))
    assert tuple(found[n] for n in names) == want
    told = {"date_of_birth: not an ISO date since 1900": 1}
    assert made.unusable == ({} if parts or not value.strip() else told)


def test_the_default_country_stands_in_for_rows_that_name_none():
    rows = [{"external_id": "1", "country": c, "postal_code": "94035-1234"} for c in (None, "DE")]
    made = identify(batch(*rows), Rules(default_country="us"))
    assert made.batch["country"].to_pylist() == [sha("us"), sha("de")]
    assert made.batch["postal_code"].to_pylist() == [sha("94035"), sha("940351234")]


def test_prehashed_columns_take_hashes_as_they_are():
    row = {
        "email": sha("mary@example.com").hex().upper(),
        "phone": sha("16505551212").hex(),
        "first_name": sha("mary").hex(),
        "city": "Paris",
        "country": sha("fr").hex(),
        "external_id": "7",
    }
    rules = Rules(prehashed=frozenset(COLUMNS))
    made = identify(batch(row), rules)
    assert made.unusable == {}
    assert identified(made) == [
        {
            "email": sha("mary@example.com"),
            "phone": sha("16505551212"),
            "first_name": sha("mary"),
            "city": sha("paris"),
            "country": sha("fr"),
            "external_id": "7",
        }
    ]


def test_a_hashed_country_leaves_the_phone_to_the_default():
    row = {"phone": "650 555 1212", "country": sha("us").hex()}
    rules = Rules(default_country="US", prehashed=frozenset({"country"}))
    made = identify(batch(row), rules)
    assert identified(made) == [{"phone": sha("16505551212"), "country": sha("us")}]


def test_unusable_values_are_counted_by_column_and_reason():
    row = {
        "email": "x",
        "phone": "12",
        "first_name": "?",
        "last_name": "!",
        "city": "1",
        "state": "?",
        "postal_code": "--",
        "country": "France",
        "gender": "?",
        "date_of_birth": "?",
        "external_id": "1",
        "mobile_ad_id": "?",
    }
    made = identify(batch(row, dict.fromkeys(row, "") | {"external_id": "2"}), Rules())
    assert made.batch.num_rows == 2
    assert made.unusable == {
        "email: not an e-mail address": 1,
        "phone: no country code": 1,
        "first_name: no letters": 1,
        "last_name: no letters": 1,
        "city: no letters": 1,
        "state: not a state": 1,
        "postal_code: not a postal code": 1,
        "country: not an ISO alpha-2 code": 1,
        "gender: neither male nor female": 1,
        "date_of_birth: not an ISO date since 1900": 1,
        "mobile_ad_id: not an advertising id": 1,
    }


def test_the_registry_names_meta():
    assert IDENTITIES["meta"] is identify
    assert USES["meta"] == COLUMNS


values = st.none() | st.one_of(
    st.text(),
    st.text("aZ1.-' @\x00é정\u0301", max_size=10),
    st.emails(),
    st.sampled_from(["US", "gb", "Mary", "94035-1", "K1A 0B1", "0170 1234567", "F" * 64]),
    st.sampled_from(["ca", "Texas", "m", "1980-02-29", "1981-02-29", PHONE_ID]),
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
    for column in made.batch.schema:
        clear = pa.uint32() if column.name == "row" else pa.string()
        assert column.type == (clear if column.name in (*TEXTS, "row") else pa.binary(32))


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
@given(st.lists(values, min_size=1, max_size=15), st.sampled_from([None, "US", "GB"]))
def test_normal_forms_stay_as_they_are(values, country):
    column = pa.array(values, pa.string())
    places = pa.array([country] * len(values), pa.string())
    by_place = (partial(clean, countries=places) for clean in (postal_code, state))
    for clean in (email, name, city, gender, *by_place):
        once = clean(column)
        assert clean(once).to_pylist() == once.to_pylist()


@patient
@given(rows, rules)
def test_null_and_empty_are_alike_anywhere(rows, rules):
    empty = [{name: value or "" for name, value in row.items()} for row in rows]
    nulls = [{name: value or None for name, value in row.items()} for row in rows]
    one, other = identify(batch(*empty), rules), identify(batch(*nulls), rules)
    assert identified(one) == identified(other)
    assert (one.skipped, one.unusable) == (other.skipped, other.unusable)
