"""One person's digests are those that the workers make of whole columns."""

from __future__ import annotations

import hashlib
from itertools import product

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import person
from services.extract.identity import IDENTITIES, Rules
from services.extract.identity.numbering import PLANS

# What this Python's Unicode has no letter for yet, the columns' newer one may lower.
_CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
_TEXT = st.text(_CHARACTERS, max_size=12)
_BLANKS = st.text(st.sampled_from(" \t\n\v\x0b\x85\xa0\u2003\u2028\u3000\ufeff\u200b\u200e"), max_size=2)  # fmt: skip
_DOMAINS = st.sampled_from(
    ["gmail.com", "GoogleMail.com", "example.com", "exa mple.org", "ΣΊΣΥΦΟΣ.GR", "İstanbul.com.tr",
     "a..b", "x@y.de", "münchen.de", "notgmail.com", "example"]
)  # fmt: skip
_LOCALS = st.one_of(_TEXT, st.sampled_from(["a.b+c", "+c", "..", "Jo Hn", "ΟΔΟΣ", "J\u0301", ""]))
_EMAILS = st.one_of(
    _TEXT,
    st.builds("{}{}{}@{}{}".format, _BLANKS, _LOCALS, _BLANKS, _DOMAINS, _BLANKS),
)
_CODES = sorted({plan.code for plan in PLANS.values()})
_NUMBERS = st.text(
    st.sampled_from("0123456789 ()./-\u2013\xa0\u200e\u0660\u0665\u06f7\u0968\uff11"), max_size=14
)
_PHONES = st.one_of(
    _TEXT,
    st.builds(
        "{}{}{}{}{}".format,
        _BLANKS,
        st.sampled_from(["+", "00", "+00", "(+", "\uff0b", "+ ", ""]),
        st.sampled_from([*_CODES, "36 06", "44 (0)", "4900", ""]),
        _NUMBERS,
        st.sampled_from(["", " ext. 12", "x3", " #", ";EXTN=123", "ext12345678", "\u017f"]),
    ),
)


def _in_columns(column: str, text: str) -> dict[str, bytes]:
    """What an extract worker would send, under the same names."""
    rows = pa.record_batch({column: pa.array([text], pa.string())})
    found = {}
    for family in ("google", "meta"):
        members = IDENTITIES[family](rows, Rules()).batch
        if members.num_rows and members.column(column)[0].is_valid:
            found[f"{family}:{column}"] = members.column(column)[0].as_py()
    return found


def _sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@settings(max_examples=400, deadline=None)
@given(_EMAILS)
def test_an_email_address_is_read_as_in_columns(text: str) -> None:
    assert person.of_email(text) == _in_columns("email", text)


@settings(max_examples=400, deadline=None)
@given(_PHONES)
def test_a_phone_with_its_country_code_is_read_as_in_columns(text: str) -> None:
    made = person.of_phone(text)
    if made:
        assert made == _in_columns("phone", text)
    elif any(c in text for c in "+\uff0b"):
        # Without a sign of a country code, the columns believe digits that are long enough.
        assert _in_columns("phone", text) == {}


def test_every_country_is_read_as_in_columns() -> None:
    for code, rest in product(_CODES, ["0301234567", "301234567", "00301234", "06123456"]):
        text = f"+{code} {rest}"
        assert person.of_phone(text) == _in_columns("phone", text), text


def test_countries_that_dial_a_zero_are_those_of_the_columns() -> None:
    plans = {plan.code for plan in PLANS.values() if plan.trunks == ("0",)}
    assert set(person.TRUNK_ZERO) == plans


@pytest.mark.parametrize(
    ("text", "google", "meta"),
    [
        ("  ALEXZ@example.com   ", "alexz@example.com", "alexz@example.com"),
        ("cloudy.sanfrancisco+shopping@gmail.com", "cloudysanfrancisco@gmail.com",
         "cloudy.sanfrancisco+shopping@gmail.com"),
        ("user.name+NYC@Example.com", "user.name+nyc@example.com", "user.name+nyc@example.com"),
        ("a b@example.com", "ab@example.com", None),
        ("+x@gmail.com", None, "+x@gmail.com"),
    ],
)  # fmt: skip
def test_each_family_has_its_form(text: str, google: str | None, meta: str | None) -> None:
    forms = {"google:email": google, "meta:email": meta}
    assert person.of_email(text) == {name: _sha(form) for name, form in forms.items() if form}


@pytest.mark.parametrize(
    "text",
    ["+44 20 7946 0018", "+44 (0)20 7946 0018", "0044 20 79460018", "\u202a+44 20\xa07946\u20130018\u202c",
     "+442079460018 ext. 12"],
)  # fmt: skip
def test_a_phone_may_be_written_in_many_ways(text: str) -> None:
    digits = "442079460018"
    assert person.of_phone(text) == {
        "google:phone": _sha(f"+{digits}"),
        "meta:phone": _sha(digits),
    }


@pytest.mark.parametrize(
    "text", ["", "020 7946 0018", "442079460018", "+44", "+44 call me", "a@b.c"]
)
def test_a_phone_without_its_country_is_none(text: str) -> None:
    assert person.of_phone(text) == {}


def test_a_line_is_either_or_a_digest() -> None:
    assert person.of_line(" a.b@gmail.com \n") == {_sha("ab@gmail.com"), _sha("a.b@gmail.com")}
    assert person.of_line("+49 170 1234567") == {_sha("+491701234567"), _sha("491701234567")}
    assert person.of_line(_sha("x").hex().upper()) == {_sha("x")}
    assert person.of_line("nobody") == set()
