"""Brings an audience's lane to its end: takes out who is no longer in the source (a mirror), hears
the verdicts that come late, and closes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock.audiences import AudiencePart
from penstock.contract import Batch, LaneOutcome
from penstock.ledger.closings import Closing
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable
from services.runtime.worker import Worker
from services.upload import sift
from services.upload.chunk import chunks, lots_of
from services.upload.lane import PlatformOf
from services.upload.mirroring import LaneMirror, lane_mirror, would_take_out
from services.upload.pacing import pacing_of
from services.upload.platform import Checked, LaneEnd, Lot, Platform, Sent
from services.upload.requests import Requests
from services.upload.settings import UploadSettings

#: After so long of sending removals the slot is given back, and taken anew.
_SLICE_SECONDS = 60.0
_SOON_SECONDS = 0.1
# What the lane's memo keeps of the removals.
_GUARDED = "removals_allowed"
_REMOVED_UPTO = "removed_upto"
_SENT_AGAIN_UPTO = "changed_sent_again_upto"
_ALL_REMOVED = "all_removed"
_REFUSED = "removals_refused"
# And of the wait for the platform, which may take a day.
_WAITS_SINCE = "waits_since"
_LONGEST_WAIT_SECONDS = 48 * 3600.0


class _Later(Exception):  # noqa: N818 - how an ending leaves the middle of its work
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def bring_to_end(
    worker: Worker, settings: UploadSettings, platform_of: PlatformOf, closing: Closing
) -> LaneOutcome | Wait:
    # Of no batch.
    platform = platform_of(closing.spec, Batch(closing.job_id, -1, lane=closing.lane))
    return Ending(worker, settings, platform, closing).run()


class Ending:
    def __init__(
        self, worker: Worker, settings: UploadSettings, platform: Platform, closing: Closing
    ) -> None:
        self._ledger = worker.ledger
        self._settings = settings
        self._platform = platform
        self._closing = closing
        self._memo: dict[str, Any] = dict(closing.memo)
        self._accepted = closing.accepted
        self._removed = closing.removed
        self._error = closing.error
        self._until = time.monotonic() + _SLICE_SECONDS

    def run(self) -> LaneOutcome | Wait:
        closing = self._closing
        mirror = None if closing.spec.dry_run else lane_mirror(self._ledger, closing)
        try:
            # Where rows were lost on the way nobody knows who else is still in the source.
            if closing.failed and self._error is None and self._replaces():
                self._error = (
                    "Rows were lost on the way: the audience was not replaced. Retry the job."
                )
            elif mirror is not None and not (closing.error or closing.cancelled or closing.failed):
                self._take_out(mirror)
            found = self._closed()
        except _Later as later:
            return Wait(later.seconds)
        if isinstance(found, Wait):
            return found
        if closing.spec.dry_run:
            found.details.update(would_take_out(self._ledger, closing))
        if self._error is not None and found.error is None:
            found = replace(found, error=self._error)
        if mirror is not None:
            self._end(mirror, found)
        return found

    def _end(self, mirror: LaneMirror, found: LaneOutcome) -> None:
        if found.lost_to and self._removed:
            self._keep({}, -self._removed)  # they were a part of what has come to nothing
        lost = found.error or found.lost_to or self._closing.cancelled or self._closing.failed
        refused = int(self._memo.get(_REFUSED, 0))
        mirror.end(well=not lost, all_removed=not refused)
        if refused:
            found.details["removals_refused"] = refused

    def _replaces(self) -> bool:
        destination = self._closing.spec.lanes()[self._closing.lane]
        return isinstance(destination, AudiencePart) and destination.mode == "replace"

    def _closed(self) -> LaneOutcome | Wait:
        while True:
            found = self._asked()
            if isinstance(found, Wait):
                self._keep({} if _WAITS_SINCE in self._memo else {_WAITS_SINCE: time.time()})
                if time.time() - float(self._memo[_WAITS_SINCE]) > _LONGEST_WAIT_SECONDS:
                    raise Fatal("The platform did not come to an end within two days.")
            if not isinstance(found, Checked):
                return found
            self._heard(found)

    def _asked(self) -> LaneOutcome | Wait | Checked:
        requests = self._ledger.closings.requests(self._closing)
        turns = _Turns(self._settings, self._closing)
        if requests:
            turns.turn(self._platform)
        end = LaneEnd(self._accepted, self._error, self._closing.cancelled, self._removed, requests)
        try:
            return self._platform.close(self._memo, end)
        except Retryable as later:
            turns.refused(self._platform, later)
            raise

    def _heard(self, found: Checked) -> None:
        rejected, of_removals = self._ledger.closings.checked(self._closing, found.requests)
        self._accepted -= rejected
        self._keep({**found.keep, **self._refused(of_removals)}, -of_removals)

    def _hear_all(self) -> None:
        """A platform that works through requests in an order of its own must be through with the
        removals, before who is named in one of them is sent again.
        """
        while self._ledger.closings.requests(self._closing, 1):
            found = self._asked()
            if not isinstance(found, Checked):
                raise _Later(found.seconds if isinstance(found, Wait) else _SOON_SECONDS)
            self._heard(found)

    def _take_out(self, mirror: LaneMirror) -> None:
        if not self._allowed(mirror):
            return
        if self._memo.get(_ALL_REMOVED):
            return
        limits, after = self._platform.limits, int(self._memo.get(_REMOVED_UPTO, -1))
        for removal in mirror.removals(limits.rows, after):
            taken = rejected = 0
            for chunk in chunks(removal.members, limits, self._row_bytes(removal.members)):
                sent = self._send(Lot("remove"), chunk)
                taken += sent.accepted
                rejected += sum(sent.rejected.values())
            self._keep({_REMOVED_UPTO: removal.ords[-1], **self._refused(rejected)}, taken)
        if self._removed:
            self._hear_all()
            self._send_again(mirror)
        self._keep({_ALL_REMOVED: True})

    def _send_again(self, mirror: LaneMirror) -> None:
        """A removal may have named what a member no longer has who is still in the source, and
        taken the person out.
        """
        for seq, members in mirror.changed(int(self._memo.get(_SENT_AGAIN_UPTO, -1))):
            no = sift.suppressed(self._ledger, members)
            wanted = members if no is None else members.filter(pc.invert(no))
            for lot, rows in lots_of(wanted, "add", by_consent=self._platform.by_consent):
                for chunk in chunks(rows, self._platform.limits, self._row_bytes(rows)):
                    if self._send(lot, chunk, again=seq).rejected:
                        mirror.doubt(seq)
            self._keep({_SENT_AGAIN_UPTO: seq})

    def _refused(self, removals: int) -> dict[str, int]:
        return {_REFUSED: int(self._memo.get(_REFUSED, 0)) + removals} if removals else {}

    def _send(self, lot: Lot, chunk: pa.RecordBatch, again: int | None = None) -> Sent:
        """`again`: the batch whose members go once more."""
        if time.monotonic() > self._until:
            raise _Later(_SOON_SECONDS)
        self._keep(self._platform.prepare(self._memo, lot))
        sender = self._platform.sender(self._memo, chunk.num_rows, lot)
        turns = _Turns(self._settings, self._closing)
        requests = Requests(self._platform, sender, turns, self._settings)
        sent = requests.send(chunk, last=True)
        opened = [name for name, _ in requests.open_since()]
        self._ledger.closings.ask_after(self._closing, opened, again)
        self._keep(dict(sent.keep))
        return sent

    def _row_bytes(self, members: pa.RecordBatch) -> int:
        return self._platform.row_bytes(members.schema.names)

    def _allowed(self, mirror: LaneMirror) -> bool:
        """A source that has lost its rows must not empty the audience."""
        destination = self._closing.spec.lanes()[self._closing.lane]
        if self._memo.get(_GUARDED) or not isinstance(destination, AudiencePart):
            return True
        most = destination.max_removed_percent
        gone, known = mirror.count_unseen(), mirror.entries
        if gone * 100 > known * most:
            self._error = (
                f"The source has lost {gone * 100 // known}% of what the audience holds, more than "
                f"`max_removed_percent` ({most}) allows: nobody was taken out. Look at the source, "
                "or raise it."
            )
            return False
        self._keep({_GUARDED: True})
        return True

    def _keep(self, memo: dict[str, Any], removed: int = 0) -> None:
        if not memo and not removed:
            return
        if not self._ledger.closings.keep(self._closing, memo, removed):
            raise Retryable("The closing was taken over by another worker.")
        self._memo |= memo
        self._removed += removed


class _Turns:
    """A closing's patience: it keeps no slot for a long wait, and leaves retries to whoever runs
    closings.
    """

    def __init__(self, settings: UploadSettings, closing: Closing) -> None:
        self._settings = settings
        self._job_id = closing.job_id
        self._pacing = pacing_of(settings)

    def turn(self, platform: Platform) -> None:
        while seconds := self._pacing.admit(platform.account, self._job_id, platform.pace):
            if seconds > self._settings.patience_seconds:
                raise _Later(seconds)
            time.sleep(seconds)

    def answered(self, platform: Platform, sent: Sent) -> None:
        if sent.usage is not None:
            self._pacing.told(platform.account, sent.usage)

    def refused(self, platform: Platform, later: Retryable) -> None:
        if later.throttled and later.after:
            self._pacing.hold(platform.account, later.after)
        raise later
