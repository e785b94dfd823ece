"""Meta's normal forms for Custom Audiences."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.email import checked
from services.extract.identity.intake import Intake
from services.extract.identity.member import Members, Rules
from services.extract.identity.text import BLANK, lower, matches, mended, null_where, without

COLUMNS: Final = (
    "email",
    "phone",
    "first_name",
    "last_name",
    "city",
    "postal_code",
    "country",
    "external_id",
)
# Marks belong to the letters of many scripts, joiners to the spelling of some; digits to names
# such as "John 3rd" but to no city.
_NOT_IN_NAMES: Final = r"[^\p{L}\p{M}\p{N}\x{200c}\x{200d}]+"
_NOT_IN_CITIES: Final = r"[^\p{L}\p{M}\x{200c}\x{200d}]+"
_LETTER_OR_DIGIT: Final = r"[\p{L}\p{N}]"


def identify(rows: pa.RecordBatch, rules: Rules) -> Members:
    """Rows by which Meta can tell one person from another.

    An e-mail address, a phone or an external id does so alone. A first and a last name do only
    with a city or a postal code beside them; a country narrows a match but never makes one.
    """
    intake = Intake(rows, rules)
    columns = {
        "email": intake.email(email),
        "phone": intake.phone(""),
        "first_name": intake.word("first_name", name),
        "last_name": intake.word("last_name", name),
        "city": intake.word("city", city),
        "postal_code": intake.postal_code(postal_code),
        "country": intake.country(),
        "external_id": intake.text("external_id"),
    }
    usable = intake.given(columns["first_name"], columns["last_name"])
    placed = pc.or_(intake.given(columns["city"]), intake.given(columns["postal_code"]))
    usable = pc.and_(usable, placed)
    for alone in ("email", "phone", "external_id"):
        usable = pc.or_(usable, intake.given(columns[alone]))
    return intake.members(columns, usable)


def email(values: pa.StringArray) -> pa.StringArray:
    return checked(lower(values))


def name(values: pa.StringArray) -> pa.StringArray:
    return _with_letters(without(lower(values), _NOT_IN_NAMES))


def city(values: pa.StringArray) -> pa.StringArray:
    return _with_letters(without(lower(values), _NOT_IN_CITIES))


def postal_code(values: pa.StringArray, countries: pa.StringArray | None) -> pa.StringArray:
    """Five digits in the United States; elsewhere, and where nobody says, all but the blanks."""
    codes = without(lower(values), rf"[{BLANK}\p{{Pd}}]+")
    if countries is None:
        return codes
    american = pc.fill_null(pc.equal(countries, "US"), fill_value=False)
    return mended(codes, american, _zip_code)


def _zip_code(codes: pa.StringArray) -> pa.StringArray:
    return pc.utf8_slice_codeunits(
        null_where(codes, pc.invert(matches(codes, "^[0-9]{5,}$"))), 0, 5
    )


def _with_letters(values: pa.StringArray) -> pa.StringArray:
    # Marks and joiners alone are left over from something else.
    return null_where(values, pc.invert(matches(values, _LETTER_OR_DIGIT)))
