"""Which of a batch's members are sent, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from penstock.ledger import Ledger
from services.upload.chunk import ROW
from services.upload.platforms.digests import DIGEST

SUPPRESSED = "suppressed"


@dataclass(frozen=True, slots=True)
class Left:
    """Rows that are not sent: their places, ascending, and why."""

    reason: str
    places: pa.Array

    def between(self, after: int, upto: int | None) -> int:
        """How many lie behind one place and not behind the other."""
        inside = pc.greater(self.places, after)
        if upto is not None:
            inside = pc.and_(inside, pc.less_equal(self.places, upto))
        return pc.sum(inside).as_py() or 0


def split(
    members: pa.RecordBatch, unwanted: pa.BooleanArray, reason: str
) -> tuple[pa.RecordBatch, list[Left]]:
    left = members.filter(unwanted)
    if not left.num_rows:
        return members, []
    return members.filter(pc.invert(unwanted)), [Left(reason, left.column(ROW))]


def suppressed(ledger: Ledger, members: pa.RecordBatch) -> pa.BooleanArray | None:
    """Members of whom any identifier is on the list of those who must not be sent."""
    if not members.num_rows or not ledger.suppression.any():
        return None
    found = pa.array([False] * members.num_rows)
    for name in ("email", "phone"):
        if name in members.schema.names and members.schema.field(name).type == DIGEST:
            digests: Sequence[bytes | None] = members.column(name).to_pylist()
            known = ledger.suppression.known([d for d in digests if d is not None])
            if known:
                # is_in has no kernel for fixed-size binaries of every Arrow that is allowed.
                found = pc.or_(found, pa.array([d in known for d in digests]))
    return found
