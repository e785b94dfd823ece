"""What the sandbox remembers: accounts, their lists, and the requests that change these."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.data_manager.members import canonical, split
from sandbox.data_manager.refusals import refused

FIRST_LIST_ID = 9_000_001
KEY_TYPES = ("CONTACT_ID", "MOBILE_ID", "USER_ID")


@dataclass
class UserList:
    customer_id: str
    id: str
    name: str
    key_type: str = "CONTACT_ID"
    #: Packed member -> when it was last added.
    members: dict[bytes, float] = field(default_factory=dict)


@dataclass
class Request:
    """Work that is taken, and done when somebody has looked often enough."""

    id: str
    verb: str
    user_lists: Sequence[UserList]
    data: str | None = None
    keys: list[bytes] = field(default_factory=list)
    identifiers: int = 0
    consents: Counter[str] = field(default_factory=Counter)
    #: Rows that processing will refuse, by reason; `failed`: all of them.
    refuses: Counter[str] = field(default_factory=Counter)
    failed: bool = False
    #: The API may leave the counts out.
    counts: bool = True
    #: Remove all: only who was last added before.
    before: float = 0.0
    records: int = 0
    looks: int = 0
    status: str = "PROCESSING"

    def listing(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "verb": self.verb,
            "user_list_ids": [one.id for one in self.user_lists],
            "records": self.records,
            "identifiers": self.identifiers,
            "consents": dict(self.consents),
            "refuses": dict(self.refuses),
            "looks": self.looks,
            "status": self.status,
        }


class Book:
    """Thread-safe. A request is done when it was looked at `polls` times: no timers to stop."""

    def __init__(self, polls: int = 1) -> None:
        self.polls = polls
        self.lock = threading.RLock()
        self._lists: dict[str, dict[str, UserList]] = {}
        self._managers: dict[str, set[str]] = {}
        self._requests: dict[str, Request] = {}
        self._next_list_id = FIRST_LIST_ID

    def add_user_list(
        self, customer_id: str, list_id: str | None, name: str, key_type: str = "CONTACT_ID"
    ) -> UserList:
        """Make a list, its account too; asked again for the same id, give the one there is."""
        if not customer_id.isdigit() or (list_id is not None and not list_id.isdigit()):
            raise ValueError("customer and list ids are digits")
        if key_type not in KEY_TYPES:
            raise ValueError(f"key_type is one of {', '.join(KEY_TYPES)}")
        with self.lock:
            if list_id is None:
                list_id = str(self._next_list_id)
                self._next_list_id += 1
            lists = self._lists.setdefault(customer_id, {})
            return lists.setdefault(list_id, UserList(customer_id, list_id, name, key_type))

    def add_manager(self, customer_id: str, manager_id: str) -> None:
        with self.lock:
            self._managers.setdefault(customer_id, set()).add(manager_id)

    def may(self, customer_id: str, login_id: str) -> bool:
        """Whether the login account reaches this one."""
        with self.lock:
            known = customer_id in self._lists
            return known and login_id in {customer_id, *self._managers.get(customer_id, ())}

    def list_of(self, customer_id: str, list_id: str) -> UserList | None:
        with self.lock:
            return self._lists.get(customer_id, {}).get(list_id)

    def user_list(self, list_id: str) -> UserList:
        """Give a list by its id alone, for the control port; KeyError if there is none."""
        with self.lock:
            for lists in self._lists.values():
                if list_id in lists:
                    return lists[list_id]
        raise KeyError(f"no user list {list_id}")

    def keys_of(self, list_id: str) -> Iterator[str]:
        with self.lock:
            members = list(self.user_list(list_id).members)
        return map(canonical, members)

    def open(self, verb: str, user_lists: Sequence[UserList], **facts: Any) -> Request:
        with self.lock:
            request = Request(secrets.token_urlsafe(12), verb, user_lists, **facts)
            request.records = len(request.keys) + request.refuses.total()
            self._requests[request.id] = request
            if self.polls == 0:
                _do(request)
            return request

    def look(self, request_id: str) -> Request:
        with self.lock:
            request = self._requests.get(request_id)
            if request is None:
                raise refused("NOT_FOUND", "There is no such request.")
            if request.status == "PROCESSING":
                if request.looks >= self.polls:
                    _do(request)
                request.looks += 1
            return request

    def age(self, seconds: float) -> None:
        """Let all members have been added so much earlier."""
        with self.lock:
            for user_list in self._all_lists():
                user_list.members = {m: at - seconds for m, at in user_list.members.items()}

    def state(self) -> dict[str, Any]:
        with self.lock:
            return {
                "polls": self.polls,
                "customers": {
                    customer_id: {
                        one.id: {"name": one.name, "count": len(one.members)}
                        for one in lists.values()
                    }
                    for customer_id, lists in self._lists.items()
                },
                "requests": [request.listing() for request in self._requests.values()],
            }

    def reset(self) -> None:
        with self.lock:
            self._requests.clear()
            for user_list in self._all_lists():
                user_list.members = {}

    def load(self, customers: Mapping[str, Mapping[str, Any]]) -> None:
        for customer_id, told in customers.items():
            for manager in told.get("managers", ()):
                self.add_manager(customer_id, manager)
            for list_id, one in told["lists"].items():
                self.add_user_list(
                    customer_id, list_id, one["name"], one.get("key_type", "CONTACT_ID")
                )

    def _all_lists(self) -> Iterable[UserList]:
        return [one for lists in self._lists.values() for one in lists.values()]


def _do(request: Request) -> None:
    now = time.time()
    for user_list in request.user_lists:
        members = user_list.members
        if request.failed:
            continue
        if request.verb == "ingest":
            members.update(dict.fromkeys(request.keys, now))
        elif request.verb == "remove":
            _remove(members, request.keys)
        else:
            for member in [m for m, added in members.items() if added < request.before]:
                del members[member]
    if request.failed:
        request.status = "FAILED"
    else:
        request.status = "PARTIAL_SUCCESS" if request.refuses else "SUCCESS"
    request.keys = []


def _remove(members: dict[bytes, float], keys: Iterable[bytes]) -> None:
    """Remove those named exactly; a key that names none removes all that share an identifier."""
    strangers: set[bytes] = set()
    for key in keys:
        if members.pop(key, None) is None:
            strangers.update(split(key))
    if strangers:
        for member in [m for m in members if not strangers.isdisjoint(split(m))]:
            del members[member]
