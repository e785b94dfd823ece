"""One batch of a file lane: make its piece, then store the parts that have become whole."""

from __future__ import annotations

from penstock.contract import Batch
from penstock.errors import PayloadKeyError, PayloadsUnreachableError
from penstock.ledger.deliveries import Claim
from penstock.ledger.parts import Part, piece_view
from penstock.payloads import Payload
from services.export import dryrun
from services.export.piece import piece_of
from services.export.settings import ExportSettings
from services.export.store import UploadGone
from services.export.target import Target, target_of
from services.runtime.backoff import seconds_to_wait
from services.runtime.heartbeat import Heartbeat
from services.runtime.logs import log
from services.runtime.verdicts import Fatal, Retryable
from services.runtime.worker import Worker, holder

_UPLOAD = "upload_id"
#: How long a batch waits whose payload cannot be had for the moment.
_PAUSE_SECONDS = 10.0


def write(worker: Worker, settings: ExportSettings, batch: Batch) -> None:
    deliveries = worker.ledger.deliveries
    claim = deliveries.claim(batch, holder())
    if not isinstance(claim, Claim):
        worker.dispatch.follow(claim)
        return
    try:
        target = target_of(worker.connections, claim.spec, batch.job_id, batch.lane)
        if claim.spec.dry_run:
            dryrun.measure(worker, settings, claim, target)
            return
        if claim.state == "pending" and not _make_piece(worker, settings, claim, target):
            return
        while (part := worker.ledger.parts.cut(claim)) is not None:
            # What fails now is this part, be the batch that called for it settled or not.
            batch = Batch(batch.job_id, part.pieces[0][1], batch.generation, batch.lane)
            if part.crashes > settings.max_crashes:
                raise Fatal(f"The worker died {part.crashes} times on one part of the file.")  # noqa: TRY301
            if not _store(worker, settings, claim, target, part):
                return
    except PayloadsUnreachableError as exc:
        log.warning("job %s, lane %s: %s", batch.job_id, batch.lane, exc)
        deliveries.snooze(claim, _PAUSE_SECONDS, {}, tries=claim.tries, throttled=False)
    except PayloadKeyError as exc:
        worker.dispatch.follow(deliveries.fail_lane(batch, str(exc)))
    except Fatal as no:
        log.error("job %s, lane %s ends: %s", batch.job_id, batch.lane, no.reason)
        worker.dispatch.follow(deliveries.fail_lane(batch, no.reason))


def _make_piece(worker: Worker, settings: ExportSettings, claim: Claim, target: Target) -> bool:
    """Put the piece beside the payload it was made of. False where there is nothing to store."""
    batch = claim.batch
    payload = worker.payloads.take(batch.job_id, claim.epoch, batch.seq, claim.view)
    if payload is None:
        worker.dispatch.follow(worker.ledger.deliveries.missing(claim))
        return False
    columns = claim.columns if batch.seq == 0 else None
    with Heartbeat(lambda: worker.ledger.deliveries.renew(claim), settings.lease_seconds):
        body = piece_of(target.destination, payload, columns, settings.gzip_level)
        worker.payloads.put(
            batch.job_id, claim.epoch, batch.seq, {piece_view(batch.lane): Payload(body)}
        )
    gone = claim.rows - payload.about["rows"]
    worker.dispatch.follow(worker.ledger.parts.ready(claim, len(body), gone))
    return True


def _store(
    worker: Worker, settings: ExportSettings, claim: Claim, target: Target, part: Part
) -> bool:
    parts, batch = worker.ledger.parts, claim.batch
    try:
        found = {
            seq: worker.payloads.take(batch.job_id, epoch, seq, piece_view(batch.lane))
            for epoch, seq in part.pieces
        }
    except PayloadsUnreachableError as exc:
        log.warning("job %s, lane %s: %s", batch.job_id, batch.lane, exc)
        parts.release(claim, part, _PAUSE_SECONDS, attempt=False)
        return False
    lost = [seq for seq, piece in found.items() if piece is None]
    if lost:
        worker.dispatch.follow(parts.lost(claim, part, lost))
        return False
    body = b"".join(piece.body for piece in found.values() if piece is not None)
    try:
        with Heartbeat(lambda: parts.renew(claim, part), settings.lease_seconds):
            upload_id = _upload(worker, claim, target)
            target.store.put_part(target.bucket, target.key, upload_id, part.number, body)
    except UploadGone:
        if not parts.renew(claim, part):
            return False  # another has stored it meanwhile, and the file may be complete
        raise Fatal(
            "The store has dropped the unfinished upload (its lifecycle rules may end uploads "
            "early); retry the job."
        ) from None
    except Retryable as later:
        _later(worker, settings, claim, part, later)
        return False
    worker.dispatch.follow(parts.settle(claim, part))
    return True


def _upload(worker: Worker, claim: Claim, target: Target) -> str:
    """The lane's multipart upload, begun by whoever stores the first part."""
    known = claim.memo.get(_UPLOAD)
    if known:
        return str(known)
    begun = target.store.begin(
        target.bucket,
        target.key,
        content_type=target.content_type,
        disposition=target.disposition,
    )
    memo = worker.ledger.deliveries.remember(claim, {_UPLOAD: begun})
    if memo is None or memo[_UPLOAD] != begun:
        target.store.abort(target.bucket, target.key, begun)
    if memo is None:
        raise Retryable("The stream has started over, or the job has ended.")
    claim.memo.update(memo)
    return str(memo[_UPLOAD])


def _later(
    worker: Worker, settings: ExportSettings, claim: Claim, part: Part, later: Retryable
) -> None:
    batch = claim.batch
    seconds = seconds_to_wait(later, part.tries, settings)
    if not later.throttled and part.tries + 1 >= settings.lane_tries:
        raise Fatal(f"{later.reason} (tried {part.tries + 1} times)")
    log.warning(
        "job %s, lane %s, part %d: %s Again in %.1f s.",
        batch.job_id, batch.lane, part.number, later.reason, seconds,
    )  # fmt: skip
    worker.ledger.parts.release(claim, part, seconds, attempt=not later.throttled)
