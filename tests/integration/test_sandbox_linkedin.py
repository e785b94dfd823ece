"""The LinkedIn sandbox over plain HTTP: what its documentation says, and what it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sandbox.servers import LinkedInSandbox

SEGMENT = "222"
ACCOUNT = "urn:li:sponsoredAccount:1000"
HEADERS = {
    "Authorization": "Bearer token-of-the-tests",
    "LinkedIn-Version": "202608",
    "X-Restli-Protocol-Version": "2.0.0",
}
BATCH = {"X-RestLi-Method": "BATCH_CREATE"}
AID = "38400000-8cf0-11bd-b23e-10b96e40000d"
WANTED = {
    "name": "Customers",
    "account": ACCOUNT,
    "type": "USER",
    "sourcePlatform": "API",
    "destinations": [{"destination": "LINKEDIN"}],
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def email(name: str, action: str = "ADD") -> dict[str, Any]:
    return {"action": action, "userIds": [{"idType": "SHA256_EMAIL", "idValue": sha(name)}]}


class Client:
    def __init__(self, sandbox: LinkedInSandbox) -> None:
        self._sandbox = sandbox

    def get(self, path: str, *, headers: dict[str, str] = HEADERS, **params: str) -> Any:
        url = f"{self._sandbox.url}/rest/{path}"
        return requests.get(url, params=params, headers=headers, timeout=30)

    def post(self, path: str, body: Any, *, headers: dict[str, str] = HEADERS) -> Any:
        url = f"{self._sandbox.url}/rest/{path}"
        return requests.post(url, json=body, headers=headers, timeout=30)

    def users(self, *elements: Any, segment: str = SEGMENT) -> Any:
        return self.post(
            f"dmpSegments/{segment}/users", {"elements": elements}, headers=HEADERS | BATCH
        )

    def create(self, **more: Any) -> Any:
        return self.post("dmpSegments", WANTED | more)


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedInSandbox]:
    with LinkedInSandbox(tmp_path_factory.mktemp("linkedin")) as server:
        yield server


@pytest.fixture
def client(sandbox: LinkedInSandbox) -> Client:
    return Client(sandbox)


def test_each_user_has_a_status_of_its_own(sandbox: LinkedInSandbox, client: Client) -> None:
    with_phone = email("ben")
    with_phone["userIds"].append({"idType": "GOOGLE_AID", "idValue": AID.upper()})
    short = {"action": "ADD", "userIds": [{"idType": "SHA256_EMAIL", "idValue": "abc"}]}
    raw = {"action": "ADD", "userIds": [{"idType": "EMAIL", "idValue": "a@example.com"}]}
    nobody = {"action": "ADD", "userIds": []}
    answer = client.users(
        email("ann"), short, with_phone, raw, nobody, email("ann", "KEEP"), "ann", email("ann")
    )
    assert answer.status_code == 200
    statuses = [element["status"] for element in answer.json()["elements"]]
    assert statuses == [201, 400, 201, 400, 400, 400, 400, 201]
    assert set(sandbox.members(SEGMENT)) == {
        f"SHA256_EMAIL:{sha('ann')}",
        f"GOOGLE_AID:{AID}|SHA256_EMAIL:{sha('ben')}",
    }


def test_removing_by_any_id_and_twice(sandbox: LinkedInSandbox, client: Client) -> None:
    with_phone = email("ben")
    with_phone["userIds"].append({"idType": "GOOGLE_AID", "idValue": AID})
    client.users(email("ann"), with_phone)
    for _ in range(2):
        answer = client.users(email("ben", "REMOVE"))
        assert answer.json() == {"elements": [{"status": 201}]}
        assert sandbox.members(SEGMENT) == [f"SHA256_EMAIL:{sha('ann')}"]


def test_who_may_call(client: Client) -> None:
    def refused(**headers: str | None) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in (HEADERS | named).items() if value is not None}
        answer = client.get(f"dmpSegments/{SEGMENT}", headers=sent)
        return answer.status_code, answer.json()["code"]

    assert refused(Authorization=None) == (401, "EMPTY_ACCESS_TOKEN")
    assert refused(Authorization="Bearer bad") == (401, "REVOKED_ACCESS_TOKEN")
    assert refused(LinkedIn_Version=None) == (400, "VERSION_MISSING")
    assert refused(LinkedIn_Version="202301") == (426, "NONEXISTENT_VERSION")
    assert refused(X_Restli_Protocol_Version="1.0.0") == (400, "ILLEGAL_ARGUMENT")
    stranger = client.get("dmpSegments", q="account", account="urn:li:sponsoredAccount:9")
    assert stranger.status_code == 403


def test_a_batch_is_refused_as_a_whole(sandbox: LinkedInSandbox, client: Client) -> None:
    path = f"dmpSegments/{SEGMENT}/users"
    assert client.post(path, {"elements": [email("ann")]}).status_code == 400
    assert client.users().status_code == 400
    assert client.users(*[email("ann")] * 5001).status_code == 400
    sandbox.add_audience(id="300", name="Firms", type="COMPANY")
    assert client.users(email("ann"), segment="300").status_code == 400
    assert client.users(email("ann"), segment="999").status_code == 404
    assert sandbox.members(SEGMENT) == []


def test_a_created_segment_is_found(sandbox: LinkedInSandbox, client: Client) -> None:
    made = client.create(description="From the shop")
    assert (made.status_code, made.content) == (201, b"")
    number = made.headers["x-restli-id"]
    one = client.get(f"dmpSegments/{number}").json()
    assert (one["id"], one["name"], one["type"]) == (int(number), "Customers", "USER")
    assert one["description"] == "From the shop"
    first = client.get("dmpSegments", q="account", account=ACCOUNT, start="0", count="1").json()
    assert [element["id"] for element in first["elements"]] == [222]
    assert first["paging"]["total"] == 2
    whole = client.get("dmpSegments", q="account", account=ACCOUNT).json()
    assert [element["id"] for element in whole["elements"]] == [222, int(number)]
    assert sandbox.state()["audiences"][number]["source_platform"] == "API"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"account": "1000"},
        {"type": "PEOPLE"},
        {"destinations": []},
        {"sourcePlatform": None},
        {"accessPolicy": "PRIVATE"},
    ],
)
def test_a_segment_that_is_not_in_order(client: Client, wrong: dict[str, Any]) -> None:
    assert client.create(**wrong).status_code == 400


def test_users_who_come_too_soon_are_lost(sandbox: LinkedInSandbox, client: Client) -> None:
    sandbox.settings(ready_seconds=3600)
    number = client.create().headers["x-restli-id"]
    assert client.users(email("ann"), segment=number).json()["elements"] == [{"status": 201}]
    assert sandbox.members(number) == []
    sandbox.settings(ready_seconds=0)
    client.users(email("ann"), segment=number)
    assert sandbox.count(number) == 1


def test_the_caps(sandbox: LinkedInSandbox, client: Client) -> None:
    sandbox.settings(per_minute=2, max_segments=2)
    statuses = [client.users(email("ann")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert client.create().status_code == 201
    full = client.create()
    assert (full.status_code, full.json()["code"]) == (429, "SEGMENT_LIMIT_EXCEEDED")
    sandbox.reset()
    assert client.users(email("ann")).status_code == 200


def test_faults_come_when_they_were_planned(sandbox: LinkedInSandbox, client: Client) -> None:
    sandbox.fault("users", "throttle", data={"retry_after": 7})
    throttled = client.users(email("ann"))
    assert (throttled.status_code, throttled.headers["Retry-After"]) == (429, "7")
    sandbox.fault("users", "user_status", data={"every": 2, "status": 500})
    told = client.users(email("ann"), email("ben"), email("eve")).json()["elements"]
    assert [element["status"] for element in told] == [201, 500, 201]
    assert sandbox.count(SEGMENT) == 2
    sandbox.fault("users", "drop_after")
    with pytest.raises(requests.ConnectionError):
        client.users(email("dan"))
    assert sandbox.count(SEGMENT) == 3
    assert sandbox.calls()["users"] == {
        "ok": 1,
        "err": 2,
        "errors": {"throttle": 1, "drop_after": 1},
    }
