from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extract.identity.member import Rules
from services.extract.identity.numbering import PLANS
from services.extract.identity.phone import international

# A shared machine may be slow; only wrong answers count.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(written: str, country: str | None = None) -> str | None:
    return international(pa.array([written]), pa.array([country], pa.string())).numbers[0].as_py()


@pytest.mark.parametrize(
    ("written", "country", "number"),
    [
        # The vectors that Google and Meta publish.
        ("1-800-555-0100", None, "18005550100"),
        ("(650)555-1212", "US", "16505551212"),
        ("+551199999999", None, "551199999999"),
        # North America: ten digits lack the 1, eleven have it.
        ("650.555.1212", "CA", "16505551212"),
        ("1 (650) 555-1212", "US", "16505551212"),
        ("876 555 0123", "JM", "18765550123"),
        # A trunk prefix is dropped where the plan has one ...
        ("0170 1234567", "DE", "491701234567"),
        ("020 7946 0000", "GB", "442079460000"),
        ("06 12 34 56 78", "FR", "33612345678"),
        ("06 20 123 4567", "HU", "36201234567"),
        ("8 (916) 123-45-67", "RU", "79161234567"),
        ("8 701 123 45 67", "KZ", "77011234567"),
        ("8 029 123-45-67", "BY", "375291234567"),
        ("0 29 123-45-67", "BY", "375291234567"),
        ("8 600 12345", "LT", "37060012345"),
        ("0 600 12345", "LT", "37060012345"),
        ("01 55 1234 5678", "MX", "525512345678"),
        ("55 1234 5678", "MX", "525512345678"),
        # ... and not where the digit belongs to the number.
        ("812 123 45 67", "RU", "78121234567"),
        ("06 1234 5678", "IT", "390612345678"),
        ("07 01 23 45 67", "CI", "2250701234567"),
        ("612 34 56 78", "ES", "34612345678"),
        ("912 345 678", "PT", "351912345678"),
        ("12 34 56 78", "DK", "4512345678"),
        ("412 34 567", "NO", "4741234567"),
        # International, whatever the row's country is.
        ("+44 20 7946 0000", "US", "442079460000"),
        ("0044 20 7946 0000", "DE", "442079460000"),
        ("(+44) 20/7946-0000", None, "442079460000"),
        ("+44 (0)20 7946 0000", "US", "442079460000"),
        ("+49 0170 1234567", None, "491701234567"),
        ("+36 06 20 123 4567", None, "36201234567"),
        ("+39 06 1234 5678", None, "390612345678"),
        # The plus went missing on the way: longer than any number at home, and begins with the code.
        ("447911123456", "GB", "447911123456"),
        ("4915112345678", "DE", "4915112345678"),
        ("393921234567", "IT", "393921234567"),
        ("3921234567", "IT", "393921234567"),
        ("6591234567", "SG", "6591234567"),
        ("62812345678", "ID", "62812345678"),
        # Extensions, and how other keyboards and address books write.
        ("+1 650 555 1212 ext. 12", None, "16505551212"),
        ("650-555-1212x12", "US", "16505551212"),
        ("650-555-1212 Extension 4", "US", "16505551212"),
        ("650-555-1212 #99", "US", "16505551212"),
        ("\uff0b\uff14\uff19 \uff11\uff17\uff10 1234567", None, "491701234567"),
        ("\u0660\u0665\u0660 \u0661\u0662\u0663 \u0664\u0665\u0666\u0667", "AE", "971501234567"),
        ("+91 ९८७६५ ४३२१०", None, "919876543210"),
        ("\u202a+1\u00a0650\u2011555\u20131212\u202c", None, "16505551212"),
    ],
)
def test_written_phones_become_their_international_digits(written, country, number):
    assert read(written, country) == number


@pytest.mark.parametrize(
    ("written", "country"),
    [
        ("call me", "US"),
        ("650-555-CALL", "US"),
        ("555-1212", "US"),
        ("00", "US"),
        ("---", "US"),
        ("+", None),
        ("+1234567", None),
        ("+0123456789", None),
        ("+1234567890123456", None),
        ("1234567890123456", None),
        ("12+34567890123", None),
        ("++16505551212", None),
        ("+1 650 555 1212 / +1 650 555 1213", None),
        ("650-555-1212 ext", "US"),
        ("a\x00b", "US"),
        ("x12", "US"),
    ],
)
def test_what_is_no_phone_number_stays_none(written, country):
    found = international(pa.array([written]), pa.array([country], pa.string()))
    assert found.numbers.to_pylist() == [None]
    assert found.without_code.true_count == 0


@pytest.mark.parametrize("written", ["650 555 1212", "0170 1234567", "01234567890", "12"])
def test_without_a_country_short_or_trunk_prefixed_digits_lack_a_code(written):
    for countries in (None, pa.array([None], pa.string())):
        found = international(pa.array([written]), countries)
        assert found.numbers.to_pylist() == [None]
        assert found.without_code.true_count == 1


def test_every_row_follows_the_plan_of_its_own_country():
    written = ["0170 1234567", "06 1234 5678", None, "0170 1234567", "+44 20 7946 0000", "12"]
    found = international(pa.array(written), pa.array(["DE", "IT", "DE", None, "FR", None]))
    assert found.numbers.to_pylist() == [
        "491701234567",
        "390612345678",
        None,
        None,
        "442079460000",
        None,
    ]
    assert pc.indices_nonzero(found.without_code).to_pylist() == [3, 5]


def test_every_country_has_a_plan():
    assert len(PLANS) == 249 + len(
        {"AC", "TA", "XK"}
    )  # ISO 3166-1, and three with codes of their own
    for country, plan in PLANS.items():
        assert country.isalpha(), country
        assert country.isupper(), country
        assert 1 <= len(plan.code) <= 3, country
        assert plan.code.isdigit(), country
        assert 4 <= plan.longest <= 15 - len(plan.code), country


def test_calling_codes_can_be_told_apart_by_their_beginning():
    codes = sorted({plan.code for plan in PLANS.values()})
    clashes = [(a, b) for a in codes for b in codes if a != b and b.startswith(a)]
    assert clashes == []


def test_an_unknown_default_country_is_refused_and_a_known_one_written_large():
    with pytest.raises(ValueError, match="alpha-2"):
        Rules(default_country="Germany")
    assert Rules(default_country=" de ").default_country == "DE"


phones = st.one_of(
    st.text(),
    st.text("0123456789+-() ./x#", max_size=20),
    st.from_regex(r"\A(\+|00)?[0-9]{6,16}\Z"),
)
countries = st.none() | st.sampled_from(sorted(PLANS))
rows = st.lists(st.tuples(st.none() | phones, countries), max_size=30)


@patient
@given(rows)
def test_a_number_is_e164_or_none_and_counts_once(rows):
    found = international(
        pa.array([p for p, _ in rows], pa.string()), pa.array([c for _, c in rows], pa.string())
    )
    found.numbers.validate(full=True)
    numbers = found.numbers.to_pylist()
    assert len(numbers) == len(rows)
    for number in filter(None, numbers):
        assert number.isascii()
        assert number.isdigit()
        assert number[0] != "0"
        assert 8 <= len(number) <= 15
    assert 0 <= found.without_code.true_count <= found.numbers.null_count


@patient
@given(rows)
def test_an_international_number_reads_as_itself_everywhere(rows):
    places = pa.array([c for _, c in rows], pa.string())
    first = international(pa.array([p for p, _ in rows], pa.string()), places).numbers
    plus = pa.array([n and f"+{n}" for n in first.to_pylist()], pa.string())
    assert international(plus, places).numbers.to_pylist() == first.to_pylist()
    assert international(plus, None).numbers.to_pylist() == first.to_pylist()


@patient
@given(rows, st.integers(0, 30))
def test_neighbours_and_slices_change_nothing(rows, start):
    written, places = [p for p, _ in rows], [c for _, c in rows]
    whole = international(pa.array(written, pa.string()), pa.array(places, pa.string()))
    alone = [
        international(pa.array([p], pa.string()), pa.array([c], pa.string())).numbers[0].as_py()
        for p, c in rows
    ]
    assert whole.numbers.to_pylist() == alone
    part = international(
        pa.array(written, pa.string()).slice(min(start, len(rows))),
        pa.array(places, pa.string()).slice(min(start, len(rows))),
    )
    assert part.numbers.to_pylist() == alone[start:]
