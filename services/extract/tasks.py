"""Thin: what Celery calls, and what becomes of a source's errors."""

from __future__ import annotations

from typing import Any

from penstock import routes
from penstock.contract import Batch, JobRef, JobSpec
from penstock.errors import PayloadsUnreachableError, PenstockError, SettingsError, SpecError
from penstock.ledger import Next
from penstock.ledger.stream import Fenced, StreamLease
from services.extract import preview as previews
from services.extract.app import app
from services.extract.source import Block, Source, SourceBroke, SourceRefused
from services.extract.sources import CHECKS, SOURCES
from services.extract.sources.erasure import ErasureSource
from services.extract.stream import Stream
from services.extract.views import Views
from services.runtime.checks import check_connections
from services.runtime.logs import log
from services.runtime.worker import Worker, worker_of

_PAUSE_SECONDS = 10.0


@app.task(name=routes.EXTRACT)
def run(ref: dict[str, Any]) -> None:
    worker, settings = worker_of(app), app.settings
    lease = worker.ledger.stream.lease(JobRef.read(ref).job_id)
    if not isinstance(lease, StreamLease):
        worker.dispatch.follow(lease)
        return
    try:
        todo = Stream(worker, _source(worker, lease.spec), lease, settings).run()
    except Fenced:
        log.info("job %s: the stream is another's now, or cancelled", lease.job_id)
        return
    except (SourceRefused, SpecError, SettingsError) as exc:
        todo = _give_up(worker, lease, exc)
    except SourceBroke as exc:
        todo = _later(worker, lease, exc, settings.source_tries)
    except PayloadsUnreachableError as exc:
        # Not the source's doing: it burns no attempt, and nothing is lost by waiting.
        log.warning("job %s: %s Trying again in %.0f s.", lease.job_id, exc, _PAUSE_SECONDS)
        todo = _pause(worker, lease, _PAUSE_SECONDS, attempt=False)
    worker.dispatch.follow(todo)


@app.task(name=routes.REFILL)
def refill(message: dict[str, Any]) -> None:
    """Read a batch again whose payload Redis lost."""
    worker = worker_of(app)
    batch = Batch.read(message)
    stream = worker.ledger.stream
    found = stream.range(batch.job_id, batch.seq, batch.generation)
    if not isinstance(found, tuple):
        worker.dispatch.follow(found)
        return
    spec, known = found
    try:
        source = _source(worker, spec)
        views = Views(spec, known["views"], source.describe(total=False).columns)
        with source.open(views.columns, known["after_key"], known["upto_key"]) as reader:
            block = reader.read(known["rows"])
            # Rows that came into the range meanwhile may have pushed others out of the batch.
            cut = block is not None and reader.read(1) is not None
        if block is None:
            # Every row of the range is gone: an empty payload tells that, and settles as such.
            block = Block.empty(source.selected)
        payloads = views.make(block)
        for payload in payloads.values():
            payload.about["cut"] = cut
        worker.payloads.put(batch.job_id, known["epoch"], batch.seq, payloads)
    except (SourceRefused, SpecError, SettingsError) as exc:
        worker.dispatch.follow(stream.fail_range(batch.job_id, batch.generation, str(exc)))
        return
    # A SourceBroke leaves the task as it is; the uploader asks again.
    log.info("job %s: batch %d was read again", batch.job_id, batch.seq)
    worker.dispatch.follow(stream.refilled(batch.job_id, batch.seq, batch.generation))


# Taken off the queue at once: whoever asks is there, and asks again where it gets no answer.
@app.task(name=routes.PREVIEW, acks_late=False)
def preview(message: dict[str, Any]) -> None:
    previews.answer(worker_of(app), _source, message)


@app.task(name=routes.CHECK[routes.EXTRACT_QUEUE], ignore_result=False)
def check() -> list[dict[str, Any]]:
    return check_connections(worker_of(app).connections, CHECKS)


def _source(worker: Worker, spec: JobSpec) -> Source:
    if spec.source.erasure is not None:
        return ErasureSource(worker.ledger, spec.source)
    connection = worker.connections.get(spec.source.connection, *SOURCES)
    return SOURCES[connection.kind](connection, spec.source)


def _give_up(worker: Worker, lease: StreamLease, exc: PenstockError) -> Next | None:
    log.error("job %s cannot be read: %s", lease.job_id, exc)
    try:
        return worker.ledger.stream.fail(lease, str(exc))
    except Fenced:
        return None


def _later(worker: Worker, lease: StreamLease, exc: SourceBroke, most: int) -> Next | None:
    if lease.tries + 1 >= most:
        return _give_up(worker, lease, exc)
    pause = min(2.0**lease.tries, 60)
    log.warning("job %s: %s Trying again in %.0f s.", lease.job_id, exc, pause)
    return _pause(worker, lease, pause, attempt=True)


def _pause(worker: Worker, lease: StreamLease, seconds: float, *, attempt: bool) -> Next | None:
    try:
        return worker.ledger.stream.pause(lease, seconds, attempt=attempt)
    except Fenced:
        return None
