"""Which of a batch's members are sent, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from penstock.ledger import Ledger
from services.upload.chunk import CONSENT, ROW
from services.upload.platforms.digests import DIGEST

SUPPRESSED = "suppressed"
DENIED = "consent denied"
_DENIALS = [code for code in range(9) if 2 in divmod(code, 3)]  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Left:
    """Rows that are not sent, in the order of their places, and why."""

    reason: str
    rows: pa.RecordBatch

    def between(self, after: int, upto: int | None) -> pa.RecordBatch:
        """Those that lie behind one place and not behind the other."""
        places = self.rows.column(ROW)
        inside = pc.greater(places, after)
        if upto is not None:
            inside = pc.and_(inside, pc.less_equal(places, upto))
        return self.rows.filter(inside)


def split(
    members: pa.RecordBatch, unwanted: pa.BooleanArray, reason: str
) -> tuple[pa.RecordBatch, list[Left]]:
    left = members.filter(unwanted)
    if not left.num_rows:
        return members, []
    return members.filter(pc.invert(unwanted)), [Left(reason, left)]


def denied(members: pa.RecordBatch) -> pa.BooleanArray:
    """Members who denied either consent: no platform may use them, and so none gets them."""
    if CONSENT not in members.schema.names or members.schema.field(CONSENT).type != pa.uint8():
        # Rows as they are read may have a column of that name, and it is theirs.
        return pa.array([False] * members.num_rows, pa.bool_())
    # 3 * ad_user_data + ad_personalization, where 2 is a no.
    return pc.is_in(members.column(CONSENT), value_set=pa.array(_DENIALS, pa.uint8()))


def suppressed(ledger: Ledger, members: pa.RecordBatch) -> pa.BooleanArray | None:
    """Members of whom any identifier is on the list of those who must not be sent."""
    if not members.num_rows or not ledger.suppression.any():
        return None
    found = pa.array([False] * members.num_rows, pa.bool_())
    for name in ("email", "phone"):
        if name in members.schema.names and members.schema.field(name).type == DIGEST:
            digests: Sequence[bytes | None] = members.column(name).to_pylist()
            known = ledger.suppression.known([d for d in digests if d is not None])
            if known:
                # is_in has no kernel for fixed-size binaries of every Arrow that is allowed.
                found = pc.or_(found, pa.array([d in known for d in digests]))
    return found
