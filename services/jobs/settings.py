"""What the environment says to the jobs service."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import WorkerSettings


class JobsSettings(WorkerSettings):
    """What the workers of `penstock.jobs` and beat read."""

    sweep_seconds: float = Field(5, gt=0, description="How often beat calls the sweep.")
