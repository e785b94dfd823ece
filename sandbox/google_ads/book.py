"""What the sandbox remembers: customers, their user lists, and the jobs that fill these."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sandbox.google_ads.failures import refused
from sandbox.google_ads.members import canonical, split

FIRST_JOB_ID = 70_000_001
FIRST_LIST_ID = 9_000_001
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
    members: set[bytes] = field(default_factory=set)

    @property
    def resource_name(self) -> str:
        return f"customers/{self.customer_id}/userLists/{self.id}"


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
        }


class Book:
    """Thread-safe. Running jobs end when somebody looks after their time: no timers to stop."""

    def __init__(self, processing: float = 1.0) -> None:
        self.processing = processing
        self.lock = threading.RLock()
        self._lists: dict[str, dict[str, UserList]] = {}
        self._jobs: dict[int, Job] = {}
        self._next_job_id = FIRST_JOB_ID
        self._next_list_id = FIRST_LIST_ID

    def add_user_list(self, customer_id: str, list_id: str | None, name: str) -> UserList:
        """Make a list, its customer too; asked again for the same id, give the one there is."""
        if not customer_id.isdigit() or (list_id is not None and not list_id.isdigit()):
            raise ValueError("customer and list ids are digits")
        with self.lock:
            if list_id is None:
                list_id = str(self._next_list_id)
                self._next_list_id += 1
            for owner, lists in self._lists.items():
                if list_id in lists and owner != customer_id:
                    raise ValueError(f"user list {list_id} is another customer's")
            lists = self._lists.setdefault(customer_id, {})
            return lists.setdefault(list_id, UserList(customer_id, list_id, name))

    def add_customer(self, customer_id: str) -> None:
        if not customer_id.isdigit():
            raise ValueError("customer ids are digits")
        with self.lock:
            self._lists.setdefault(customer_id, {})

    def knows_customer(self, customer_id: str) -> bool:
        with self.lock:
            return customer_id in self._lists

    def lists_of(self, customer_id: str) -> list[UserList]:
        with self.lock:
            self._end_due()
            return list(self._lists.get(customer_id, {}).values())

    def jobs_of(self, customer_id: str) -> list[Job]:
        with self.lock:
            self._end_due()
            return [job for job in self._jobs.values() if job.customer_id == customer_id]

    def user_list(self, list_id: str) -> UserList:
        """Give a list by its id alone, for the control port; KeyError if there is none."""
        with self.lock:
            self._end_due()
            for lists in self._lists.values():
                if list_id in lists:
                    return lists[list_id]
        raise KeyError(f"no user list {list_id}")

    def keys_of(self, list_id: str) -> Iterator[str]:
        with self.lock:
            members = list(self.user_list(list_id).members)
        return map(canonical, members)

    def open_job(self, user_list: UserList, external_id: int | None, **facts: Any) -> Job:
        with self.lock:
            if external_id is not None and any(
                job.external_id == external_id for job in self.jobs_of(user_list.customer_id)
            ):
                raise refused(
                    "offline_user_data_job_error.EXTERNAL_UPDATE_ID_ALREADY_EXISTS",
                    "Another job has this external id.",
                    ("job", None),
                    ("external_id", None),
                )
            job = Job(self._next_job_id, user_list, external_id=external_id, **facts)
            self._next_job_id += 1
            self._jobs[job.id] = job
            return job

    def job(self, customer_id: str, job_id: int) -> Job:
        with self.lock:
            self._end_due()
            job = self._jobs.get(job_id)
        if job is None or job.customer_id != customer_id:
            raise refused("mutate_error.RESOURCE_NOT_FOUND", "There is no such job.")
        return job

    @contextmanager
    def hold(self, job: Job) -> Iterator[None]:
        """Keep the job to one request; whoever comes meanwhile is refused, as Google does."""
        with self.lock:
            job.requests += 1
            job.in_flight += 1
            job.max_concurrent = max(job.max_concurrent, job.in_flight)
            alone = job.in_flight == 1
        try:
            if not alone:
                raise refused(
                    "database_error.CONCURRENT_MODIFICATION",
                    "Another request is changing this job. Retry the request.",
                )
            yield
        finally:
            with self.lock:
                job.in_flight -= 1

    def start(self, job: Job, failure_reason: str | None) -> None:
        """Let the job run; it ends after the processing time, badly if a reason is given."""
        with self.lock:
            job.status = "RUNNING"
            if job.previews_match_rate:
                job.match_rate_range = job.estimate()
            job.end_reason = failure_reason
            job.ends_at = time.monotonic() + self.processing

    def state(self) -> dict[str, Any]:
        with self.lock:
            self._end_due()
            return {
                "processing": self.processing,
                "customers": {
                    customer_id: {
                        one.id: {"name": one.name, "count": len(one.members)}
                        for one in lists.values()
                    }
                    for customer_id, lists in self._lists.items()
                },
                "jobs": [job.listing() for job in self._jobs.values()],
            }

    def reset(self) -> None:
        with self.lock:
            self._jobs.clear()
            for lists in self._lists.values():
                for user_list in lists.values():
                    user_list.members = set()

    def load(self, customers: Mapping[str, Mapping[str, str]]) -> None:
        for customer_id, lists in customers.items():
            self.add_customer(customer_id)
            for list_id, name in lists.items():
                self.add_user_list(customer_id, list_id, name)

    def _end_due(self) -> None:
        now = time.monotonic()
        due = [job for job in self._jobs.values() if job.status == "RUNNING" and job.ends_at <= now]
        for job in sorted(due, key=lambda job: job.ends_at):
            _end(job)


def _end(job: Job) -> None:
    if job.end_reason is not None:
        job.status, job.failure_reason = "FAILED", job.end_reason
    else:
        job.status, job.match_rate_range = "SUCCESS", job.estimate()
        members = job.user_list.members
        if job.removes_all:
            members.clear()
        if job.verb == "remove":
            _remove(members, job.keys)
        else:
            members.update(job.keys)
    job.keys = []


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
