"""What a sandbox was asked, and how it answered."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Count:
    ok: int = 0
    err: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Calls:
    """How many calls of each method were answered well and how many badly, and with what."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._lock = threading.Lock()

    def record(self, method: str, error: str | None = None) -> None:
        """Count one answered call; `error` is the short name of what it was refused with."""
        with self._lock:
            count = self._counts.setdefault(method, _Count())
            if error is None:
                count.ok += 1
            else:
                count.err += 1
                count.errors[error] += 1

    def clear(self) -> None:
        with self._lock:
            self._counts.clear()

    def listing(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            return {
                method: {"ok": count.ok, "err": count.err, "errors": dict(count.errors)}
                for method, count in self._counts.items()
            }
