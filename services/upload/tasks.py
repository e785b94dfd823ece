"""Thin: a task to send and one to close for each platform, on the platform's own queue."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore

from penstock import routes
from penstock.contract import Batch, JobSpec, LaneOutcome, LaneRef
from penstock.errors import ConnectionsError, SpecError
from penstock.ledger.closings import Closing
from services.runtime.checks import check_connections
from services.runtime.closing import Wait, close_lane
from services.runtime.verdicts import Fatal
from services.runtime.worker import worker_of
from services.upload.app import app
from services.upload.lane import deliver
from services.upload.platform import LaneEnd, Platform
from services.upload.platforms import CHECKS, PLATFORMS


def _platform_of(spec: JobSpec, lane: str) -> Platform:
    destination = spec.lanes()[lane]
    try:
        connection = worker_of(app).connections.get(destination.connection, destination.kind)
    except (SpecError, ConnectionsError) as exc:
        raise Fatal(str(exc)) from None
    return PLATFORMS[destination.kind](connection, destination, app.settings.poll_seconds)


def _bring_to_end(closing: Closing) -> LaneOutcome | Wait:
    end = LaneEnd(closing.accepted, closing.error, closing.cancelled)
    return _platform_of(closing.spec, closing.lane).close(closing.memo, end)


def _register(kind: str) -> None:
    @app.task(name=routes.DELIVER[kind])
    def send(message: dict[str, Any]) -> None:
        worker = worker_of(app)
        settings = app.settings
        worker.dispatch.follow(deliver(worker, settings, _platform_of, Batch.read(message)))

    @app.task(name=routes.CLOSE[kind], ignore_result=False)
    def close(message: dict[str, Any]) -> dict[str, Any]:
        outcome = close_lane(worker_of(app), app.settings, LaneRef.read(message), _bring_to_end)
        if outcome is None:
            # Parked: no part of the chord returns. The same task is sent again when it is time.
            raise Ignore
        return outcome

    @app.task(name=routes.CHECK[routes.LANE_QUEUES[kind]], ignore_result=False)
    def check() -> list[dict[str, Any]]:
        return check_connections(worker_of(app).connections, {kind: CHECKS[kind]})


for _kind in PLATFORMS:
    _register(_kind)
