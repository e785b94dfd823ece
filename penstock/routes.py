"""Task and queue names: the only thing one service knows of another."""

from __future__ import annotations

OPEN = "penstock.jobs.open"
FINALIZE = "penstock.jobs.finalize"
SWEEP = "penstock.jobs.sweep"
EXTRACT = "penstock.extract.run"
REFILL = "penstock.extract.refill"

JOBS_QUEUE = "penstock.jobs"
EXTRACT_QUEUE = "penstock.extract"

# kind of a destination -> the task that delivers a batch, the task that ends the lane, their queue
DELIVER: dict[str, str] = {
    "google_ads": "penstock.upload.google_ads.send",
    "meta": "penstock.upload.meta.send",
    "s3": "penstock.export.write",
}
CLOSE: dict[str, str] = {
    "google_ads": "penstock.upload.google_ads.close",
    "meta": "penstock.upload.meta.close",
    "s3": "penstock.export.close",
}
LANE_QUEUES: dict[str, str] = {
    "google_ads": "penstock.upload.google_ads",
    "meta": "penstock.upload.meta",
    "s3": "penstock.export",
}

# What `penstock doctor` asks of the workers, one task for each queue that holds credentials.
CHECK: dict[str, str] = {
    EXTRACT_QUEUE: "penstock.extract.check",
    LANE_QUEUES["google_ads"]: "penstock.upload.google_ads.check",
    LANE_QUEUES["meta"]: "penstock.upload.meta.check",
    LANE_QUEUES["s3"]: "penstock.export.check",
}

QUEUES: dict[str, str] = {
    OPEN: JOBS_QUEUE,
    FINALIZE: JOBS_QUEUE,
    SWEEP: JOBS_QUEUE,
    EXTRACT: EXTRACT_QUEUE,
    REFILL: EXTRACT_QUEUE,
    **{task: LANE_QUEUES[kind] for kind, task in DELIVER.items()},
    **{task: LANE_QUEUES[kind] for kind, task in CLOSE.items()},
    **{task: queue for queue, task in CHECK.items()},
}

ALL_QUEUES: tuple[str, ...] = (JOBS_QUEUE, EXTRACT_QUEUE, *LANE_QUEUES.values())
