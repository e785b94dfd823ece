from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.text import BLANK, matches, mended, null_where, without

_NOT_INSIDE: Final = rf"@{BLANK}\p{{Cc}}\p{{Cf}}"
# One @, something before it, and labels with a dot between them after it.
ADDRESS: Final = rf"^[^{_NOT_INSIDE}]+@[^.{_NOT_INSIDE}]+(?:\.[^.{_NOT_INSIDE}]+)+$"


def checked(values: pa.StringArray) -> pa.StringArray:
    """NULL for what cannot be an e-mail address: its hash would match nobody, and look fine."""
    return null_where(values, pc.invert(matches(values, ADDRESS)))


def checked_without_blanks(values: pa.StringArray) -> pa.StringArray:
    """The same after all white space is removed, which only the few that fail have to pay for."""
    return mended(
        values,
        pc.invert(matches(values, ADDRESS)),
        lambda picked: checked(without(picked, f"[{BLANK}]+")),
    )
