"""A platform that is looked at and never changed: what a dry run's lanes are given for theirs.

It has no way to the calls that change something: it holds the platform, and uses `look` and
`validate` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from penstock.contract import LaneOutcome
from services.runtime.closing import Wait
from services.upload.platform import Checked, LaneEnd, Limits, Lot, Pace, Platform, Sender, Sent

_FOUND = "found"


class DryRun:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.limits: Limits = platform.limits
        # Most of its requests are never made: they must not use up what real ones are allowed.
        self.pace: Pace = Pace()
        self.by_consent: bool = platform.by_consent

    @property
    def account(self) -> str:
        return self._platform.account

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:  # noqa: ARG002
        return {} if _FOUND in memo else {_FOUND: self._platform.look()}

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> Sender:  # noqa: ARG002
        return _Validator(self._platform, lot)

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait | Checked:
        if end.error or end.cancelled:
            return LaneOutcome(lost_to="failed" if end.error else "skipped")
        found = memo[_FOUND] if _FOUND in memo else self._platform.look()
        return LaneOutcome(details={"dry_run": "nothing was sent", **found})

    def look(self) -> dict[str, Any]:
        return self._platform.look()

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent | None:
        return self._platform.validate(chunk, lot)

    def row_bytes(self, columns: list[str]) -> int:
        return self._platform.row_bytes(columns)


class _Validator:
    def __init__(self, platform: Platform, lot: Lot) -> None:
        self._platform = platform
        self._lot = lot

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        checked = self._platform.validate(chunk, self._lot)
        # What cannot be asked is taken to be as good as it looks.
        return checked if checked is not None else Sent(chunk.num_rows)
