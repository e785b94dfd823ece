"""What the sandbox's book is made of: user lists and the jobs that fill them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sandbox.google_ads.members import split

CONTACT_INFO = "CONTACT_INFO"
# The larger an upload, the better it matches: any rule serves that a test can foretell.
MATCH_RATE_FROM_SIZE = (1, 10, 50, 100, 500, 1_000, 5_000, 10_000, 100_000)
MATCH_RATES = (
    "UNSPECIFIED",
    "MATCH_RANGE_LESS_THAN_20",
    "MATCH_RANGE_20_TO_30",
    "MATCH_RANGE_31_TO_40",
    "MATCH_RANGE_41_TO_50",
    "MATCH_RANGE_51_TO_60",
    "MATCH_RANGE_61_TO_70",
    "MATCH_RANGE_71_TO_80",
    "MATCH_RANGE_81_TO_90",
    "MATCH_RANGE_91_TO_100",
)


@dataclass
class UserList:
    customer_id: str
    id: str
    name: str
    key_type: str = CONTACT_INFO
    life_span: int | None = None
    description: str = ""
    app_id: str = ""
    members: set[bytes] = field(default_factory=set)

    @property
    def resource_name(self) -> str:
        return f"customers/{self.customer_id}/userLists/{self.id}"

    def listing(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "key_type": self.key_type,
            "life_span": self.life_span,
            "description": self.description,
            "app_id": self.app_id,
            "count": len(self.members),
        }


@dataclass
class Job:
    id: int
    user_list: UserList
    external_id: int | None = None
    consent: dict[str, str] = field(default_factory=dict)
    previews_match_rate: bool = False
    status: str = "PENDING"
    failure_reason: str = "UNSPECIFIED"
    match_rate_range: str = "UNSPECIFIED"
    verb: str | None = None
    removes_all: bool = False
    keys: list[bytes] = field(default_factory=list)
    operations: int = 0
    rejected: int = 0
    requests: int = 0
    in_flight: int = 0
    max_concurrent: int = 0
    ends_at: float = 0.0
    end_reason: str | None = None
    started: int | None = None
    """How many jobs were started before this one."""

    @property
    def customer_id(self) -> str:
        return self.user_list.customer_id

    @property
    def resource_name(self) -> str:
        return f"customers/{self.customer_id}/offlineUserDataJobs/{self.id}"

    def estimate(self) -> str:
        return MATCH_RATES[bisect_right(MATCH_RATE_FROM_SIZE, self.operations)]

    def listing(self) -> dict[str, Any]:
        return {
            "resource_name": self.resource_name,
            "status": self.status,
            "failure_reason": self.failure_reason,
            "match_rate_range": self.match_rate_range,
            "customer_id": self.customer_id,
            "user_list_id": self.user_list.id,
            "external_id": self.external_id,
            "verb": self.verb,
            "removes_all": self.removes_all,
            "consent": self.consent,
            "operations": self.operations,
            "rejected": self.rejected,
            "requests": self.requests,
            "max_concurrent": self.max_concurrent,
            "started": self.started,
        }

    def end(self) -> None:
        """Bring about what the job was for, all at once."""
        if self.end_reason is not None:
            self.status, self.failure_reason = "FAILED", self.end_reason
        else:
            self.status, self.match_rate_range = "SUCCESS", self.estimate()
            members = self.user_list.members
            if self.removes_all:
                members.clear()
            if self.verb == "remove":
                _remove(members, self.keys)
            else:
                members.update(self.keys)
        self.keys = []


def _remove(members: set[bytes], keys: Iterable[bytes]) -> None:
    """Remove those named exactly; a key that names none removes all that share an identifier."""
    strangers: set[bytes] = set()
    for key in keys:
        if key in members:
            members.discard(key)
        else:
            strangers.update(split(key))
    if strangers:
        members.difference_update(
            [member for member in members if not strangers.isdisjoint(split(member))]
        )
