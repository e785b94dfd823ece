"""Names of tasks and queues: the only thing one service knows of another."""

from __future__ import annotations

OPEN = "penstock.jobs.open"
FINALIZE = "penstock.jobs.finalize"
SWEEP = "penstock.jobs.sweep"
EXTRACT = "penstock.extract.run"
REFILL = "penstock.extract.refill"
PREVIEW = "penstock.extract.preview"

JOBS_QUEUE = "penstock.jobs"
EXTRACT_QUEUE = "penstock.extract"

#: Platforms whose destinations need no keys of their own, and the view of the rows that each takes.
#: A new one is a line here and a file in services/upload/platforms.
PLAIN_AUDIENCES: dict[str, str] = {
    "linkedin": "meta",
}
#: Kinds of destination that the upload service brings batches to, a queue for each.
PLATFORMS: tuple[str, ...] = (
    "google_ads",
    "data_manager",
    "meta",
    *PLAIN_AUDIENCES,
    "http",
    "python",
)

# kind of a destination -> the task that delivers a batch, the task that ends the lane, their queue
DELIVER: dict[str, str] = {
    **{kind: f"penstock.upload.{kind}.send" for kind in PLATFORMS},
    "s3": "penstock.export.write",
}
CLOSE: dict[str, str] = {
    **{kind: f"penstock.upload.{kind}.close" for kind in PLATFORMS},
    "s3": "penstock.export.close",
}
LANE_QUEUES: dict[str, str] = {
    **{kind: f"penstock.upload.{kind}" for kind in PLATFORMS},
    "s3": "penstock.export",
}

# What `penstock doctor` asks of the workers, one task for each queue that holds credentials.
CHECK: dict[str, str] = {
    EXTRACT_QUEUE: "penstock.extract.check",
    **{LANE_QUEUES[kind]: f"penstock.upload.{kind}.check" for kind in PLATFORMS},
    LANE_QUEUES["s3"]: "penstock.export.check",
}

QUEUES: dict[str, str] = {
    OPEN: JOBS_QUEUE,
    FINALIZE: JOBS_QUEUE,
    SWEEP: JOBS_QUEUE,
    EXTRACT: EXTRACT_QUEUE,
    REFILL: EXTRACT_QUEUE,
    PREVIEW: EXTRACT_QUEUE,
    **{task: LANE_QUEUES[kind] for kind, task in DELIVER.items()},
    **{task: LANE_QUEUES[kind] for kind, task in CLOSE.items()},
    **{task: queue for queue, task in CHECK.items()},
}

ALL_QUEUES: tuple[str, ...] = (JOBS_QUEUE, EXTRACT_QUEUE, *LANE_QUEUES.values())
