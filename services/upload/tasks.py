"""Thin: a task to send and one to close for each platform, on the platform's own queue."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.exceptions import Ignore

from penstock import routes
from penstock.contract import Batch, JobSpec, LaneRef
from penstock.errors import ConnectionsError, SpecError
from services.runtime.checks import check_connections
from services.runtime.closing import close_lane
from services.runtime.verdicts import Fatal
from services.runtime.worker import worker_of
from services.upload import platforms
from services.upload.app import app
from services.upload.dryrun import DryRun
from services.upload.ending import bring_to_end
from services.upload.lane import deliver
from services.upload.platform import Context, Platform


def _platform_of(spec: JobSpec, batch: Batch) -> Platform:
    destination = spec.lanes()[batch.lane]
    try:
        connection = worker_of(app).connections.get(destination.connection, destination.kind)
    except (SpecError, ConnectionsError) as exc:
        raise Fatal(str(exc)) from None
    context = Context(
        poll_seconds=app.settings.poll_seconds,
        dry_run=spec.dry_run,
        job_id=batch.job_id,
        job_name=spec.name,
        lane=batch.lane,
        seq=batch.seq,
    )
    platform = platforms.platform(destination.kind, connection, destination, context)
    # Here and nowhere else, so that no layer below can forget it.
    return DryRun(platform) if spec.dry_run else platform


def _register(kind: str) -> None:
    @app.task(name=routes.DELIVER[kind])
    def send(message: dict[str, Any]) -> None:
        platforms.load(kind)
        worker, settings = worker_of(app), app.settings
        worker.dispatch.follow(deliver(worker, settings, _platform_of, Batch.read(message)))

    @app.task(name=routes.CLOSE[kind], ignore_result=False)
    def close(message: dict[str, Any]) -> dict[str, Any]:
        platforms.load(kind)
        worker, settings = worker_of(app), app.settings
        end = partial(bring_to_end, worker, settings, _platform_of)
        outcome = close_lane(worker, settings, LaneRef.read(message), end)
        if outcome is None:
            # Parked: no part of the chord returns. The same task is sent again when it is time.
            raise Ignore
        return outcome

    @app.task(name=routes.CHECK[routes.LANE_QUEUES[kind]], ignore_result=False)
    def check() -> list[dict[str, Any]]:
        look = partial(platforms.check, kind)
        return check_connections(worker_of(app).connections, {kind: look})


for _kind in routes.PLATFORMS:
    _register(_kind)
