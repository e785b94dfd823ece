"""One batch of one lane: take, cut, send, settle."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from penstock.contract import GONE, Batch, Tally
from penstock.errors import PayloadKeyError, PayloadsUnreachableError
from penstock.ledger import Next
from penstock.ledger.deliveries import Claim
from services.runtime.backoff import seconds_to_wait
from services.runtime.heartbeat import Heartbeat
from services.runtime.logs import log
from services.runtime.verdicts import Fatal, Retryable, RowsRejected
from services.runtime.worker import Worker, holder
from services.upload.chunk import chunks, members_of
from services.upload.platform import Platform, Sender, Sent
from services.upload.settings import UploadSettings

#: How long a batch waits whose payload cannot be had for the moment.
_PAUSE_SECONDS = 10.0


@dataclass(slots=True)
class _Progress:
    """What of a batch is sent: kept in the ledger, so that a retry does not send it twice."""

    done: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def add(self, rows: int, sent: Sent) -> None:
        self.done += rows
        self.accepted += sent.accepted
        for reason, count in sent.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


class _Given(Exception):  # noqa: N818 - how a delivery leaves the middle of its work
    """The batch was given back, or taken by another."""


class Delivery:
    """Brings one claimed batch to a platform."""

    def __init__(
        self, worker: Worker, settings: UploadSettings, platform: Platform, claim: Claim
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._platform = platform
        self._claim = claim
        self._ledger = worker.ledger.deliveries
        self._progress = _Progress(**claim.progress)
        self._tries = claim.tries

    def run(self) -> Next | None:
        claim = self._claim
        batch = claim.batch
        try:
            payload = self._worker.payloads.take(batch.job_id, claim.epoch, batch.seq, claim.view)
        except PayloadsUnreachableError as exc:
            log.warning("job %s, lane %s: %s", batch.job_id, batch.lane, exc)
            self._ledger.snooze(
                claim, _PAUSE_SECONDS, claim.progress, tries=claim.tries, throttled=False
            )
            return None
        except PayloadKeyError as exc:
            return self._ledger.fail_lane(batch, str(exc))
        if payload is None:
            return self._ledger.missing(claim)
        members = members_of(payload)
        try:
            with Heartbeat(lambda: self._ledger.renew(claim), self._settings.lease_seconds) as beat:
                self._send(members, beat)
        except _Given:
            return None
        except Fatal as no:
            log.error("job %s, lane %s ends: %s", batch.job_id, batch.lane, no.reason)
            return self._ledger.fail_lane(batch, no.reason)
        return self._ledger.settle(claim, self._tally(payload.about))

    def _send(self, members: pa.RecordBatch, beat: Heartbeat) -> None:
        if members.num_rows == 0:
            return
        sender = self._prepared(members.num_rows, beat)
        size = self._platform.row_bytes(members.schema.names)
        for chunk in chunks(members, self._platform.limits, size, self._progress.done):
            last = self._progress.done + chunk.num_rows == members.num_rows
            self._progress.add(chunk.num_rows, self._sent(sender, chunk, last=last, beat=beat))
            if not last and not self._ledger.renew(self._claim, asdict(self._progress)):
                raise _Given

    def _prepared(self, rows: int, beat: Heartbeat) -> Sender:
        memo = self._claim.memo
        while True:
            try:
                new = self._platform.prepare(memo)
            except Retryable as later:
                self._wait(later, beat)
                continue
            if new:
                kept = self._ledger.remember(self._claim, new)
                if kept is None:
                    raise _Given
                memo = kept
            return self._platform.sender(memo, rows)

    def _sent(self, sender: Sender, chunk: pa.RecordBatch, *, last: bool, beat: Heartbeat) -> Sent:
        while True:
            if beat.lost:
                raise _Given
            try:
                sent = sender.send(chunk, last=last)
            except Retryable as later:
                self._wait(later, beat)
            except RowsRejected as no:
                return Sent(0, {no.reason: chunk.num_rows})
            else:
                self._tries = 0
                return sent

    def _wait(self, later: Retryable, beat: Heartbeat) -> None:
        """Sleep a short wait; give the batch back for a long one. Being told to slow down burns no
        attempt; when the attempts are used up, the lane ends.
        """
        settings = self._settings
        seconds = seconds_to_wait(later, self._tries, settings)
        if not later.throttled:
            self._tries += 1
            if self._tries >= settings.lane_tries:
                raise Fatal(f"{later.reason} (tried {self._tries} times)")
        batch = self._claim.batch
        log.warning(
            "job %s, lane %s, batch %d: %s Again in %.1f s.",
            batch.job_id, batch.lane, batch.seq, later.reason, seconds,
        )  # fmt: skip
        if seconds <= settings.patience_seconds and not beat.lost:
            time.sleep(seconds)
            return
        self._ledger.snooze(
            self._claim, seconds, asdict(self._progress), tries=self._tries,
            throttled=later.throttled,
        )  # fmt: skip
        raise _Given

    def _tally(self, about: dict[str, Any]) -> Tally:
        tally = Tally(accepted=self._progress.accepted, unusable=about["unusable"])
        for reason, count in self._progress.rejected.items():
            tally.count("rejected", count, reason)
        for reason, count in about["skipped"].items():
            tally.count("skipped", count, reason)
        tally.count("skipped", self._claim.rows - about["rows"], GONE)
        return tally


def deliver(
    worker: Worker, settings: UploadSettings, platform_of: Any, batch: Batch
) -> Next | None:
    """Take the batch, if it is to be had, and bring it to its platform."""
    claim = worker.ledger.deliveries.claim(batch, holder())
    if not isinstance(claim, Claim):
        return claim
    try:
        platform = platform_of(claim.spec, batch.lane)
    except Fatal as no:
        return worker.ledger.deliveries.fail_lane(batch, no.reason)
    return Delivery(worker, settings, platform, claim).run()
