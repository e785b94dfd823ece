"""Phone numbers as people write them, to the digits of E.164."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.numbering import PLANS, Plan
from services.extract.identity.text import (
    BLANK,
    ascii_digits,
    matches,
    mended,
    null_where,
    prefixed,
)

NANP: Final = "1"
NANP_DIGITS: Final = 10
# Shorter digits without a country may well lack their code; E.164 ends at fifteen.
CODE_IS_LIKELY: Final = 11

_WRITTEN: Final = r"^[ (]*\+?[0-9 ()./-]*$"
_EXTENSION: Final = r"(?i)[\s,;]*(?:ext(?:ension|n)?|x|#)[\s.:=]*[0-9]{1,7}$"
_NUMBER: Final = "^[1-9][0-9]{7,14}$"
# "+44 (0)20 …" and "+36 06 1 …": the trunk prefix of a number that has its country code already.
_TRUNK_AFTER_CODE: Final = "^(?:(36)(?:06)+|({})0+)".format(
    "|".join(sorted({plan.code for plan in PLANS.values() if plan.trunks == ("0",)}))
)
# Arabic, Persian and Devanagari keyboards have zeros of their own; NFKC maps none of them.
_ZEROS: Final = "\u0660\u06f0\u0966"
_FOREIGN_DIGIT: Final = r"[\x{660}-\x{669}\x{6f0}-\x{6f9}\x{966}-\x{96f}]"


@dataclass(frozen=True, slots=True)
class Phones:
    numbers: pa.StringArray  # digits from the country code on; NULL where there is no number
    without_code: pa.BooleanArray  # which of those NULLs might be numbers, had they a country


def international(values: pa.StringArray, countries: pa.StringArray | None) -> Phones:
    """`countries` holds keys of PLANS or NULL, and is itself None where no row has one."""
    tidy = mended(values, pc.invert(matches(values, _WRITTEN)), _tidy)
    digits = ascii_digits(tidy)
    digits = null_where(digits, pc.equal(digits, ""))
    zeros = pc.starts_with(digits, "00")
    coded = pc.or_(pc.match_substring(tidy, "+"), zeros)
    digits = mended(digits, zeros, partial(pc.utf8_slice_codeunits, start=2))

    if countries is None:
        countries = pa.nulls(len(values), pa.string())
    national = pc.invert(coded)
    nowhere = pc.and_(national, countries.is_null())
    lost = pc.and_(nowhere, _without_code(digits))
    digits = _from_homes(digits, null_where(countries, coded))

    digits = null_where(digits, lost)
    digits = mended(digits, matches(digits, _TRUNK_AFTER_CODE), _without_trunk)
    numbers = null_where(digits, pc.invert(matches(digits, _NUMBER)))
    return Phones(numbers, lost)


def _tidy(values: pa.StringArray) -> pa.StringArray:
    """What was not plain at first sight: full-width forms, other digits, extensions."""
    tidy = pc.utf8_normalize(values, "NFKC")
    tidy = mended(tidy, matches(tidy, _FOREIGN_DIGIT), _with_ascii_digits)
    # Address books wrap numbers in invisible direction marks.
    tidy = pc.replace_substring_regex(tidy, r"\p{Cf}", "")
    tidy = pc.replace_substring_regex(tidy, rf"[{BLANK}\p{{Pd}}]", " ")
    tidy = pc.replace_substring_regex(tidy, _EXTENSION, "")
    return null_where(tidy, pc.invert(matches(tidy, _WRITTEN)))


def _with_ascii_digits(values: pa.StringArray) -> pa.StringArray:
    for zero in _ZEROS:
        for digit in range(10):
            values = pc.replace_substring(values, chr(ord(zero) + digit), str(digit))
    return values


def _without_code(digits: pa.StringArray) -> pa.BooleanArray:
    short = pc.less(pc.utf8_length(digits), CODE_IS_LIKELY)
    # No calling code begins with 0: that is a trunk prefix.
    return pc.or_(short, pc.starts_with(digits, "0"))


def _from_homes(digits: pa.StringArray, homes: pa.StringArray) -> pa.StringArray:
    """Each country's rows at once, brought side by side first: a list may span all the world."""
    encoded = homes.dictionary_encode()
    order = pc.sort_indices(encoded.indices)  # NULLs come last
    grouped = digits.take(order)
    sizes = np.bincount(encoded.indices.drop_null(), minlength=len(encoded.dictionary))
    start, groups = 0, []
    for country, size in zip(encoded.dictionary.to_pylist(), sizes.tolist(), strict=True):
        groups.append(_from_home(grouped.slice(start, size), PLANS[country]))
        start += size
    groups.append(grouped.slice(start))
    return pa.concat_arrays(groups).take(pc.sort_indices(order))


def _from_home(digits: pa.StringArray, plan: Plan) -> pa.StringArray:
    """A number as dialled inside its country, and one that only lost its "+"."""
    length = pc.utf8_length(digits)
    carries = pc.and_(pc.starts_with(digits, plan.code), pc.greater(length, plan.longest))
    bare = digits
    for trunk in plan.trunks:
        dialled = pc.starts_with(bare, trunk)
        if not trunk.startswith("0"):
            # No national number begins with 0, but Saint Petersburg's begin with 8.
            dialled = pc.and_(dialled, pc.greater(pc.utf8_length(bare), plan.longest))
        bare = mended(bare, dialled, partial(pc.utf8_slice_codeunits, start=len(trunk)))
    if plan.code == NANP:
        # Seven digits lack an area code, and would look whole with a 1 before them.
        bare = null_where(bare, pc.not_equal(length, NANP_DIGITS))
        carries = pc.and_(carries, pc.equal(length, NANP_DIGITS + 1))
    return pc.if_else(carries, digits, prefixed(plan.code, bare))


def _without_trunk(digits: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(digits, _TRUNK_AFTER_CODE, r"\1\2")
