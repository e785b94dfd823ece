from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from services.extract.identity.numbering import PLANS


@dataclass(frozen=True, slots=True)
class Rules:
    """What a job's spec says about its own values.

    `default_country` (alpha-2, either case) stands in for a row without a country: as the country
    itself and as the one whose numbering plan its phone follows. Columns named in `prehashed` may
    hold SHA-256 in hex beside plain values; the hashes are taken as they are.
    """

    default_country: str | None = None
    prehashed: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.default_country is None:
            return
        country = self.default_country.strip().upper()
        if country not in PLANS:
            raise ValueError("default_country is not an ISO 3166 alpha-2 code")
        object.__setattr__(self, "default_country", country)


@dataclass(frozen=True, slots=True)
class Members:
    """The usable rows of a batch as a platform wants them, and what became of the others."""

    batch: pa.RecordBatch
    rows: int  # rows that came in
    skipped: dict[str, int]  # rows left out, by reason; they and the batch make up `rows`
    unusable: dict[str, int]  # values left out, by "column: reason"; blanks do not count
