"""Brings a file to its end: complete it, look at what is stored, make the link; or take it back."""

from __future__ import annotations

from typing import Any

from penstock.contract import Artifact, LaneOutcome
from penstock.ledger.closings import Closing
from services.export import dryrun
from services.export.piece import piece_of
from services.export.settings import ExportSettings
from services.export.store import UploadGone
from services.export.target import Target, target_of
from services.runtime.verdicts import Fatal
from services.runtime.worker import Worker


def bring_to_end(worker: Worker, settings: ExportSettings, closing: Closing) -> LaneOutcome:
    target = target_of(worker.connections, closing.spec, closing.job_id, closing.lane)
    if closing.spec.dry_run:
        return dryrun.outcome(closing, target)
    for memo in closing.abandoned:
        _abort(target, memo)
    if closing.error or closing.cancelled:
        # No file, so no row of it was delivered.
        _abort(target, closing.memo)
        return LaneOutcome(lost_to="failed" if closing.error else "skipped")
    return _complete(closing, target, settings)


def _complete(closing: Closing, target: Target, settings: ExportSettings) -> LaneOutcome:
    store, bucket, key = target.store, target.bucket, target.key
    upload_id = closing.memo.get("upload_id")
    if upload_id is None:
        # No batch, no part: a file with its head alone.
        body = piece_of(target.destination, None, closing.columns, settings.gzip_level)
        store.put(
            bucket, key, body, content_type=target.content_type, disposition=target.disposition
        )
    else:
        try:
            # What the store has counts, not what we remember of it.
            parts = store.parts(bucket, key, upload_id)
            missing = set(range(1, closing.parts + 1)) - set(parts)
            if missing:
                raise Fatal(f"The store has lost {len(missing)} parts of the file; retry the job.")
            store.complete(bucket, key, upload_id, parts)
        except UploadGone:
            # Completed by a worker that died before it could say so: then the object is there.
            # (Of another size it is another's, and ours was dropped.)
            if store.size(bucket, key) != closing.bytes:
                raise Fatal("The store has dropped the unfinished upload; retry the job.") from None
    # Read back once: the sum is that of the bytes which whoever has the link will get.
    size, sha256 = store.digest(bucket, key)
    if upload_id is not None and size != closing.bytes:
        raise Fatal(
            f"The store's object has {size} bytes where {closing.bytes} were stored; another may "
            "write to the same key. Retry the job."
        )
    url, expires = store.link(bucket, key, target.destination.link_seconds)
    return LaneOutcome(
        artifacts=[Artifact(bucket, key, url, size, closing.accepted, sha256, expires)]
    )


def _abort(target: Target, memo: dict[str, Any]) -> None:
    if memo.get("upload_id"):
        target.store.abort(target.bucket, target.key, memo["upload_id"])
