"""The states of the United States, by the name people write and the code the Post Office does."""

from __future__ import annotations

from typing import Final

# ANSI INCITS 38: states, the federal district, territories; and the military's three of the USPS.
_NAMES: Final = {
    "al": "Alabama", "ak": "Alaska", "az": "Arizona", "ar": "Arkansas", "ca": "California",
    "co": "Colorado", "ct": "Connecticut", "de": "Delaware", "fl": "Florida", "ga": "Georgia",
    "hi": "Hawaii", "id": "Idaho", "il": "Illinois", "in": "Indiana", "ia": "Iowa",
    "ks": "Kansas", "ky": "Kentucky", "la": "Louisiana", "me": "Maine", "md": "Maryland",
    "ma": "Massachusetts", "mi": "Michigan", "mn": "Minnesota", "ms": "Mississippi",
    "mo": "Missouri", "mt": "Montana", "ne": "Nebraska", "nv": "Nevada", "nh": "New Hampshire",
    "nj": "New Jersey", "nm": "New Mexico", "ny": "New York", "nc": "North Carolina",
    "nd": "North Dakota", "oh": "Ohio", "ok": "Oklahoma", "or": "Oregon", "pa": "Pennsylvania",
    "ri": "Rhode Island", "sc": "South Carolina", "sd": "South Dakota", "tn": "Tennessee",
    "tx": "Texas", "ut": "Utah", "vt": "Vermont", "va": "Virginia", "wa": "Washington",
    "wv": "West Virginia", "wi": "Wisconsin", "wy": "Wyoming", "dc": "District of Columbia",
    "as": "American Samoa", "gu": "Guam", "mp": "Northern Mariana Islands", "pr": "Puerto Rico",
    "um": "US Minor Outlying Islands", "vi": "US Virgin Islands",
    "aa": "Armed Forces Americas", "ae": "Armed Forces Europe", "ap": "Armed Forces Pacific",
}  # fmt: skip
_ALSO: Final = {"washingtondc": "dc", "virginislands": "vi"}


def _letters(name: str) -> str:
    return name.lower().replace(" ", "")


#: Code by name or code, both in the letters that are left of a city or state.
STATES: Final = (
    {code: code for code in _NAMES}
    | {_letters(name): code for code, name in _NAMES.items()}
    | _ALSO
)
