"""A file lane's dry run: the pieces are made and measured, and nothing is stored."""

from __future__ import annotations

from penstock.contract import GONE, LaneOutcome, Tally
from penstock.ledger.closings import Closing
from penstock.ledger.deliveries import Claim
from penstock.ledger.settling import Beside
from services.export.piece import piece_of
from services.export.settings import ExportSettings
from services.export.target import Target
from services.runtime.worker import Worker


def measure(worker: Worker, settings: ExportSettings, claim: Claim, target: Target) -> None:
    batch = claim.batch
    payload = worker.payloads.take(batch.job_id, claim.epoch, batch.seq, claim.view)
    if payload is None:
        worker.dispatch.follow(worker.ledger.deliveries.missing(claim))
        return
    columns = claim.columns if batch.seq == 0 else None
    body = piece_of(target.destination, payload, columns, settings.gzip_level)
    tally = Tally(accepted=payload.about["rows"])
    tally.count("skipped", claim.rows - payload.about["rows"], GONE)
    beside = Beside(figures={"bytes_it_would_write": len(body)})
    worker.dispatch.follow(worker.ledger.deliveries.settle(claim, tally, beside))


def outcome(closing: Closing, target: Target) -> LaneOutcome:
    """A look at the bucket, which the credentials must be good for."""
    if closing.error or closing.cancelled:
        return LaneOutcome(lost_to="failed" if closing.error else "skipped")
    there = target.store.size(target.bucket, target.key) is not None
    return LaneOutcome(
        details={
            "dry_run": "nothing was written",
            "would_write": f"s3://{target.bucket}/{target.key}",
            "exists_already": there,
        }
    )
