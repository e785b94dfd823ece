"""What the sandbox remembers: customers, their user lists, and the jobs that fill these."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sandbox.google_ads.failures import refused
from sandbox.google_ads.members import KEY_TYPES, canonical
from sandbox.google_ads.records import CONTACT_INFO, Job, UserList

FIRST_JOB_ID = 70_000_001
FIRST_LIST_ID = 9_000_001


class Book:
    """Thread-safe. Running jobs end when somebody looks after their time: no timers to stop."""

    def __init__(self, processing: float = 1.0) -> None:
        self.processing = processing
        self.lock = threading.RLock()
        self._lists: dict[str, dict[str, UserList]] = {}
        self._managers: dict[str, str] = {}
        self._jobs: dict[int, Job] = {}
        self._next_job_id = FIRST_JOB_ID
        self._next_list_id = FIRST_LIST_ID

    def add_user_list(
        self, customer_id: str, list_id: str | None, name: str, **facts: Any
    ) -> UserList:
        """Make a list, its customer too; asked again for the same id, give the one there is."""
        if not customer_id.isdigit() or (list_id is not None and not list_id.isdigit()):
            raise ValueError("customer and list ids are digits")
        if facts.get("key_type", CONTACT_INFO) not in KEY_TYPES:
            raise ValueError(f"a key type is one of {', '.join(KEY_TYPES)}")
        with self.lock:
            if list_id is None:
                list_id = str(self._next_list_id)
                self._next_list_id += 1
            for owner, lists in self._lists.items():
                if list_id in lists and owner != customer_id:
                    raise ValueError(f"user list {list_id} is another customer's")
            lists = self._lists.setdefault(customer_id, {})
            return lists.setdefault(list_id, UserList(customer_id, list_id, name, **facts))

    def set_manager(self, customer_id: str, manager_id: str) -> None:
        """From now on the customer is reached through this manager account alone."""
        if not manager_id.isdigit():
            raise ValueError("customer ids are digits")
        with self.lock:
            self._managers[customer_id] = manager_id

    def lets_in(self, customer_id: str, login: str | None) -> bool:
        with self.lock:
            return self._managers.get(customer_id, login) == login

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
            job.started = sum(one.started is not None for one in self._jobs.values())
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
                    customer_id: {one.id: one.listing() for one in lists.values()}
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
            job.end()
