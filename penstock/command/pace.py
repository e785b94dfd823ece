"""How far a job is and how fast it goes, from the statuses that a watcher sees."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from penstock.contract import JOB_ENDS

FIGURES = ("accepted", "rejected", "skipped", "failed")


def settled(lane: dict[str, Any]) -> int:
    """A lane's `rows` are those handed to it; its figures are those it is done with."""
    return sum(lane[name] for name in FIGURES)


class Rate:
    """Rows a second over the last seconds of watching. What was done before is not known of."""

    def __init__(self, seconds: float = 10.0, settle: float = 2.0) -> None:
        self._seconds = seconds
        self._settle = settle
        self._seen: deque[tuple[float, int]] = deque()
        self._since = 0.0

    def see(self, count: int, now: float) -> None:
        if self._seen and count < self._seen[-1][1]:
            # The stream started over: what came before says nothing of now.
            self._seen.clear()
        if not self._seen:
            self._since = now
        self._seen.append((now, count))
        self._forget(now)

    def at(self, now: float) -> float | None:
        """None until there has been enough to see."""
        if not self._seen or now - self._since < self._settle:
            return None
        self._forget(now)
        span = min(self._seconds, now - self._since)
        return (self._seen[-1][1] - self._seen[0][1]) / span

    def _forget(self, now: float) -> None:
        # The newest of the old ones stays: it is the count at the beginning of the span.
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._seconds:
            self._seen.popleft()


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows read of how many. `total` is None where nobody knows."""

    read: int
    total: int | None
    estimated: bool

    @classmethod
    def of(cls, status: dict[str, Any]) -> Extent:
        read, total = status["extracted"], status["total"]
        if status["stage"] == "closing" or status["state"] in JOB_ENDS:
            return cls(read, read, estimated=False)
        if total is None or read > total:
            # An estimate that was passed is none any more.
            return cls(read, None, estimated=False)
        return cls(read, total, status["total_is_estimate"])

    def fraction(self, rows: int) -> float | None:
        """How much of the total these rows are, from 0 to 1."""
        if self.total is None:
            return None
        return min(rows / self.total, 1.0) if self.total else 1.0

    def percent(self, rows: int) -> int | None:
        """Rounded down: 100 means all."""
        if self.total is None:
            return None
        return min(rows * 100 // self.total, 100) if self.total else 100

    def seconds_left(self, rows: int, rate: float | None) -> float | None:
        if self.total is None or not rate:
            return None
        return max(self.total - rows, 0) / rate
