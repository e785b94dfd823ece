"""Penstock's own workers as processes, as they run in production."""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.servers import Process

PROJECT = Path(__file__).resolve().parents[1]

#: service -> the queues its workers take from
QUEUES = {
    "jobs": ("penstock.jobs",),
    "extract": ("penstock.extract",),
    "upload.google_ads": ("penstock.upload.google_ads", "penstock.upload.data_manager"),
    "upload.meta": ("penstock.upload.meta", "penstock.upload.linkedin"),
    "export": ("penstock.export",),
}
#: The same for workers that run only where a job wants them.
OTHER_QUEUES = {
    "upload.http": ("penstock.upload.http",),
    "upload.python": ("penstock.upload.python",),
}


class Worker(Process):
    """One `celery worker`. `what` is a key of QUEUES or OTHER_QUEUES."""

    def __init__(
        self, what: str, *, env: dict[str, str], directory: Path, number: int = 1, slots: int = 0
    ) -> None:
        self.what = what
        service = what.partition(".")[0]
        super().__init__(
            [
                *(sys.executable, "-m", "celery", "-A", f"services.{service}.app", "worker"),
                *("-Q", ",".join((QUEUES | OTHER_QUEUES)[what]), "-n", f"{what}-{number}@%h", "-E"),
                *("--without-gossip", "--without-mingle"),
                *(("-c", str(slots)) if slots else ()),
            ],
            log_path=directory / f"{what}-{number}.log",
            ready=lambda: " ready." in self.output(),
            env=env,
            cwd=PROJECT,
            start_timeout=120,
        )


class Beat(Process):
    def __init__(self, *, env: dict[str, str], directory: Path) -> None:
        super().__init__(
            [sys.executable, "-m", "celery", "-A", "services.jobs.app", "beat"],
            log_path=directory / "beat.log",
            ready=lambda: "is starting" in self.output(),
            env=env,
            cwd=PROJECT,
            start_timeout=120,
        )


class Flower(Process):
    def __init__(self, *, env: dict[str, str], directory: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            [
                *(sys.executable, "-m", "celery", "-A", "services.jobs.app", "flower"),
                *("--address=127.0.0.1", f"--port={port}"),
            ],
            log_path=directory / "flower.log",
            ready=lambda: "Visit me at" in self.output(),
            env=env,
            cwd=PROJECT,
            start_timeout=120,
        )
