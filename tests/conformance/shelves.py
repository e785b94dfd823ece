"""What the conformance suite must know of each kind of platform: a line in SHELVES."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from penstock.processor import PenstockBatch, TryAgain
from sandbox.faults import Faults

SECRET = "secret-of-the-tests"
#: The digest that destinations of one's own are told to reject.
BAD = hashlib.sha256(b"bad").digest()
_CONTACT = ("email", "phone", "first_name", "last_name")


def _faults(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {} for name in names}


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
    #: Fault -> its data: each is gone when the same is asked again.
    passing: Mapping[str, Mapping[str, Any]]
    #: The fault that is a refusal of token or password, where it has one.
    refusal: tuple[str, Mapping[str, Any]] | None = None
    #: In place of the audience's id: to create one by name, where it can.
    by_name: Mapping[str, Any] | None = None
    #: A row's e-mail, where the row must be rejected.
    bad: bytes | None = None
    #: Settings of its sandbox while the suite runs, and those that let time pass over its members.
    settings: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    #: Columns that its members may have, where a member's size in a request is told.
    columns: tuple[str, ...] = ()


SHELVES: dict[str, Shelf] = {
    "google_ads": Shelf(
        server="google_sandbox",
        connection={"developer_token": SECRET, "endpoint": "{}", "insecure": True},
        destination={"customer_id": "1234567890", "user_list_id": "111"},
        audience="111",
        member="email:{}",
        passing=_faults("internal", "resource_exhausted", "unavailable"),
        refusal=("unauthenticated", {}),
        by_name={"customer_id": "1234567890"},
        settings={"processing": 0.01},
        columns=(*_CONTACT, "country", "postal_code"),
    ),
    "data_manager": Shelf(
        server="data_manager_sandbox",
        connection={"endpoint": "{}", "insecure": True},
        destination={"customer_id": "1234567890", "user_list_id": "111", "terms_accepted": True},
        audience="111",
        member="email:{}",
        passing=_faults("internal", "throttle", "unavailable", "html"),
        refusal=("unauthenticated", {}),
        settings={"polls": 1, "per_minute": 100_000},
        later={"older": 3600},
        columns=(*_CONTACT, "country", "postal_code"),
    ),
    "meta": Shelf(
        server="meta_sandbox",
        connection={"access_token": SECRET, "graph_url": "http://{}"},
        destination={"audience_id": "222"},
        audience="222",
        member="EMAIL:{}",
        passing=_faults("error_in_200", "empty_200", "rate_429", "rate_429_html", "http_500", "html_502",
             "reset"),
        refusal=("token", {}),
        by_name={"account_id": "1000"},
        columns=(*_CONTACT, "city", "state", "gender", "birth_year", "mobile_ad_id"),
    ),
    "linkedin": Shelf(
        server="linkedin_sandbox",
        connection={"access_token": SECRET, "api_url": "http://{}"},
        destination={"audience_id": "222"},
        audience="222",
        member="SHA256_EMAIL:{}",
        passing=_faults("throttle", "http_500", "html_200", "empty_200", "one_status_short", "reset"),
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
        passing={
            "status": {"status": 429},
            "answer": {"body": "<html>Log in</html>"},
            "slow": {},
            "reset": {},
        },
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
        passing={"raises": {}, "asks": {}},
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

    def settings(self) -> dict[str, Any]:
        return {}

    def members(self, audience: str) -> list[str]:
        assert audience
        return [one.hex() for taken in self._taken.values() for one in taken]

    def state(self) -> dict[str, Any]:
        return {key: list(taken) for key, taken in self._taken.items()}


OWN = OwnFunction()


def take(rows: pa.RecordBatch, batch: PenstockBatch) -> list[tuple[int, str]]:
    return OWN.take(rows, batch)
