"""What the environment says to the export service."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import LaneSettings


class ExportSettings(LaneSettings):
    """What the workers of `penstock.export` read."""

    gzip_level: int = Field(
        1, ge=0, le=3, description="ISA-L's level: 1 is fast and within 2% of gzip -6's size."
    )
