"""The limits of a project: so many calls a minute and a day, reads and writes apart."""

from __future__ import annotations

import threading
import time
from collections import deque

from sandbox.data_manager.refusals import too_many

PER_MINUTE, PER_DAY = 300, 100_000
_MINUTE, _DAY = 60.0, 86_400.0


class Quota:
    def __init__(self) -> None:
        self.per_minute = PER_MINUTE
        self.per_day = PER_DAY
        self._lock = threading.Lock()
        self._taken: dict[str, deque[float]] = {"Mutate": deque(), "Read": deque()}

    def take(self, operation: str) -> None:
        """Count a call, or refuse it: what was refused does not count."""
        now = time.monotonic()
        with self._lock:
            taken = self._taken[operation]
            while taken and taken[0] <= now - _DAY:
                taken.popleft()
            if len(taken) >= self.per_day:
                raise too_many(f"Ingestion{operation}RequestsPerDayPerProject", None)
            lately = [then for then in list(taken)[-self.per_minute :] if then > now - _MINUTE]
            if len(lately) >= self.per_minute:
                raise too_many(f"Ingestion{operation}RequestsPerMinutePerProject", None)
            taken.append(now)

    def reset(self) -> None:
        with self._lock:
            for taken in self._taken.values():
                taken.clear()
