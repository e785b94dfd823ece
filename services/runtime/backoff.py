"""How long to wait after a failure."""

from __future__ import annotations

import random

from services.runtime.settings import LaneSettings
from services.runtime.verdicts import Retryable


def seconds_to_wait(later: Retryable, tries: int, settings: LaneSettings) -> float:
    """What the other side named; else it doubles with each try, with jitter, so that workers which
    failed together do not come back together.
    """
    if later.after is not None:
        return later.after
    top = min(settings.backoff_seconds * 2**tries, settings.backoff_longest_seconds)
    return top * random.uniform(0.5, 1)
