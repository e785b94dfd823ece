"""What the conformance suite must know of each kind of platform, a line in SHELVES; and how the
core brings a lane to one.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pyarrow as pa

from penstock.connections import KINDS as CONNECTIONS
from penstock.contract import LaneOutcome
from penstock.destinations import KINDS as DESTINATIONS
from penstock.processor import PenstockBatch, TryAgain
from sandbox.faults import Faults
from services.runtime.closing import Wait
from services.runtime.verdicts import Retryable
from services.upload import platforms
from services.upload.chunk import chunks
from services.upload.platform import Action, Context, LaneEnd, Lot, Platform, Sent
from services.upload.requests import Requests
from services.upload.settings import UploadSettings

SECRET = "secret-of-the-tests"
#: The digest that destinations of one's own are told to reject.
BAD = hashlib.sha256(b"bad").digest()
#: Who is in the audience before a test.
START = frozenset({"old", "both"})
_SETTINGS = UploadSettings(broker_url="redis://unused", ledger_url="postgresql://unused")
_TEXTS = {"country": "DE", "postal_code": "10115", "mobile_ad_id": "a" * 36}
_CONTACT = ("email", "phone", "first_name", "last_name")

_number = count(1)

Fault = tuple[str, Mapping[str, Any]]


def _faults(*names: str) -> tuple[Fault, ...]:
    return tuple((name, {}) for name in names)


@dataclass(frozen=True)
class Shelf:
    #: Fixture of the sandbox that stands in for the platform.
    server: str
    #: Keys of its connection; `{}` is where it listens.
    connection: Mapping[str, str | bool]
    destination: Mapping[str, Any]
    #: The audience, and a member who is known by the digest `{}` of an e-mail, as it names them.
    audience: str
    member: str
    #: Faults, with their data, that are gone when the same is asked again: those first that are
    #: the least alike.
    passing: tuple[Fault, ...]
    #: The fault that is a refusal of token or password, where it has one.
    refusal: Fault | None = None
    #: In place of the audience's id: to create one by name, where it can.
    by_name: Mapping[str, Any] | None = None
    #: A row's e-mail, where the row must be rejected.
    bad: bytes | None = None
    #: Whether a removal of somebody it could never know is as good as done.
    removes_the_unknown: bool = False
    #: Settings of its sandbox while the suite runs; those that let time pass over its members; and
    #: those with which each request is done by the time it is answered.
    settings: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    at_once: Mapping[str, Any] = field(default_factory=dict)
    #: Columns that its members may have, where a member's size in a request is told.
    columns: tuple[str, ...] = ()


SHELVES: dict[str, Shelf] = {
    "google_ads": Shelf(
        server="google_sandbox",
        connection={"developer_token": SECRET, "endpoint": "{}", "insecure": True},
        destination={"customer_id": "1234567890", "user_list_id": "111"},
        audience="111",
        member="email:{}",
        passing=_faults("unavailable", "internal", "resource_exhausted"),
        refusal=("unauthenticated", {}),
        by_name={"customer_id": "1234567890"},
        settings={"processing": 0},
        columns=(*_CONTACT, "country", "postal_code"),
    ),
    "data_manager": Shelf(
        server="data_manager_sandbox",
        connection={"endpoint": "{}", "insecure": True},
        destination={"customer_id": "1234567890", "user_list_id": "111", "terms_accepted": True},
        audience="111",
        member="email:{}",
        passing=_faults("html", "throttle", "internal", "unavailable"),
        refusal=("unauthenticated", {}),
        settings={"polls": 1, "per_minute": 100_000},
        later={"older": 3600},
        at_once={"polls": 0},
        columns=(*_CONTACT, "country", "postal_code"),
    ),
    "meta": Shelf(
        server="meta_sandbox",
        connection={"access_token": SECRET, "graph_url": "http://{}"},
        destination={"audience_id": "222"},
        audience="222",
        member="EMAIL:{}",
        passing=_faults("empty_200", "error_in_200", "rate_429", "rate_429_html", "http_500", "html_502",
             "reset"),
        refusal=("token", {}),
        by_name={"account_id": "1000"},
        columns=(*_CONTACT, "city", "state", "gender", "birth_year", "mobile_ad_id"),
    ),
    "linkedin": Shelf(
        removes_the_unknown=True,
        server="linkedin_sandbox",
        connection={"access_token": SECRET, "api_url": "http://{}"},
        destination={"audience_id": "222"},
        audience="222",
        member="SHA256_EMAIL:{}",
        passing=_faults("empty_200", "html_200", "throttle", "http_500", "one_status_short", "reset"),
        refusal=("token", {}),
        by_name={"account_id": "1000"},
        settings={"per_minute": 100_000},
        columns=("email", "mobile_ad_id"),
    ),
    "http": Shelf(
        server="endpoint_sandbox",
        connection={"url": f"http://{{}}/?token={SECRET}", "bearer_token": SECRET},
        destination={"form": "google", "max_rows": 50},
        audience="lane",
        member='["{}"]',
        passing=(
            ("answer", {"body": "<html>Log in</html>"}),
            ("status", {"status": 500}),
            ("status", {"status": 429}),
            ("reset", {}),
        ),
        refusal=("status", {"status": 401}),
        bad=BAD,
        settings={"rejected": {BAD.hex(): "blocked"}},
    ),
    "python": Shelf(
        server="own_function",
        connection={"function": f"{__name__}:take"},
        destination={"form": "google", "max_rows": 50},
        audience="lane",
        member="{}",
        passing=_faults("raises", "asks"),
        bad=BAD,
    ),
}  # fmt: skip


class OwnFunction:
    """What `take` was called with, to be steered and looked into as the sandboxes are."""

    port = 0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._faults = Faults(("raises", "asks", "drop_after"))
        self._taken: dict[str, list[bytes]] = {}

    def take(self, rows: pa.RecordBatch, batch: PenstockBatch) -> list[tuple[int, str]]:
        fault = self._faults.take("take")
        emails = rows.column("email").to_pylist()
        if fault is not None and fault.name == "asks":
            raise TryAgain(30)
        if fault is None or fault.name == "drop_after":
            self._taken[batch.key] = [one for one in emails if one != BAD]
        if fault is not None:
            raise ValueError(emails[0].hex())
        return [(place, "blocked") for place, one in enumerate(emails) if one == BAD]

    def fault(self, method: str, fault: str, **fields: Any) -> None:
        self._faults.add(method, fault, **fields)

    def faults(self) -> list[dict[str, Any]]:
        return self._faults.listing()

    def clear(self) -> None:
        self._faults.clear()

    def settings(self, **values: Any) -> dict[str, Any]:
        return values

    def members(self, audience: str) -> list[str]:
        assert audience
        return [one.hex() for taken in self._taken.values() for one in taken]

    def state(self) -> dict[str, Any]:
        return {key: list(taken) for key, taken in self._taken.items()}


OWN = OwnFunction()


def take(rows: pa.RecordBatch, batch: PenstockBatch) -> list[tuple[int, str]]:
    return OWN.take(rows, batch)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def people(names: Iterable[str], columns: Iterable[str] = ("email",)) -> pa.RecordBatch:
    """One row a name."""
    names = list(names)
    arrays = {
        column: pa.array([_TEXTS[column]] * len(names))
        if column in _TEXTS
        else pa.array([sha(name) for name in names], pa.binary(32))
        for column in columns
    }
    return pa.RecordBatch.from_pydict(arrays | {"row": pa.array(range(len(names)), pa.uint32())})


def modes_of(kind: str) -> tuple[str, ...]:
    return getattr(DESTINATIONS[kind], "modes", ("add",))


def brought(mode: str, rows: int) -> list[str]:
    known = ["both", "old"] if mode == "remove" else ["both"]
    return [*known, *(f"name {n}" for n in range(rows))][:rows]


def after(mode: str, names: Iterable[str]) -> set[str]:
    """Who is in the audience once a lane of the mode has brought the names."""
    names = set(names)
    if mode == "remove":
        return START - names
    if mode == "replace":
        return names or set(START)
    return (START | names) - ({"old"} if mode == "mirror" else set())


class Place:
    """A platform with an audience on it."""

    def __init__(self, kind: str, sandbox: Any) -> None:
        self.kind = kind
        self.shelf: Shelf = SHELVES[kind]
        self.sandbox = sandbox
        self.port = sandbox.port

    def connection(self) -> Any:
        where = f"127.0.0.1:{self.port}"
        table = {
            key: value.replace("{}", where) if isinstance(value, str) else value
            for key, value in self.shelf.connection.items()
        }
        return CONNECTIONS[self.kind].model_validate({"kind": self.kind, **table})

    def begin(self) -> None:
        """Nobody but START is in the audience, and since long."""
        self.sandbox.reset()
        assert Lane(self, "add").run(sorted(START)).error is None
        self.sandbox.settings(**self.shelf.later)
        assert self.members() == self.keys(START)

    def without_mishap(self, mode: str, names: Iterable[str]) -> list[str]:
        """What a lane leaves on the platform, which then is as if there had been none."""
        assert Lane(self, mode).run(names).error is None
        found = self.listed()
        assert set(found) == self.keys(after(mode, names))
        self.begin()
        return found

    def listed(self) -> list[str]:
        return sorted(self.sandbox.members(self.shelf.audience))

    def members(self) -> set[str]:
        return set(self.listed())

    def keys(self, names: Iterable[str]) -> set[str]:
        return {self.shelf.member.format(sha(name).hex()) for name in names}

    def fired(self) -> int:
        return sum(fault["fired"] for fault in self.sandbox.faults())


class AtOnce:
    """Waits for nothing: what is to be tried again is the test's business."""

    def turn(self, platform: Platform) -> None: ...

    def answered(self, platform: Platform, sent: Sent) -> None: ...

    def refused(self, platform: Platform, later: Retryable) -> None:  # noqa: ARG002
        raise later


class Lane:
    """A lane as the core brings it, and each of its steps by another worker."""

    def __init__(self, place: Place, mode: str, **destination: Any) -> None:
        self.place = place
        self.action: Action = "add" if mode == "mirror" else mode
        self.mode = mode
        self.job = f"job-{next(_number)}"
        self.destination = destination
        self.memo: dict[str, Any] = {}
        self.accepted = self.removed = 0
        self.requests: list[str] = []

    @property
    def platform(self) -> Platform:
        kind, shelf = self.place.kind, self.place.shelf
        wanted = {"kind": kind, "connection": "shelf", **(self.destination or shelf.destination)}
        if "mode" in DESTINATIONS[kind].model_fields:
            wanted["mode"] = self.mode
        context = Context(0.01, job_id=self.job, job_name="nightly", lane="lane", seq=0)
        connection, destination = self.place.connection(), DESTINATIONS[kind].model_validate(wanted)
        return platforms.platform(kind, connection, destination, context)

    def prepare(self, lane: Platform, lot: Lot) -> None:
        new = lane.prepare(self.memo, lot)
        assert json.loads(json.dumps(new)) == new
        # The ledger keeps what it has.
        self.memo = new | self.memo

    def send(self, rows: pa.RecordBatch, action: Action | None = None) -> list[Sent]:
        lane, lot = self.platform, Lot(action or self.action)
        self.prepare(lane, lot)
        requests = Requests(lane, lane.sender(self.memo, rows.num_rows, lot), AtOnce(), _SETTINGS)
        done, unsent = [], rows.num_rows
        for chunk in chunks(rows, lane.limits, lane.row_bytes(rows.schema.names)):
            unsent -= chunk.num_rows
            sent = requests.send(chunk, last=unsent == 0)
            check_figures(sent, chunk)
            self.memo |= json.loads(json.dumps(dict(sent.keep)))
            self.requests += [name for name, _ in requests.open_since()]
            if action is None:
                self.accepted += sent.accepted
            else:
                self.removed += sent.accepted
            done.append(sent)
        return done

    def close(self, error: str | None = None, *, cancelled: bool = False) -> LaneOutcome:
        for _ in range(500):
            end = LaneEnd(self.accepted, error, cancelled, self.removed, tuple(self.requests))
            found = self.platform.close(self.memo, end)
            if isinstance(found, LaneOutcome):
                return found
            if isinstance(found, Wait):
                time.sleep(found.seconds)
                continue
            self.memo |= json.loads(json.dumps(dict(found.keep)))
            for request, reasons in found.requests.items():
                self.requests.remove(request)
                self.accepted -= sum(reasons.values())
        raise AssertionError("the lane did not end")

    def steps(self, names: Iterable[str]) -> list[Callable[[], Any]]:
        """All there is to do for a source of these people."""
        batch = people(names)
        steps: list[Callable[[], Any]] = [lambda: self.send(batch)] if batch.num_rows else []
        if self.mode == "mirror":
            steps.append(lambda: self.send(people(["old"]), "remove"))
        return [*steps, self.close]

    def run(self, names: Iterable[str]) -> LaneOutcome:
        return [step() for step in self.steps(names)][-1]


def check_figures(sent: Sent, chunk: pa.RecordBatch) -> None:
    assert sent.accepted + sum(sent.rejected.values()) == chunk.num_rows
    assert set(sent.rows) <= set(range(chunk.num_rows))
    assert len(sent.rows) <= sum(sent.rejected.values())
    assert {reason for _, reason in sent.rows.values()} <= set(sent.rejected)
    assert {field for field, _ in sent.rows.values()} <= {"", *chunk.schema.names} - {"row"}
    check_silent(repr([sent.rejected, sent.rows, sent.request]))


def check_silent(text: str) -> None:
    """Nothing that is secret or anybody's: a digest shows in hex, or as bytes do in Python."""
    assert SECRET not in text
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert not re.search(r"(\\x[0-9a-f]{2}){3}", text)
