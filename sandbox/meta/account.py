"""The ad account: its audiences, who is in them, and the sessions that brought them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.meta.rows import Rows
from sandbox.meta.sessions import MAX_ID, BatchMark, Session

SMALLEST_SHOWN = 1_000
SMALLEST_DELIVERED = 100


@dataclass
class Audience:
    id: str
    name: str
    members: set[str] = field(default_factory=set)

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
            "account_id": account_id,
            "subtype": "CUSTOM",
            "approximate_count_lower_bound": shown,
            "approximate_count_upper_bound": shown,
            "operation_status": {"code": 200, "description": "Normal"},
            "delivery_status": delivery,
        }


class Account:
    """Everything one lock guards: a request counts and changes members whole or not at all."""

    def __init__(self, account_id: str = "1000", name: str = "Sandbox account") -> None:
        self.id = account_id
        self.name = name
        self._audiences: dict[str, Audience] = {}
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()

    def add(self, audience_id: str, name: str) -> None:
        with self._lock:
            if audience_id in self._audiences:
                raise ValueError(f"there is an audience {audience_id} already")
            self._audiences[audience_id] = Audience(audience_id, name)

    def has(self, audience_id: str) -> bool:
        with self._lock:
            return audience_id in self._audiences

    def receive(
        self, audience_id: str, rows: Rows, mark: BatchMark | None, *, remove: bool
    ) -> dict[str, Any]:
        """Add or remove the members and give the answer, whose figures are the session's."""
        with self._lock:
            audience = self._audiences[audience_id]
            if mark is None:
                session_id = secrets.randbelow(MAX_ID) + 1
                received, invalid = rows.received, rows.invalid
            else:
                session = self._sessions.get(mark.session_id)
                if session is None:
                    session = Session(mark.session_id, audience_id)
                    self._sessions[session.id] = session
                session.check(audience_id)
                session.count(mark, rows.received, rows.invalid)
                session_id = session.id
                received, invalid = session.received, session.invalid
            if remove:
                audience.members.difference_update(rows.members)
            else:
                audience.members.update(rows.members)
        return {
            "audience_id": audience_id,
            "session_id": str(session_id),
            "num_received": received,
            "num_invalid_entries": invalid,
            # The real API writes an empty map as an empty array.
            "invalid_entry_samples": rows.samples or [],
        }

    def fields(self) -> dict[str, Any]:
        return {
            "id": f"act_{self.id}",
            "account_id": self.id,
            "name": self.name,
            "account_status": 1,
        }

    def audience_fields(self, audience_id: str) -> dict[str, Any]:
        with self._lock:
            return self._audiences[audience_id].fields(self.id)

    def audience_ids(self) -> list[str]:
        with self._lock:
            return list(self._audiences)

    def members(self, audience_id: str) -> list[str]:
        with self._lock:
            return list(self._known(audience_id).members)

    def member_count(self, audience_id: str) -> int:
        with self._lock:
            return len(self._known(audience_id).members)

    def forget(self) -> None:
        with self._lock:
            self._sessions.clear()
            for audience in self._audiences.values():
                audience.members = set()

    def state(self) -> Mapping[str, Any]:
        with self._lock:
            return {
                "account": f"act_{self.id}",
                "audiences": {
                    audience.id: {"name": audience.name, "members": len(audience.members)}
                    for audience in self._audiences.values()
                },
                "sessions": [session.listing() for session in self._sessions.values()],
            }

    def _known(self, audience_id: str) -> Audience:
        if audience_id not in self._audiences:
            raise KeyError(f"no audience {audience_id}")
        return self._audiences[audience_id]
