from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from services.extract.identity.numbering import PLANS
from services.extract.identity.rejects import Reject


@dataclass(frozen=True, slots=True)
class Rules:
    """What a job's spec says about its own values.

    `default_country` (alpha-2, either case) stands in for a row without a country: as the country
    itself and as the one whose numbering plan its phone follows. Columns named in `prehashed` may
    hold SHA-256 in hex beside plain values; the hashes are taken as they are. `consent` speaks for
    rows that say nothing themselves; with `consent_required` nobody is sent who did not grant it.
    """

    default_country: str | None = None
    prehashed: frozenset[str] = field(default_factory=frozenset)
    consent: Literal["granted", "denied"] | None = None
    consent_required: bool = False

    def __post_init__(self) -> None:
        if self.default_country is None:
            return
        country = self.default_country.strip().upper()
        if country not in PLANS:
            raise ValueError("default_country is not an ISO 3166 alpha-2 code")
        object.__setattr__(self, "default_country", country)


@dataclass(frozen=True, slots=True)
class Members:
    """The usable rows of a batch as a platform wants them, and what became of the others.

    Beside the identifiers the batch has `row` (a row's place in what came in), and `row_key` and
    `consent` where there are any.
    """

    batch: pa.RecordBatch
    rows: int  # rows that came in
    skipped: dict[str, int]  # rows left out, by reason; they and the batch make up `rows`
    unusable: dict[str, int]  # values left out, by "column: reason"; blanks do not count
    rejects: list[Reject]  # where the first of both were: place, field, reason
    keys: dict[int, str]  # of rejects' places: the row's own key, where it has one to show
