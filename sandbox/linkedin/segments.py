"""The DMP segments of all ad accounts, and who is in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.linkedin.errors import bad_request, not_found, too_many_segments
from sandbox.linkedin.users import Users

#: The segments of contacts that are streamed, and what else there is.
USER = "USER"
TYPES = frozenset({USER, "COMPANY", "USER_LIST_UPLOAD", "COMPANY_LIST_UPLOAD"})
SMALLEST_DELIVERED = 300
MAX_SEGMENTS = 1_000
READY_SECONDS = 5.0
PAGE = 10


@dataclass
class Segment:
    id: int
    account: str
    name: str
    type: str = USER
    description: str | None = None
    source_platform: str = "API"
    created: float = 0.0
    members: set[str] = field(default_factory=set)
    _by_id: dict[str, str] = field(default_factory=dict)

    def add(self, ids: tuple[str, ...]) -> None:
        """One person is one member, known by any of the ids."""
        self.remove(ids)
        member = "|".join(ids)
        self.members.add(member)
        self._by_id |= dict.fromkeys(ids, member)

    def remove(self, ids: tuple[str, ...]) -> None:
        for member in {self._by_id[one] for one in ids if one in self._by_id}:
            self.members.discard(member)
            for one in member.split("|"):
                del self._by_id[one]

    def clear(self) -> None:
        self.members, self._by_id = set(), {}

    def fields(self) -> dict[str, Any]:
        size = len(self.members)
        created = int(self.created * 1000)
        destination = {
            "destination": "LINKEDIN",
            "destinationSegmentId": f"urn:li:adSegment:{self.id + 1_000_000}",
            "status": "READY" if size >= SMALLEST_DELIVERED else "BUILDING",
            "audienceSize": size,
            "matchedCount": size,
        }
        fields = {
            "id": self.id,
            "name": self.name,
            "account": f"urn:li:sponsoredAccount:{self.account}",
            "type": self.type,
            "sourcePlatform": self.source_platform,
            "created": created,
            "lastModified": created,
            "inputCount": size,
            "destinations": [destination],
        }
        return fields if self.description is None else {**fields, "description": self.description}


class Segments:
    """Everything one lock guards: a request changes members whole or not at all."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.ready_seconds = READY_SECONDS
        self.max_segments = MAX_SEGMENTS
        self._clock = clock
        self._segments: dict[int, Segment] = {}
        self._lock = threading.Lock()

    def add(self, segment: Segment) -> None:
        with self._lock:
            if segment.id in self._segments:
                raise ValueError(f"there is a segment {segment.id} already")
            self._segments[segment.id] = segment

    def create(
        self, account: str, name: str, kind: str, source_platform: str, description: str | None
    ) -> int:
        with self._lock:
            if len(self._of(account)) >= self.max_segments:
                raise too_many_segments()
            made = Segment(
                max(self._segments, default=0) + 1, account, name, kind, description,
                source_platform, self._clock(),
            )  # fmt: skip
            self._segments[made.id] = made
            return made.id

    def page(self, account: str, start: int, count: int | None) -> dict[str, Any]:
        """Some of an account's segments; all of them where no count is given."""
        with self._lock:
            found = self._of(account)
            end = None if count is None else start + count
            return {
                "paging": {
                    "start": start,
                    "count": PAGE if count is None else count,
                    "links": [],
                    "total": len(found),
                },
                "elements": [segment.fields() for segment in found[start:end]],
            }

    def fields(self, segment_id: int) -> dict[str, Any]:
        with self._lock:
            return self._known(segment_id).fields()

    def check(self, segment_id: int) -> None:
        """Refuse what users cannot be streamed into."""
        with self._lock:
            if self._known(segment_id).type != USER:
                raise bad_request("The segment is not of type USER")

    def receive(self, segment_id: int, users: Users) -> None:
        """Add and remove the members; while the segment is not ready they are lost, silently."""
        with self._lock:
            segment = self._known(segment_id)
            if self._clock() - segment.created < self.ready_seconds:
                return
            for remove, ids in users.changes:
                if remove:
                    segment.remove(ids)
                else:
                    segment.add(ids)

    def members(self, segment_id: str) -> list[str]:
        with self._lock:
            return list(self._named(segment_id).members)

    def member_count(self, segment_id: str) -> int:
        with self._lock:
            return len(self._named(segment_id).members)

    def forget(self) -> None:
        with self._lock:
            for segment in self._segments.values():
                segment.clear()

    def state(self) -> Mapping[str, Any]:
        with self._lock:
            return {
                str(segment.id): {
                    "account": segment.account,
                    "name": segment.name,
                    "type": segment.type,
                    "description": segment.description,
                    "source_platform": segment.source_platform,
                    "members": len(segment.members),
                }
                for segment in self._segments.values()
            }

    def _of(self, account: str) -> list[Segment]:
        return [segment for segment in self._segments.values() if segment.account == account]

    def _known(self, segment_id: int) -> Segment:
        if segment_id not in self._segments:
            raise not_found(f"segment {segment_id}")
        return self._segments[segment_id]

    def _named(self, segment_id: str) -> Segment:
        if not segment_id.isdecimal() or int(segment_id) not in self._segments:
            raise KeyError(f"no segment {segment_id}")
        return self._segments[int(segment_id)]
