"""What the environment says to the extract service."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import WorkerSettings


class ExtractSettings(WorkerSettings):
    """What the workers of `penstock.extract` read."""

    slice_seconds: float = Field(
        300,
        gt=0,
        description="After so long a resumable extract gives its slot back and queues anew.",
    )
    linger_seconds: float = Field(
        5, ge=0, description="So long an extract waits at a closed window before it parks."
    )
    source_tries: int = Field(
        10,
        ge=1,
        description="So often is a source that does not answer tried before the job fails.",
    )
