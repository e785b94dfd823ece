"""A replacement of an audience's members: what `usersreplace` has been given so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sandbox.meta.rows import Rows
from sandbox.meta.sessions import BatchMark, Session


@dataclass
class ReplaceRules:
    """The platform's limits, which a test makes smaller."""

    minutes: float = 90
    most_members: int = 100_000_000


@dataclass
class Replacement:
    session: Session
    schema: tuple[str, ...]
    staged: set[str] = field(default_factory=set)
    limited: set[str] = field(default_factory=set)
    #: "running", "finished" or "timed out".
    state: str = "running"
    _started: float = field(default_factory=time.monotonic)

    def take(self, rows: Rows, mark: BatchMark) -> None:
        """Any batch but the first may come again: who is in twice is one member, counted twice."""
        self.session.count(mark, rows.received, rows.invalid)
        self.staged.update(rows.members)
        self.limited.update(rows.limited)

    def age(self) -> float:
        return time.monotonic() - self._started

    def listing(self) -> dict[str, Any]:
        return {**self.session.listing(), "state": self.state, "schema": list(self.schema)}
