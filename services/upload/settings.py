"""What the environment says to the upload service."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import LaneSettings


class UploadSettings(LaneSettings):
    """What the workers of `penstock.upload.*` read."""

    patience_seconds: float = Field(
        5, ge=0, description="A shorter wait is slept through; a longer one gives the slot back."
    )
    poll_seconds: float = Field(
        30, gt=0, description="How often a platform is asked whether it has done its work."
    )
    most_halvings: int = Field(
        32,
        ge=0,
        description="So often is a chunk halved that a platform refused as a whole, to find its "
        "bad rows.",
    )
