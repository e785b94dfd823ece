"""For a function of one's own that takes batches: what it is told, and what it may raise.

Called as `function(rows, batch)`, with a pyarrow RecordBatch and a `PenstockBatch`. It returns None
where it took all rows, or the rows that it did not take: `(place, reason)` for each, or a dict with
`row`, `field` and `reason`. A place counts from 0 within the rows of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PenstockBatch", "RejectBatch", "TryAgain"]


@dataclass(frozen=True, slots=True)
class PenstockBatch:
    """Whose rows they are."""

    job_id: str
    job_name: str
    lane: str
    #: The number of the batch in the stream.
    seq: int
    #: The same whenever the same rows come again: after a kill they do, even if they were taken.
    key: str
    #: As they stand in the job's destination.
    options: Mapping[str, str]


class TryAgain(Exception):  # noqa: N818 - what to do, not what went wrong
    """The same rows are to come again: after so many seconds, which burns no attempt, or without a
    time after Penstock's own wait, which doubles and comes to an end.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__()
        self.seconds = seconds


class RejectBatch(Exception):  # noqa: N818
    """These rows cannot be taken together. They come again in halves, until the bad ones are found;
    a row that comes alone is rejected for this reason, which must not quote it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
