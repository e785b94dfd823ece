from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.spec import CONSENTS
from services.extract.identity import IDENTITIES, Members, Rules

WORDS = {
    0: (None, "", "  ", "unspecified", "UNSPECIFIED"),
    1: ("granted", "Yes", "TRUE", "t", "1", " granted "),
    2: ("denied", "No", "False", "F", "0"),
}
CODES = {word: code for code, words in WORDS.items() for word in words}
GOOGLE = ("google", "google_crm", "google_mobile")
ID = "aece52e7-03ee-455a-b3c4-e57283966239"


def identify(view: str, said: dict[str, list[Any]], rows: int = 1, **rules: Any) -> Members:
    """Rows that are perfect but for what is `said` of consent."""
    columns = {"email": "a@b.cd", "external_id": "1", "mobile_ad_id": ID}
    batch = {name: [value] * rows for name, value in columns.items()} | said
    typed = {name: pa.array(values, pa.string()) for name, values in batch.items()}
    return IDENTITIES[view](pa.record_batch(typed), Rules(**rules))


@pytest.mark.parametrize("view", GOOGLE)
def test_google_is_told_each_rows_consent(view):
    words = list(CODES)
    made = identify(view, {"consent": words}, len(words))
    assert made.batch.schema.field("consent").type == pa.uint8()
    assert made.batch["consent"].to_pylist() == [4 * CODES[word] for word in words]
    assert (made.skipped, made.rejects) == ({}, [])


def test_each_of_the_two_goes_before_both_and_that_before_the_jobs_own():
    said = {
        "consent": ["granted", "granted", "", None, "denied"],
        "ad_user_data": ["denied", "", "granted", None, "unspecified"],
        "ad_personalization": ["granted", "no", "", "", None],
    }
    made = identify("google", said, 5, consent="denied")
    assert made.batch["consent"].to_pylist() == [3 * 2 + 1, 3 + 2, 3 + 2, 8, 8]


@pytest.mark.parametrize(("value", "code"), [("granted", 4), ("denied", 8)])
def test_the_jobs_own_word_stands_for_all_rows_of_a_source_without_the_column(value, code):
    assert identify("google", {}, 2, consent=value).batch["consent"].to_pylist() == [code] * 2


@pytest.mark.parametrize("view", IDENTITIES)
def test_where_nobody_says_anything_there_is_no_column(view):
    made = identify(view, {}, 2)
    assert made.batch.num_rows == 2
    assert "consent" not in made.batch.schema.names


@pytest.mark.parametrize("view", IDENTITIES)
@pytest.mark.parametrize("name", CONSENTS)
def test_a_consent_that_cannot_be_read_leaves_the_row_out(view, name):
    made = identify(view, {name: ["granted", "maybe", "2", "ja"]}, 4)
    assert made.batch["row"].to_pylist() == [0]
    assert made.skipped == {"consent: not readable": 3}
    assert made.rejects == [(place, name, "consent: not readable") for place in (1, 2, 3)]


def test_a_row_is_left_out_once_whatever_speaks_against_it():
    said = {"consent": ["maybe"], "ad_user_data": ["who knows"], "email": ["nobody"]}
    made = identify("google", said, consent_required=True)
    assert made.skipped == {"consent: not readable": 1}
    assert made.unusable == {"email: not an e-mail address": 1}
    assert made.rejects == [
        (0, "email", "not an e-mail address"),
        (0, "consent", "consent: not readable"),
    ]


@pytest.mark.parametrize("name", CONSENTS)
def test_meta_gets_nobody_who_was_denied_to_it(name):
    made = identify("meta", {name: ["granted", "denied", None]}, 3)
    assert made.batch["row"].to_pylist() == [0, 2]
    assert "consent" not in made.batch.schema.names
    assert made.skipped == {"consent denied": 1}
    assert made.rejects == [(1, "", "consent denied")]


def test_meta_gets_nobody_where_the_job_says_denied():
    assert identify("meta", {}, 3, consent="denied").skipped == {"consent denied": 3}


@pytest.mark.parametrize("view", IDENTITIES)
def test_where_consent_is_required_both_must_be_granted(view):
    said = {
        "ad_user_data": ["granted", "granted", None, "denied"],
        "ad_personalization": ["granted", None, "granted", "granted"],
    }
    made = identify(view, said, 4, consent_required=True)
    assert made.batch["row"].to_pylist() == [0]
    denied = {"consent denied": 1} if view == "meta" else {}
    assert made.skipped == {"consent not granted": 3 - len(denied)} | denied


@pytest.mark.parametrize("view", IDENTITIES)
def test_where_consent_is_required_and_nobody_says_anything_nobody_is_sent(view):
    assert identify(view, {}, 2, consent_required=True).skipped == {"consent not granted": 2}
    assert identify(view, {}, 2, consent="granted", consent_required=True).skipped == {}


words = st.sampled_from([*CODES, "maybe"])
people = st.lists(st.fixed_dictionaries(dict.fromkeys(CONSENTS, words)), min_size=1, max_size=6)


@settings(deadline=None)
@given(
    people,
    st.frozensets(st.sampled_from(CONSENTS)),
    st.sampled_from([None, "granted", "denied"]),
    st.booleans(),
)
def test_every_row_ends_as_it_would_by_hand(rows, names, default, required):
    def fate(row: dict[str, str | None]) -> tuple[str, int]:
        said = {name: CODES.get(row[name], -1) for name in names}
        if -1 in said.values():
            return "consent: not readable", 0
        both = said.get("consent") or CODES[default]
        user, personal = (said.get(n) or both for n in ("ad_user_data", "ad_personalization"))
        if required and not user == personal == 1:
            return "consent not granted", 0
        return "", 3 * user + personal

    columns = {name: [row[name] for row in rows] for name in CONSENTS if name in names}
    rules = {"consent": default, "consent_required": required}
    made = identify("google", columns, len(rows), **rules)
    fates = [fate(row) for row in rows]
    assert made.batch["row"].to_pylist() == [n for n, (why, _) in enumerate(fates) if not why]
    if names or default:
        assert made.batch["consent"].to_pylist() == [code for why, code in fates if not why]
    whys = [why for why, _ in fates if why]
    assert made.skipped == {why: whys.count(why) for why in whys}
    assert [(place, why) for place, _, why in made.rejects] == [
        (place, why) for place, (why, _) in enumerate(fates) if why
    ]
