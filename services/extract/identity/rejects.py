"""What was left out of a batch: how much of it, and where."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A list of nothing but bad rows must not make a payload of reasons. The counts stay exact.
MOST_REJECTS: Final = 1_000

Reject = tuple[int, str, str]


class Rejects:
    """Counts by reason, and the places of the first. Never a value."""

    def __init__(self) -> None:
        self.skipped: dict[str, int] = {}
        self.unusable: dict[str, int] = {}
        self._found: list[tuple[np.ndarray, str, str]] = []

    def values(self, field: str, reason: str, where: pa.BooleanArray) -> None:
        """Values that no platform could match, in rows that may be good for their others."""
        self._add(self.unusable, f"{field}: {reason}", field, reason, where)

    def rows(self, reason: str, where: pa.BooleanArray, field: str = "") -> None:
        """Rows left out whole, for one reason each."""
        self._add(self.skipped, reason, field, reason, where)

    def first(self) -> list[Reject]:
        """Place, field ("" for the whole row) and reason of the first, in the order of the rows."""
        if not self._found:
            return []
        places = np.concatenate([found[0] for found in self._found])
        kinds = np.repeat(np.arange(len(self._found)), [len(found[0]) for found in self._found])
        order = np.argsort(places, kind="stable")[:MOST_REJECTS]
        return [
            (place, *self._found[kind][1:])
            for place, kind in zip(places[order].tolist(), kinds[order].tolist(), strict=True)
        ]

    def _add(
        self, counts: dict[str, int], told: str, field: str, reason: str, where: pa.BooleanArray
    ) -> None:
        count = where.true_count
        if count:
            counts[told] = counts.get(told, 0) + count
            # So many of each are enough to know the first of all.
            places = pc.indices_nonzero(where).slice(0, MOST_REJECTS).to_numpy()
            self._found.append((places, field, reason))
