"""Meta's normal forms for Custom Audiences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.email import checked
from services.extract.identity.intake import Intake
from services.extract.identity.member import Members, Rules
from services.extract.identity.regions import STATES
from services.extract.identity.text import (
    BLANK,
    looked_up,
    lower,
    matches,
    mended,
    null_where,
    over_distinct,
    without,
)

COLUMNS: Final = (
    "email",
    "phone",
    "first_name",
    "last_name",
    "city",
    "state",
    "postal_code",
    "country",
    "gender",
    "date_of_birth",
    "external_id",
    "mobile_ad_id",
)
# "w" is what German and Dutch forms write.
_GENDERS: Final = {
    **dict.fromkeys(("m", "male", "man"), "m"),
    **dict.fromkeys(("f", "female", "w", "woman"), "f"),
}
# Marks belong to the letters of many scripts, joiners to the spelling of some; digits to names
# such as "John 3rd" but to no city.
_NOT_IN_NAMES: Final = r"[^\p{L}\p{M}\p{N}\x{200c}\x{200d}]+"
_NOT_IN_CITIES: Final = r"[^\p{L}\p{M}\x{200c}\x{200d}]+"
_LETTER_OR_DIGIT: Final = r"[\p{L}\p{N}]"


def identify(rows: pa.RecordBatch, rules: Rules) -> Members:
    """Rows by which Meta can tell one person from another.

    An e-mail address, a phone, an external id or a mobile advertising id does so alone. A first and
    a last name do only with a city or a postal code beside them; a state, a country, a gender and a
    date of birth narrow a match but never make one.
    """
    intake = Intake(rows, rules)
    columns = {
        "email": intake.email(email),
        "phone": intake.phone(""),
        "first_name": intake.word("first_name", name),
        "last_name": intake.word("last_name", name),
        "city": intake.word("city", city),
        "state": intake.place("state", "not a state", state),
        "postal_code": intake.place("postal_code", "not a postal code", postal_code),
        "country": intake.country(),
        "gender": intake.word("gender", gender, "neither male nor female"),
        **intake.birth(),
        "external_id": intake.text("external_id"),
        "mobile_ad_id": intake.mobile_ad_id(),
    }
    usable = intake.given(columns["first_name"], columns["last_name"])
    placed = pc.or_(intake.given(columns["city"]), intake.given(columns["postal_code"]))
    usable = pc.and_(usable, placed)
    for alone in ("email", "phone", "external_id", "mobile_ad_id"):
        usable = pc.or_(usable, intake.given(columns[alone]))
    return intake.members(columns, usable, platform_takes_consent=False)


def email(values: pa.StringArray) -> pa.StringArray:
    return checked(lower(values))


def name(values: pa.StringArray) -> pa.StringArray:
    return _with_letters(without(lower(values), _NOT_IN_NAMES))


def city(values: pa.StringArray) -> pa.StringArray:
    return _with_letters(without(lower(values), _NOT_IN_CITIES))


def state(values: pa.StringArray, countries: pa.StringArray | None) -> pa.StringArray:
    """The code in the United States; elsewhere, and where nobody says, the name's letters."""
    names = over_distinct(values, city)
    return _where_american(names, countries, lambda picked: looked_up(picked, STATES))


def gender(values: pa.StringArray) -> pa.StringArray:
    return looked_up(lower(values), _GENDERS)


def postal_code(values: pa.StringArray, countries: pa.StringArray | None) -> pa.StringArray:
    """Five digits in the United States; elsewhere, and where nobody says, all but the blanks."""
    codes = without(lower(values), rf"[{BLANK}\p{{Pd}}]+")
    return _where_american(codes, countries, _zip_code)


def _where_american(
    values: pa.StringArray,
    countries: pa.StringArray | None,
    mend: Callable[[pa.StringArray], pa.StringArray],
) -> pa.StringArray:
    if countries is None:
        return values
    american = pc.fill_null(pc.equal(countries, "US"), fill_value=False)
    return mended(values, american, mend)


def _zip_code(codes: pa.StringArray) -> pa.StringArray:
    return pc.utf8_slice_codeunits(
        null_where(codes, pc.invert(matches(codes, "^[0-9]{5,}$"))), 0, 5
    )


def _with_letters(values: pa.StringArray) -> pa.StringArray:
    # Marks and joiners alone are left over from something else.
    return null_where(values, pc.invert(matches(values, _LETTER_OR_DIGIT)))
