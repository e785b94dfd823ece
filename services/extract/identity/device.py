"""Advertising ids of phones: Apple's IDFA and Android's."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.text import lower, matches, null_where

_ID: Final = "^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
# What every phone shows whose owner wants no tracking.
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"


def advertising_id(values: pa.StringArray) -> pa.StringArray:
    ids = lower(values)
    found = pc.and_(matches(ids, _ID), pc.not_equal(ids, _NOBODY))
    return null_where(ids, pc.invert(found))
