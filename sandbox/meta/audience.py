"""A custom audience: who is in it, and who is about to be."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sandbox.meta.errors import busy, no_first_batch, over, timed_out, too_large
from sandbox.meta.replacement import Replacement, ReplaceRules
from sandbox.meta.rows import Rows
from sandbox.meta.sessions import BatchMark

SMALLEST_SHOWN = 1_000
SMALLEST_DELIVERED = 100

# A value may hold the sign between the parts, but not with a key behind it.
_PARTS = re.compile(r"\|(?=[A-Z]+:)")
_NAMES_A_PERSON = ("EMAIL:", "PHONE:", "EXTERN_ID:", "MADID:")
_NORMAL = {"code": 200, "description": "Normal"}


@dataclass
class Audience:
    id: str
    name: str
    description: str = ""
    #: Through the API, not the control port.
    created_by_call: bool = False
    time_created: int = field(default_factory=lambda: int(time.time()))
    members: set[str] = field(default_factory=set)
    #: Those of the members that came with Limited Data Use.
    limited: set[str] = field(default_factory=set)
    #: The one that runs.
    replacement: Replacement | None = None
    history: list[Replacement] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        self.members.update(rows.members)
        self.limited.difference_update(rows.members)
        self.limited.update(rows.limited)

    def remove(self, members: Iterable[str]) -> None:
        """Remove persons: whoever shares an identifier with a row that names a person alone."""
        wanted = set(members)
        named = {part for member in wanted for part in _naming(member)}
        self.members = _without(self.members, wanted | named, named)
        self.limited &= self.members
        if self.replacement is not None:
            self.replacement.staged = _without(self.replacement.staged, wanted | named, named)

    def admit(self, mark: BatchMark, rules: ReplaceRules) -> None:
        """Refuse a batch of a replacement that may not come now."""
        for past in self.history:
            if past.session.id == mark.session_id and past is not self.replacement:
                raise timed_out() if past.state == "timed out" else over()
        if self.replacement is not None:
            if self.replacement.session.id != mark.session_id:
                raise busy()
        elif mark.batch_seq != 1:
            raise no_first_batch()
        elif len(self.members) >= rules.most_members:
            raise too_large()

    def begin(self, replacement: Replacement) -> None:
        again = replacement.session.id
        self.history = [past for past in self.history if past.session.id != again]
        self.history.append(replacement)
        self.replacement = replacement

    def keep_time(self, rules: ReplaceRules) -> None:
        if self.replacement is not None and self.replacement.age() > rules.minutes * 60:
            # As documented: the audience is then what has come so far.
            self.swap("timed out")

    def swap(self, state: str) -> None:
        done = self.replacement
        if done is None:
            raise RuntimeError("nothing replaces the members")
        done.state = state
        self.members, self.limited = done.staged, done.limited
        self.replacement = None

    def fields(self, account_id: str) -> dict[str, Any]:
        size = len(self.members)
        # Meta rounds, so that nobody learns whether one more person matched.
        shown = max(SMALLEST_SHOWN, size // 100 * 100)
        delivery = (
            {"code": 300, "description": "This audience is too small."}
            if size < SMALLEST_DELIVERED
            else {"code": 200, "description": "This audience is ready for use."}
        )
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "account_id": account_id,
            "subtype": "CUSTOM",
            "time_created": self.time_created,
            "approximate_count_lower_bound": shown,
            "approximate_count_upper_bound": shown,
            "operation_status": self._operation(),
            "delivery_status": delivery,
        }

    def listing(self) -> dict[str, Any]:
        return {"name": self.name, "members": len(self.members), "limited": len(self.limited)}

    def _operation(self) -> dict[str, Any]:
        if self.replacement is not None:
            return {"code": 414, "description": "Replace in progress"}
        if self.history and self.history[-1].state == "timed out":
            return {"code": 415, "description": "Replace error"}
        return _NORMAL


def _naming(member: str) -> list[str]:
    return [part for part in _PARTS.split(member) if part.startswith(_NAMES_A_PERSON)]


def _without(members: set[str], whole: set[str], named: set[str]) -> set[str]:
    left = members - whole
    sharing = [m for m in left if "|" in m and not named.isdisjoint(_naming(m))]
    return left.difference(sharing)
