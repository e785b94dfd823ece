"""Small quick tasks: open a job, finalize it, sweep."""

from __future__ import annotations

from typing import Any

from penstock import routes
from penstock.contract import JobRef, JobSpec
from penstock.errors import (
    JobExistsError,
    LedgerSchemaError,
    LedgerUnreachableError,
    SpecError,
)
from penstock.spec import JOB_ID
from services.jobs.app import app
from services.runtime.logs import log
from services.runtime.worker import Worker, worker_of


@app.task(name=routes.OPEN, bind=True)
def open_job(self: Any, document: Any) -> None:
    """Write job and lanes to the ledger, start the stream and the chord.

    `document` is a spec from any app, or a reference to a job that is in the ledger. Delivered
    twice it does no harm: the messages it sends carry the same ids.
    """
    worker = worker_of(app)
    try:
        job_id = _written_down(worker, document, self.request.id)
    except (LedgerUnreachableError, LedgerSchemaError) as exc:
        # Until it is written down, this message is all there is of the job.
        log.warning("a job cannot be written down: %s", exc)
        raise self.retry(countdown=5, max_retries=None, exc=exc) from None
    if job_id is None:
        return
    todo = worker.ledger.jobs.open(job_id)
    if todo is None:
        return
    worker.dispatch.start_chord(todo)
    worker.dispatch.extract(job_id)


def _written_down(worker: Worker, document: Any, message_id: str) -> str | None:
    """The job's id, once the ledger has it; None where the spec was refused."""
    if isinstance(document, dict) and set(document) == {"v", "job_id"}:
        return JobRef.read(document).job_id
    # An app that gives no id gets the message's: a message delivered twice stays one job.
    job_id, name = message_id, "(no name)"
    if isinstance(document, dict):
        given = document.get("job_id")
        if isinstance(given, str) and JOB_ID.fullmatch(given):
            job_id = given
        name = _storable(str(document.get("name", name)))
    try:
        spec, warnings = JobSpec.from_wire(document)
        if worker.settings.connections is not None:
            # A worker of jobs needs no credentials; one that has the file refuses a typo at once.
            worker.connections.check(spec)
        worker.ledger.jobs.submit(job_id, spec, warnings)
    except JobExistsError as exc:
        # The job that has the id goes on undisturbed; only the log can tell of this one.
        log.error("%s", exc)
        return None
    except SpecError as exc:
        log.error("job %s is refused: %s", job_id, exc)
        worker.ledger.jobs.refuse(job_id, name, {}, str(exc))
        return None
    return job_id


def _storable(text: str) -> str:
    """A refused spec's name, without what the ledger has no form for."""
    return text.replace("\x00", "").encode(errors="replace").decode()


@app.task(name=routes.FINALIZE)
def finalize(_results: Any, ref: dict[str, Any]) -> None:
    """The chord's body, or the sweep where the chord is lost; the ledger ends the job once."""
    worker = worker_of(app)
    job_id = JobRef.read(ref).job_id
    state = worker.ledger.jobs.finish(job_id)
    if state is None:
        return
    left = worker.payloads.clear(job_id)
    log.info("job %s ended: %s (%d payloads cleared)", job_id, state, left)


@app.task(name=routes.SWEEP)
def sweep() -> None:
    worker = worker_of(app)
    for todo in worker.ledger.sweep.jobs(_queue_is_empty):
        worker.dispatch.follow(todo)
    for todo in worker.ledger.sweep.deliveries(_queue_is_empty):
        worker.dispatch.follow(todo)
    for todo in worker.ledger.sweep.closings():
        worker.dispatch.follow(todo)


def _queue_is_empty(queue: str) -> bool:
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        return bool(channel._size(queue) == 0)  # noqa: SLF001 - kombu offers no public way that does not declare the queue
