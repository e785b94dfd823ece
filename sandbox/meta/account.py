"""The ad account: its audiences, who is in them, and the sessions that brought them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any

from sandbox.meta.audience import Audience
from sandbox.meta.errors import busy, cannot_update
from sandbox.meta.replacement import Replacement, ReplaceRules
from sandbox.meta.rows import Rows
from sandbox.meta.sessions import MAX_ID, BatchMark, Session


class Account:
    """Everything one lock guards: a request counts and changes members whole or not at all."""

    def __init__(self, account_id: str, name: str, rules: ReplaceRules) -> None:
        self.id = account_id
        self.name = name
        self._rules = rules
        self._audiences: dict[str, Audience] = {}
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()

    def add(self, audience: Audience) -> None:
        with self._lock:
            self._audiences[audience.id] = audience

    def delete(self, audience_id: str) -> None:
        with self._lock:
            del self._audiences[audience_id]

    def has(self, audience_id: str) -> bool:
        with self._lock:
            return audience_id in self._audiences

    def receive(
        self, audience_id: str, rows: Rows, mark: BatchMark | None, *, remove: bool
    ) -> dict[str, Any]:
        """Add or remove the members and give the answer, whose figures are the session's."""
        with self._lock:
            audience = self._known(audience_id)
            if audience.replacement is not None:
                raise busy()
            answer = self._counted(audience_id, rows, mark)
            if remove:
                audience.remove(rows.members)
            else:
                audience.add(rows)
        return {"audience_id": audience_id, **answer}

    def receive_anywhere(self, rows: Rows, mark: BatchMark | None) -> dict[str, Any]:
        """Remove the members from every audience; what is being replaced loses them too."""
        with self._lock:
            answer = self._counted(f"act_{self.id}", rows, mark)
            for audience_id in self._audiences:
                self._known(audience_id).remove(rows.members)
        return {"account_id": self.id, **answer}

    def replace(self, audience_id: str, rows: Rows, mark: BatchMark) -> dict[str, Any]:
        """Take a batch of a replacement; the members change when its last has come."""
        with self._lock:
            audience = self._known(audience_id)
            audience.admit(mark, self._rules)
            if mark.session_id in self._sessions:
                raise cannot_update("the session id is taken by an upload of the ad account")
            begun = audience.replacement
            if begun is None or mark.batch_seq == 1:
                # "A new replace session starts when we receive a batch_seq of 1": what a session
                # had before its second batch 1 is gone.
                begun = Replacement(Session(mark.session_id, audience_id), rows.schema)
                audience.begin(begun)
            if begun.schema != rows.schema:
                raise cannot_update("the schema is not that of the first batch")
            begun.take(rows, mark)
            if mark.last:
                audience.swap("finished")
            return {
                "account_id": self.id,
                "audience_id": audience_id,
                **_figures(begun.session.id, begun.session.received, begun.session.invalid, rows),
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
            return self._known(audience_id).fields(self.id)

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
        """Forget what callers have done, the audiences that they created included."""
        with self._lock:
            self._sessions.clear()
            self._audiences = {
                audience.id: Audience(audience.id, audience.name)
                for audience in self._audiences.values()
                if not audience.created_by_call
            }

    def state(self) -> Mapping[str, Any]:
        with self._lock:
            known = [self._known(audience_id) for audience_id in self._audiences]
            return {
                "audiences": {audience.id: audience.listing() for audience in known},
                "sessions": [session.listing() for session in self._sessions.values()],
                "replacements": [one.listing() for audience in known for one in audience.history],
            }

    def _known(self, audience_id: str) -> Audience:
        """The audience as it is by now: a replacement may have run out of time unasked."""
        if audience_id not in self._audiences:
            raise KeyError(f"no audience {audience_id}")
        audience = self._audiences[audience_id]
        audience.keep_time(self._rules)
        return audience

    def _counted(self, target: str, rows: Rows, mark: BatchMark | None) -> dict[str, Any]:
        if mark is None:
            return _figures(secrets.randbelow(MAX_ID) + 1, rows.received, rows.invalid, rows)
        session = self._sessions.get(mark.session_id)
        if session is None:
            session = self._sessions[mark.session_id] = Session(mark.session_id, target)
        session.check(target)
        session.count(mark, rows.received, rows.invalid)
        return _figures(session.id, session.received, session.invalid, rows)


def _figures(session_id: int, received: int, invalid: int, rows: Rows) -> dict[str, Any]:
    return {
        "session_id": str(session_id),
        "num_received": received,
        "num_invalid_entries": invalid,
        # The real API writes an empty map as an empty array.
        "invalid_entry_samples": rows.samples or [],
    }
