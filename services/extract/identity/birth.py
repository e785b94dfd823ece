"""Dates of birth, as a database writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.text import matches, null_where

_WRITTEN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9:.]+ ?(?:Z|[+-][0-9:]+)?)?$"
# Meta takes no year before it; databases use some as a word for "unknown".
_FIRST: Final = "1900-01-01"


def dates(values: pa.StringArray) -> pa.StringArray:
    """ISO dates, of which a timestamp is one and a time. What day it was in is as it is written."""
    written = null_where(values, pc.invert(matches(values, _WRITTEN)))
    days = pc.utf8_slice_codeunits(written, 0, 10)
    # It takes the 30th of February for the 1st of March: only a real day comes back as it was.
    parsed = pc.strptime(days, format="%Y-%m-%d", unit="s", error_is_null=True)
    real = pc.equal(parsed.cast(pa.date32()).cast(pa.string()), days)
    today = datetime.now(UTC).date().isoformat()
    lived = pc.and_(pc.greater_equal(days, _FIRST), pc.less_equal(days, today))
    return null_where(days, pc.invert(pc.fill_null(pc.and_(real, lived), fill_value=False)))


def parts(days: pa.StringArray) -> dict[str, pa.StringArray]:
    return {
        "birth_year": pc.utf8_slice_codeunits(days, 0, 4),
        "birth_month": pc.utf8_slice_codeunits(days, 5, 7),
        "birth_day": pc.utf8_slice_codeunits(days, 8, 10),
    }
