"""Thin: write a batch, close a file."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.exceptions import Ignore

from penstock import routes
from penstock.contract import Batch, LaneRef
from services.export import closing, part, store
from services.export.app import app
from services.runtime.checks import check_connections
from services.runtime.closing import close_lane
from services.runtime.worker import worker_of


@app.task(name=routes.DELIVER["s3"])
def write(message: dict[str, Any]) -> None:
    part.write(worker_of(app), app.settings, Batch.read(message))


@app.task(name=routes.CLOSE["s3"], ignore_result=False)
def close(message: dict[str, Any]) -> dict[str, Any]:
    worker = worker_of(app)
    outcome = close_lane(
        worker,
        app.settings,
        LaneRef.read(message),
        partial(closing.bring_to_end, worker, app.settings),
    )
    if outcome is None:
        # Parked: no part of the chord returns. The same task is sent again when it is time.
        raise Ignore
    return outcome


@app.task(name=routes.CHECK[routes.LANE_QUEUES["s3"]], ignore_result=False)
def check() -> list[dict[str, Any]]:
    return check_connections(worker_of(app).connections, {"s3": store.check})
