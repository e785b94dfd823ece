"""One batch of one lane: take, sift, cut, send, settle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from penstock.audiences import AudiencePart
from penstock.contract import GONE, Batch, JobSpec, Rejection, Tally
from penstock.errors import PayloadKeyError, PayloadsUnreachableError
from penstock.ledger import Next
from penstock.ledger.deliveries import Claim
from penstock.ledger.settling import Beside
from services.runtime.heartbeat import Heartbeat
from services.runtime.logs import log
from services.runtime.verdicts import Fatal, Retryable, RowsRejected
from services.runtime.worker import Worker, holder
from services.upload import sift
from services.upload.chunk import after, chunks, lots_of, members_of
from services.upload.mirroring import FOUND_AGAIN, UNCHANGED, BatchMirror, is_mirror
from services.upload.patience import GivenBack, Patience
from services.upload.platform import Action, Lot, Platform, Sender
from services.upload.progress import Progress
from services.upload.requests import Requests
from services.upload.settings import UploadSettings

#: How long a batch waits whose payload cannot be had for the moment.
_PAUSE_SECONDS = 10.0

#: Reasons for which a row is left out that nobody need look into.
_ON_PURPOSE = (sift.SUPPRESSED, UNCHANGED)
_CUT = (
    "The source changed while a lost batch was read again, and rows may be missing: the audience "
    "cannot be replaced by it. Retry the job."
)

PlatformOf = Callable[[JobSpec, Batch], Platform]


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
        self._memo: dict[str, Any] = claim.memo
        self._progress = Progress.read(claim.progress)
        destination = claim.spec.lanes()[claim.batch.lane]
        mode = destination.mode if isinstance(destination, AudiencePart) else "add"
        self._action: Action = "add" if mode == "mirror" else mode
        self._mirrored = is_mirror(claim.spec, claim.batch.lane)
        self._creates = bool(getattr(destination, "create", False))

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
        if payload.about.get("cut") and self._action == "replace":
            return self._ledger.fail_lane(batch, _CUT)
        members = members_of(payload, claim.columns)
        try:
            with Heartbeat(lambda: self._ledger.renew(claim), self._settings.lease_seconds) as beat:
                mirror = (
                    BatchMirror(self._worker.ledger, claim, members) if self._mirrored else None
                )
                self._send(members, mirror, beat)
        except GivenBack:
            return None
        except (Fatal, RowsRejected) as no:
            # The latter where it was no chunk that was refused, but what goes before one.
            log.error("job %s, lane %s ends: %s", batch.job_id, batch.lane, no.reason)
            return self._ledger.fail_lane(batch, no.reason)
        return self._ledger.settle(
            claim, self._tally(payload.about), self._beside(payload.about, mirror)
        )

    def _send(self, members: pa.RecordBatch, mirror: BatchMirror | None, beat: Heartbeat) -> None:
        patience = Patience(self._worker, self._settings, self._claim, self._progress, beat)
        lots = lots_of(members, self._action, by_consent=self._platform.by_consent)
        for lot, rows in lots[self._progress.lot :]:
            wanted, left = self._sifted(after(rows, self._progress.row), mirror)
            # An audience is made by the first batch, be there nobody in it to be sent: others wait.
            if wanted.num_rows or (self._creates and not self._memo):
                sender = self._prepared(lot, wanted.num_rows, patience)
                self._send_lot(wanted, left, sender, patience)
            self._pass_by(left, None)
            self._progress.next_lot()

    def _send_lot(
        self,
        rows: pa.RecordBatch,
        left: list[sift.Left],
        sender: Sender,
        patience: Patience,
    ) -> None:
        requests = Requests(self._platform, sender, patience, self._settings)
        unsent = rows.num_rows
        size = self._platform.row_bytes(rows.schema.names)
        for chunk in chunks(rows, self._platform.limits, size):
            unsent -= chunk.num_rows
            sent = requests.send(chunk, last=unsent == 0)
            self._progress.made += requests.made_since()
            self._progress.requests += requests.open_since()
            self._pass_by(left, chunk)
            self._progress.add(chunk, sent)
            self._memo.update(sent.keep)
            if not self._ledger.renew(self._claim, asdict(self._progress), dict(sent.keep)):
                raise GivenBack

    def _sifted(
        self, rows: pa.RecordBatch, mirror: BatchMirror | None
    ) -> tuple[pa.RecordBatch, list[sift.Left]]:
        left: list[sift.Left] = []
        # Whoever must not be sent may still be taken out. (A mirror has asked for the whole batch.)
        if mirror is None and self._action != "remove":
            rows, more = sift.split(rows, sift.denied(rows), sift.DENIED)
            left += more
            found = sift.suppressed(self._worker.ledger, rows)
            if found is not None:
                rows, more = sift.split(rows, found, sift.SUPPRESSED)
                left += more
        if mirror is not None:
            for unwanted, reason in mirror.unwanted():
                rows, more = sift.split(rows, unwanted(rows), reason)
                left += more
        return rows, left

    def _pass_by(self, left: list[sift.Left], chunk: pa.RecordBatch | None) -> None:
        """Count those that were left out up to the chunk's last row, or to the lot's end."""
        upto = None if chunk is None else chunk.column("row")[-1].as_py()
        for each in left:
            rows = each.between(self._progress.row, upto)
            self._progress.skip(each.reason, rows, reported=each.reason not in _ON_PURPOSE)

    def _prepared(self, lot: Lot, rows: int, patience: Patience) -> Sender:
        while True:
            try:
                new = self._platform.prepare(self._memo, lot)
                if not new:
                    return self._platform.sender(self._memo, rows, lot)
            except Retryable as later:
                patience.refused(self._platform, later)
                continue
            kept = self._ledger.remember(self._claim, new)
            if kept is None:
                raise GivenBack
            self._memo = kept  # and once more: then there is nothing new

    def _tally(self, about: dict[str, Any]) -> Tally:
        tally = Tally(accepted=self._progress.accepted, unusable=about.get("unusable", {}))
        for reason, count in self._progress.rejected.items():
            tally.count("rejected", count, reason)
        for skipped in (self._progress.skipped, about.get("skipped", {})):
            for reason, count in skipped.items():
                tally.count("skipped", count, reason)
        tally.count("skipped", self._claim.rows - about["rows"], GONE)
        return tally

    def _beside(self, about: dict[str, Any], mirror: BatchMirror | None) -> Beside:
        seq, keys = self._claim.batch.seq, about.get("keys", {})
        told = [*about.get("rejects", ()), *self._progress.report]
        beside = Beside(
            rejections=[
                Rejection(row if type(row) is str else keys.get(str(row)) or _place(seq, row), *why)
                for row, *why in told
            ],
            requests=[(request, rows) for request, rows in self._progress.requests],
            figures={"requests": self._progress.made} if self._progress.made else {},
        )
        if mirror is not None and self._claim.spec.dry_run:
            beside.figures[FOUND_AGAIN] = mirror.found_again
        elif mirror is not None:
            beside.also = mirror.staging(self._progress.refused, whole=not about.get("cut"))
        return beside


def _place(seq: int, row: int) -> str:
    return f"batch {seq}, row {row + 1}"


def deliver(
    worker: Worker, settings: UploadSettings, platform_of: PlatformOf, batch: Batch
) -> Next | None:
    """Take the batch, if it is to be had, and bring it to its platform."""
    claim = worker.ledger.deliveries.claim(batch, holder())
    if not isinstance(claim, Claim):
        return claim
    try:
        platform = platform_of(claim.spec, batch)
    except Fatal as no:
        return worker.ledger.deliveries.fail_lane(batch, no.reason)
    return Delivery(worker, settings, platform, claim).run()
