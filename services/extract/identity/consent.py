"""What the rows of a batch, and its job, say of people's consent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.spec import CONSENTS
from services.extract.identity.member import Rules
from services.extract.identity.text import looked_up, lower, present

UNSPECIFIED, GRANTED, DENIED = 0, 1, 2
_NOT_READABLE: Final = 255
_CODES: Final = {
    "unspecified": UNSPECIFIED,
    **dict.fromkeys(("granted", "yes", "true", "t", "1"), GRANTED),
    **dict.fromkeys(("denied", "no", "false", "f", "0"), DENIED),
}


class Refusal(NamedTuple):
    """Rows that must be left out. A row may stand in several; the first counts."""

    reason: str
    field: str
    where: pa.BooleanArray


class Consents:
    """Both consents that Google asks for, row by row.

    `ad_user_data` and `ad_personalization` go before `consent`, which speaks for both, and that
    before what the job says.
    """

    def __init__(self, rows: pa.RecordBatch, rules: Rules) -> None:
        self._rules = rules
        self._said = {
            name: _said(rows.column(name)) for name in CONSENTS if name in rows.schema.names
        }
        default = UNSPECIFIED if rules.consent is None else _CODES[rules.consent]
        nothing = np.full(rows.num_rows, default, np.uint8)
        both = self._before(nothing, "consent")
        self._user_data = self._before(both, "ad_user_data")
        self._personalization = self._before(both, "ad_personalization")

    @property
    def codes(self) -> pa.UInt8Array | None:
        """3 * ad_user_data + ad_personalization, or None where nobody said anything."""
        if not self._said and self._rules.consent is None:
            return None
        return pa.array(3 * self._user_data + self._personalization)

    def refusals(self, *, platform_takes_it: bool) -> Iterator[Refusal]:
        """`platform_takes_it`: it is told each row's consent, and does with the row what that
        allows. Others must not get a row that was denied to them.
        """
        for name, codes in self._said.items():
            if (lost := codes == _NOT_READABLE).any():
                # A guess either way would send someone who said no, or lose one who said yes.
                yield Refusal("consent: not readable", name, pa.array(lost))
        consents = (self._user_data, self._personalization)
        if not platform_takes_it:
            denied = np.logical_or(*(codes == DENIED for codes in consents))
            yield Refusal("consent denied", "", pa.array(denied))
        if self._rules.consent_required:
            granted = np.logical_and(*(codes == GRANTED for codes in consents))
            yield Refusal("consent not granted", "", pa.array(~granted))

    def _before(self, other: np.ndarray, name: str) -> np.ndarray:
        codes = self._said.get(name)
        return other if codes is None else np.where(codes == UNSPECIFIED, other, codes)


def _said(column: pa.StringArray) -> np.ndarray:
    words = column.dictionary_encode()
    clean = lower(present(words.dictionary))
    codes = pc.fill_null(looked_up(clean, _CODES, pa.uint8()), _NOT_READABLE)
    codes = pc.if_else(clean.is_null(), pa.scalar(UNSPECIFIED, pa.uint8()), codes)
    return pc.fill_null(codes.take(words.indices), UNSPECIFIED).to_numpy()
