"""The Meta sandbox, driven by the real SDK and, where that hides things, by plain HTTP."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "token-of-the-tests"
DEADLINE = 30
USAGE = {
    "call_count": 1,
    "total_cputime": 1,
    "total_time": 1,
    "estimated_time_to_regain_access": 0,
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ANN, BEN, EVE = sha("ann@example.com"), sha("ben@example.com"), sha("eve@example.com")
PHONE = sha("15559876543")


class Reply:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status, self.headers, self.text = status, headers, body.decode()

    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> int:
        return self.json()["error"]["code"]


class Sandbox:
    """A running `python -m sandbox.meta`, its Graph API and its control port."""

    def __init__(self, process: subprocess.Popen[str], port: int, control: int) -> None:
        self.process, self.port, self.control_port = process, port, control

    def http(self, verb: str, target: str, body: bytes = b"", **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(verb, target, body or None, named)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **query: str) -> Reply:
        return self.http("GET", f"/v26.0/{path}?{urlencode({'access_token': TOKEN, **query})}")

    def users(self, payload: Any, session: Any = None, audience: str = "222", **more: Any) -> Reply:
        body = {"access_token": TOKEN, "payload": payload, **more}
        if session is not None:
            body["session"] = session
        return self.http(
            "POST",
            f"/v26.0/{audience}/users",
            json.dumps(body).encode(),
            Content_Type="application/json",
        )

    def create(self, account: str = "act_1000", **body: Any) -> Reply:
        return self.http(
            "POST",
            f"/v26.0/{account}/customaudiences",
            json.dumps({"access_token": TOKEN, **body}).encode(),
            Content_Type="application/json",
        )

    def control(self, verb: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=DEADLINE)
        try:
            connection.request(verb, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            content = json.loads(answer.read())
            assert answer.status == 200, content
            return content
        finally:
            connection.close()

    def fault(self, name: str, method: str = "users", **more: Any) -> None:
        self.control("POST", "/faults", {"fault": name, "method": method, **more})

    def members(self, audience: str = "222") -> set[str]:
        return set(self.control("GET", f"/members/{audience}")["members"])

    def sessions(self) -> list[dict[str, Any]]:
        return self.control("GET", "/state")["sessions"]


@contextmanager
def running(*options: str) -> Iterator[Sandbox]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.meta", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Sandbox(process, **json.loads(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    with running() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(server: Sandbox) -> Sandbox:
    server.control("POST", "/reset", {})
    server.control("POST", "/settings", {"usage": USAGE})
    return server


@contextmanager
def sdk(
    sandbox: Sandbox, token: str = TOKEN, app_secret: str | None = "sandbox-secret"
) -> Iterator[FacebookAdsApi]:
    session = FacebookSession(app_secret=app_secret, access_token=token, timeout=DEADLINE)
    session.GRAPH = f"http://127.0.0.1:{sandbox.port}"
    with session.requests:
        yield FacebookAdsApi(session)


@pytest.fixture
def api(sandbox: Sandbox) -> Iterator[FacebookAdsApi]:
    with sdk(sandbox) as made:
        yield made


@pytest.fixture
def audience(api: FacebookAdsApi) -> CustomAudience:
    return CustomAudience("222", api=api)


def emails(*hashes: str) -> dict[str, Any]:
    return {"schema": ["EMAIL"], "data": [[one] for one in hashes]}


# --- the process


def test_stops_on_sigterm_and_has_printed_neither_token_nor_payload() -> None:
    with running() as sandbox:
        sandbox.users(emails(ANN, "not-a-hash"))
        sandbox.users(emails(ANN), access_token="bad")
        sandbox.get("nowhere")
        sandbox.fault("reset")
        with pytest.raises(ConnectionError):
            sandbox.users(emails(ANN))
        sandbox.process.send_signal(signal.SIGTERM)
        out, err = sandbox.process.communicate(timeout=DEADLINE)
    assert (sandbox.process.returncode, out, err) == (0, "", "")


def test_connections_are_kept(sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=DEADLINE)
    used = []
    for target in ("/v26.0/me?access_token=t", "/v26.0/nobody?access_token=t", "/"):
        connection.request("GET", target)
        connection.getresponse().read()
        used.append(connection.sock)
    connection.close()
    assert used[0] is not None
    assert used == [used[0]] * 3


def test_half_a_request_is_no_request(sandbox: Sandbox) -> None:
    form = urlencode({"access_token": TOKEN, "payload": json.dumps(emails(ANN))}).encode()
    head = (
        "POST /v26.0/222/users HTTP/1.1\r\nHost: here\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(form) + 40}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=DEADLINE) as wire:
        wire.sendall(head.encode() + form)
        wire.shutdown(socket.SHUT_WR)
        assert wire.recv(1) == b""
    assert sandbox.members() == set()


# --- adding


def test_the_sdk_adds_rows_of_several_keys(sandbox: Sandbox, audience: CustomAudience) -> None:
    answer = audience.create_user(
        params={
            "payload": {
                "schema": ["PHONE", "EXTERN_ID", "EMAIL"],
                "data": [[PHONE, "Cust 7", ANN], ["", "", BEN], ["", "Cust|9", ""]],
            },
            "session": {"session_id": 7, "batch_seq": 1, "last_batch_flag": True},
        }
    ).export_all_data()
    assert answer == {
        "audience_id": "222",
        "session_id": "7",
        "num_received": 3,
        "num_invalid_entries": 0,
        "invalid_entry_samples": [],
    }
    assert sandbox.members() == {
        f"EMAIL:{ANN}|EXTERN_ID:Cust 7|PHONE:{PHONE}",
        f"EMAIL:{BEN}",
        "EXTERN_ID:Cust|9",
    }


def test_the_mixin_of_the_sdk_adds_a_flat_list(sandbox: Sandbox, audience: CustomAudience) -> None:
    answer = audience.add_users(CustomAudience.Schema.email_hash, ["ann@example.com"])
    assert answer.json()["num_received"] == 1
    assert sandbox.members() == {f"EMAIL:{ANN}"}


def test_form_and_json_and_every_place_of_the_token_are_the_same(sandbox: Sandbox) -> None:
    target = "/v26.0/222/users"
    form = urlencode({"payload": json.dumps(emails(ANN))}).encode()
    body = json.dumps({"payload": json.dumps(emails(BEN)), "access_token": TOKEN}).encode()
    replies = [
        sandbox.http(
            "POST",
            f"{target}?access_token={TOKEN}",
            form,
            Content_Type="application/x-www-form-urlencoded; charset=utf-8",
        ),
        sandbox.http("POST", target, body, Content_Type="application/json"),
        sandbox.http(
            "POST",
            target,
            json.dumps({"payload": emails(EVE)}).encode(),
            Content_Type="application/json",
            Authorization=f"Bearer {TOKEN}",
        ),
    ]
    assert [reply.status for reply in replies] == [200] * 3
    assert sandbox.members() == {f"EMAIL:{one}" for one in (ANN, BEN, EVE)}


def test_ten_thousand_rows_are_the_most(sandbox: Sandbox) -> None:
    rows = [sha(str(number)) for number in range(10_001)]
    refused = sandbox.users(emails(*rows))
    assert (refused.status, refused.code) == (400, 100)
    assert sandbox.control("GET", "/members/222?count=1") == {"count": 0}
    assert sandbox.users(emails(*rows[1:])).json()["num_received"] == 10_000
    assert sandbox.control("GET", "/members/222?count=1") == {"count": 10_000}


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "{not json",
        [],
        {"schema": [], "data": [[ANN]]},
        {"schema": ["EMAIL", "SHOE_SIZE"], "data": [[ANN, ""]]},
        {"schema": ["EMAIL", "EMAIL_SHA256"], "data": [[ANN, BEN]]},
        {"schema": [7], "data": [[ANN]]},
        {"schema": ["EMAIL"], "data": []},
        {"schema": ["EMAIL"]},
        {"schema": ["EMAIL"], "data": [ANN]},
        {"schema": ["EMAIL"], "data": [[BEN], [ANN, PHONE]]},
    ],
)
def test_a_payload_it_cannot_read_is_refused_whole(sandbox: Sandbox, payload: Any) -> None:
    refused = sandbox.users(payload, {"session_id": 1, "batch_seq": 1})
    assert (refused.status, refused.code) == (400, 100)
    assert ANN not in refused.text
    assert sandbox.members() == set()
    assert sandbox.sessions() == []


def test_bodies_it_cannot_read_are_refused(sandbox: Sandbox) -> None:
    target = f"/v26.0/222/users?access_token={TOKEN}"
    for body, kind in ((b"{", "application/json"), (b"[]", "application/json"), (b"x", "text/csv")):
        assert sandbox.http("POST", target, body, Content_Type=kind).code == 100


def test_entries_that_are_no_hashes_are_invalid(sandbox: Sandbox) -> None:
    rows = [
        [ANN, PHONE],
        [ANN.upper(), ""],
        [BEN, "15559876543"],
        ["", ""],
        [BEN[:-1], ""],
        [None, PHONE],
    ]
    answer = sandbox.users({"schema": ["EMAIL", "PHONE"], "data": rows}).json()
    assert (answer["num_received"], answer["num_invalid_entries"]) == (6, 5)
    assert len(answer["invalid_entry_samples"]) == 5
    assert all(isinstance(reason, str) for reason in answer["invalid_entry_samples"].values())
    assert sandbox.members() == {f"EMAIL:{ANN}|PHONE:{PHONE}"}


def test_samples_are_a_hundred_at_most(sandbox: Sandbox) -> None:
    answer = sandbox.users(emails(*(f"wrong-{number}" for number in range(150)))).json()
    assert answer["num_invalid_entries"] == 150
    assert len(answer["invalid_entry_samples"]) == 100


def test_extern_ids_and_device_ids_are_taken_as_given(sandbox: Sandbox) -> None:
    sandbox.users({"schema": ["MADID", "EXTERN_ID"], "data": [["AEBE52E7-03EE", "Ä 1"]]})
    assert sandbox.members() == {"EXTERN_ID:Ä 1|MADID:AEBE52E7-03EE"}


# --- removing


def test_removing_by_a_post_that_says_delete(sandbox: Sandbox, api: FacebookAdsApi) -> None:
    sandbox.users(emails(ANN, BEN))
    params = {"method": "DELETE", "payload": emails(ANN, EVE)}
    answer = api.call("POST", ("222", "users"), params=params).json()
    assert answer["num_received"] == 2
    assert sandbox.members() == {f"EMAIL:{BEN}"}
    assert sandbox.users(emails(BEN), method="DELETE").status == 200
    assert sandbox.members() == set()
    assert sandbox.control("GET", "/calls")["users_remove"]["ok"] == 2


def test_the_delete_of_the_sdk_works_for_few_rows(
    sandbox: Sandbox, audience: CustomAudience
) -> None:
    sandbox.users(emails(ANN, BEN))
    audience.remove_users(CustomAudience.Schema.email_hash, [ANN], pre_hashed=True)
    assert sandbox.members() == {f"EMAIL:{BEN}"}


def test_the_delete_of_the_sdk_fails_for_many_rows_without_a_word(
    sandbox: Sandbox, audience: CustomAudience
) -> None:
    rows = [sha(str(number)) for number in range(120)]
    sandbox.users(emails(*rows))
    answer = audience.remove_users(CustomAudience.Schema.email_hash, rows, pre_hashed=True)
    assert answer.is_success()
    assert answer.status() == 414
    assert len(sandbox.members()) == 120


def test_a_person_is_removed_by_any_identifier_that_names_one(sandbox: Sandbox) -> None:
    known = {"schema": ["EMAIL", "PHONE", "FN"], "data": [[ANN, PHONE, EVE], [BEN, "", EVE]]}
    sandbox.users(known)
    # A name alone names nobody.
    sandbox.users({"schema": ["FN"], "data": [[EVE]]}, method="DELETE")
    assert len(sandbox.members()) == 2
    sandbox.users({"schema": ["PHONE"], "data": [[PHONE]]}, method="DELETE")
    assert sandbox.members() == {f"EMAIL:{BEN}|FN:{EVE}"}


# --- sessions


def test_a_session_counts_all_its_requests_even_one_sent_twice(sandbox: Sandbox) -> None:
    session = {"session_id": 9_223_372_036_854_775_807, "estimated_num_total": 4}
    answers = [
        sandbox.users(rows, {**session, "batch_seq": seq, "last_batch_flag": last}).json()
        for seq, last, rows in (
            (2, False, emails(ANN, "wrong")),
            (2, False, emails(ANN, "wrong")),
            (1, True, emails(BEN)),
        )
    ]
    assert [answer["num_received"] for answer in answers] == [2, 4, 5]
    assert [answer["num_invalid_entries"] for answer in answers] == [1, 2, 2]
    assert [answer["session_id"] for answer in answers] == ["9223372036854775807"] * 3
    assert sandbox.members() == {f"EMAIL:{ANN}", f"EMAIL:{BEN}"}
    assert sandbox.sessions() == [
        {
            "id": 9_223_372_036_854_775_807,
            "audience_id": "222",
            "batches": [1, 2],
            "requests": 3,
            "received": 5,
            "invalid": 2,
            "last_batch_seen": True,
        }
    ]


def test_requests_without_a_session_count_for_themselves(sandbox: Sandbox) -> None:
    first, second = (sandbox.users(emails(one)).json() for one in (ANN, BEN))
    assert (first["num_received"], second["num_received"]) == (1, 1)
    assert first["session_id"] != second["session_id"]
    assert sandbox.sessions() == []


def test_after_its_last_batch_a_session_takes_no_more(sandbox: Sandbox) -> None:
    session = {"session_id": 5, "batch_seq": 1, "last_batch_flag": True}
    assert sandbox.users(emails(ANN), session).status == 200
    for again in (session, {"session_id": 5, "batch_seq": 2}):
        refused = sandbox.users(emails(BEN), again)
        assert (refused.status, refused.code) == (400, 2650)
    assert sandbox.members() == {f"EMAIL:{ANN}"}
    assert sandbox.sessions()[0]["requests"] == 1


def test_a_session_belongs_to_one_audience_of_the_account(sandbox: Sandbox) -> None:
    sandbox.control("POST", "/audiences", {"id": "501", "name": "Second"})
    sandbox.users(emails(ANN), {"session_id": 5, "batch_seq": 1})
    refused = sandbox.users(emails(ANN), {"session_id": 5, "batch_seq": 2}, audience="501")
    assert refused.code == 2650
    assert sandbox.members("501") == set()


@pytest.mark.parametrize(
    "session",
    [
        "nonsense",
        [],
        {},
        {"session_id": 1},
        {"batch_seq": 1},
        {"session_id": 0, "batch_seq": 1},
        {"session_id": -4, "batch_seq": 1},
        {"session_id": 2**63, "batch_seq": 1},
        {"session_id": 2**64, "batch_seq": 1},
        {"session_id": True, "batch_seq": 1},
        {"session_id": 1.5, "batch_seq": 1},
        {"session_id": 1, "batch_seq": 0},
        {"session_id": 1, "batch_seq": 1, "last_batch_flag": "yes"},
        {"session_id": 1, "batch_seq": 1, "estimated_num_total": -1},
    ],
)
def test_wrong_sessions_are_refused_by_name(sandbox: Sandbox, session: Any) -> None:
    refused = sandbox.users(emails(ANN), session)
    assert (refused.status, refused.code) == (400, 100)
    assert "session" in refused.json()["error"]["message"]
    assert sandbox.members() == set()


def test_many_at_once_in_one_session_count_exactly(sandbox: Sandbox) -> None:
    def send(seq: int) -> int:
        rows = emails(*(sha(f"{seq}-{number}") for number in range(100)))
        return sandbox.users(rows, {"session_id": 3, "batch_seq": seq}).json()["num_received"]

    with ThreadPoolExecutor(8) as pool:
        seen = sorted(pool.map(send, range(1, 25)))
    assert seen == [100 * number for number in range(1, 25)]
    assert len(sandbox.members()) == 2400
    assert sandbox.sessions()[0]["batches"] == list(range(1, 25))


# --- reading


def test_the_sdk_reads_an_audience(sandbox: Sandbox, audience: CustomAudience) -> None:
    fields = [
        "name",
        "account_id",
        "approximate_count_lower_bound",
        "operation_status",
        "delivery_status",
    ]
    read = audience.api_get(fields=fields).export_all_data()
    assert read == {
        "id": "222",
        "name": "Newsletter",
        "account_id": "1000",
        "approximate_count_lower_bound": 1000,
        "operation_status": {"code": 200, "description": "Normal"},
        "delivery_status": {"code": 300, "description": "This audience is too small."},
    }
    sandbox.users(emails(*(sha(str(number)) for number in range(2345))))
    read = audience.api_get(fields=fields).export_all_data()
    assert read["approximate_count_lower_bound"] == 2300
    assert read["delivery_status"]["code"] == 200


def test_without_fields_only_the_id_comes(sandbox: Sandbox) -> None:
    assert sandbox.get("222").json() == {"id": "222"}
    refused = sandbox.get("222", fields="id,shoe_size")
    assert refused.code == 100
    assert "(shoe_size)" in refused.json()["error"]["message"]


def test_the_sdk_pages_through_the_audiences(sandbox: Sandbox, api: FacebookAdsApi) -> None:
    for number in range(601, 604):
        sandbox.control("POST", "/audiences", {"id": str(number), "name": f"List {number}"})
    total = len(sandbox.control("GET", "/state")["audiences"])
    cursor = AdAccount("act_1000", api=api).get_custom_audiences(
        fields=["id", "name"], params={"limit": 2}
    )
    read = {one["id"]: one["name"] for one in cursor}
    assert cursor.total() == len(read) == total
    assert read["222"] == "Newsletter"
    assert read["603"] == "List 603"


def test_the_link_to_the_next_page_works_by_itself(sandbox: Sandbox) -> None:
    if len(sandbox.control("GET", "/state")["audiences"]) == 1:
        sandbox.control("POST", "/audiences", {"id": "701"})
    first = sandbox.get("act_1000/customaudiences", fields="name", limit="1").json()
    assert first["data"] == [{"name": "Newsletter", "id": "222"}]
    link = urlsplit(first["paging"]["next"])
    assert link.port == sandbox.port
    second = sandbox.http("GET", f"{link.path}?{link.query}").json()
    assert len(second["data"]) == 1
    assert second["data"][0]["id"] != "222"
    for wrong in ({"limit": "0"}, {"limit": "many"}, {"after": "%%%"}):
        assert sandbox.get("act_1000/customaudiences", **wrong).code == 100


def test_account_and_me(sandbox: Sandbox, api: FacebookAdsApi) -> None:
    account = AdAccount("act_1000", api=api).api_get(fields=["id", "name"])
    assert account.export_all_data() == {"id": "act_1000", "name": "Sandbox account"}
    assert sandbox.get("act_2000", fields="name").json()["name"] == "Second sandbox account"
    assert set(sandbox.get("me").json()) == {"id", "name"}


# --- creating


def test_the_sdk_creates_and_deletes_an_audience(api: FacebookAdsApi) -> None:
    account = AdAccount("act_2000", api=api)
    params = {
        "name": "Buyers",
        "subtype": CustomAudience.Subtype.custom,
        "description": "Those who bought.",
        "customer_file_source": CustomAudience.CustomerFileSource.user_provided_only,
    }
    first, second = (account.create_custom_audience(params=params) for _ in range(2))
    read = CustomAudience(first["id"], api=api).api_get(
        fields=["name", "description", "account_id"]
    )
    assert read.export_all_data() == {
        "id": first["id"],
        "name": "Buyers",
        "description": "Those who bought.",
        "account_id": "2000",
    }
    assert first["id"] != second["id"]
    second.api_delete()
    assert [one["id"] for one in account.get_custom_audiences()] == [first["id"]]


@pytest.mark.parametrize(
    ("left_out", "changed", "told"),
    [
        ("name", {}, "Missing parameter(s): name"),
        ("customer_file_source", {}, "Missing parameter(s): customer_file_source"),
        ("", {"customer_file_source": "FOUND"}, "customer_file_source"),
        ("", {"subtype": "WEBSITE"}, "subtype"),
    ],
)
def test_a_creation_that_lacks_something_is_refused(
    sandbox: Sandbox, left_out: str, changed: dict[str, str], told: str
) -> None:
    whole = {"name": "B", "subtype": "CUSTOM", "customer_file_source": "USER_PROVIDED_ONLY"}
    body = {key: value for key, value in (whole | changed).items() if key != left_out}
    refused = sandbox.create(**body)
    assert refused.code == 100
    assert told in refused.json()["error"]["message"]
    assert sandbox.create("act_77", **whole).json()["error"]["error_subcode"] == 33


@pytest.mark.parametrize("name", ["999", "act_1", "act_1/customaudiences"])
def test_what_does_not_exist_is_said_as_the_real_one_does(sandbox: Sandbox, name: str) -> None:
    refused = sandbox.get(name)
    error = refused.json()["error"]
    assert (refused.status, error["code"], error["error_subcode"]) == (400, 100, 33)
    assert error["message"].startswith("Unsupported get request. Object with ID")


def test_users_of_an_audience_that_does_not_exist(api: FacebookAdsApi) -> None:
    with pytest.raises(FacebookRequestError) as raised:
        CustomAudience("999", api=api).create_user(params={"payload": emails(ANN)})
    assert (raised.value.api_error_code(), raised.value.api_error_subcode()) == (100, 33)
    assert raised.value.api_error_message().startswith("Unsupported post request.")


@pytest.mark.parametrize("path", ["/v25.0/222", "/222", "/", "/v26.0", "/v26.0/222/usersreplace"])
def test_paths_outside_the_version_are_unknown(sandbox: Sandbox, path: str) -> None:
    assert sandbox.http("GET", f"{path}?access_token={TOKEN}").code == 2500


# --- who may call


def test_a_bad_token_is_refused(sandbox: Sandbox) -> None:
    with sdk(sandbox, token="bad") as api, pytest.raises(FacebookRequestError) as raised:
        CustomAudience("222", api=api).api_get(fields=["name"])
    error = raised.value
    assert (error.http_status(), error.api_error_code()) == (400, 190)
    assert error.api_error_type() == "OAuthException"


def test_no_token_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.http("GET", "/v26.0/222").code == 104
    assert sandbox.http("GET", "/v26.0/222?access_token=").code == 104


def test_the_proof_must_be_that_of_the_app_secret(sandbox: Sandbox) -> None:
    with (
        sdk(sandbox, app_secret="of another app") as api,
        pytest.raises(FacebookRequestError) as raised,
    ):
        CustomAudience("222", api=api).api_get(fields=["name"])
    assert raised.value.api_error_code() == 100
    text = "Invalid appsecret_proof provided in the API argument"
    assert raised.value.api_error_message() == text
    with sdk(sandbox, app_secret=None) as api:
        assert CustomAudience("222", api=api).api_get(fields=["name"])["name"] == "Newsletter"


def test_another_app_secret_can_be_given() -> None:
    proof = hmac.new(b"of another app", TOKEN.encode(), hashlib.sha256).hexdigest()
    with running("--app-secret", "of another app") as sandbox:
        assert sandbox.get("222", appsecret_proof=proof).status == 200
        assert sandbox.get("222", appsecret_proof=proof[::-1]).code == 100


# --- rate figures


def test_the_usage_header_is_on_every_answer_and_can_be_set(
    sandbox: Sandbox, audience: CustomAudience
) -> None:
    sandbox.control("POST", "/settings", {"usage": {"call_count": 93, "total_time": 40}})
    expected = {"1000": [{"type": "custom_audience", **USAGE, "call_count": 93, "total_time": 40}]}
    for reply in (sandbox.get("222"), sandbox.get("999"), sandbox.users(emails(ANN))):
        assert json.loads(reply.headers["X-Business-Use-Case-Usage"]) == expected
    answer = audience.add_users(CustomAudience.Schema.email_hash, ["ann@example.com"])
    assert json.loads(answer.headers()["x-business-use-case-usage"]) == expected


def test_an_account_that_calls_too_often_is_throttled_by_itself() -> None:
    with running() as sandbox:

        def figures(path: str) -> tuple[int, dict[str, Any]]:
            reply = sandbox.get(path)
            ((account, (figures,)),) = json.loads(
                reply.headers["X-Business-Use-Case-Usage"]
            ).items()
            assert account == ("2000" if "2000" in path else "1000")
            wait = figures["estimated_time_to_regain_access"]
            return reply.status, {"calls": figures["call_count"], "wait": wait}

        sandbox.control("POST", "/settings", {"usage_per_call": 40, "regain_minutes": 5})
        assert figures("222") == (200, {"calls": 40, "wait": 0})
        assert figures("act_1000/customaudiences") == (200, {"calls": 80, "wait": 0})
        assert figures("act_1000") == (200, {"calls": 100, "wait": 5})
        assert figures("222") == (400, {"calls": 100, "wait": 5})
        assert sandbox.get("222").code == 80003
        assert figures("act_2000") == (200, {"calls": 40, "wait": 0})
        sandbox.control("POST", "/settings", {"regain_minutes": 0})
        assert figures("222") == (200, {"calls": 40, "wait": 0})


def test_the_other_usage_headers_are_there_when_they_are_set(sandbox: Sandbox) -> None:
    names = ("X-App-Usage", "X-Ad-Account-Usage")
    assert [sandbox.get("222").headers[name] for name in names] == [None, None]
    told = {"call_count": 7}, {"acc_id_util_pct": 9.67}
    sandbox.control("POST", "/settings", {"app_usage": told[0], "ad_account_usage": told[1]})
    assert tuple(json.loads(sandbox.get("222").headers[name]) for name in names) == told
    sandbox.control("POST", "/settings", {"app_usage": {}, "ad_account_usage": {}})
    assert [sandbox.get("222").headers[name] for name in names] == [None, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"usage": {"calls": 1}},
        {"usage": {"call_count": -1}},
        {"app_usage": 5},
        {"replace_minutes": -1},
        {"usage_per_call": "many"},
        {"x": 1},
    ],
)
def test_settings_it_does_not_know_are_refused(sandbox: Sandbox, wrong: Any) -> None:
    with pytest.raises(AssertionError, match="error"):
        sandbox.control("POST", "/settings", wrong)


# --- faults


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("throttle", (400, 80003, None, True)),
        ("rate_429", (429, 4, None, True)),
        ("transient", (500, 2, None, True)),
        ("http_500", (500, 1, None, False)),
        ("error_in_200", (200, 1, None, False)),
        ("token", (400, 190, None, False)),
        ("permission", (403, 200, None, False)),
        ("terms", (403, 200, 1870090, False)),
        ("bad_parameter", (400, 100, None, False)),
        ("blocked", (400, 100, 1713230, False)),
        ("busy", (400, 2650, 1870145, False)),
        ("not_whole", (400, 2650, 1870148, False)),
        ("timed_out", (400, 2650, 1870158, False)),
        ("over", (400, 2650, 1870159, False)),
    ],
)
def test_refusals_on_demand(
    sandbox: Sandbox, audience: CustomAudience, name: str, expected: tuple[Any, ...]
) -> None:
    sandbox.fault(name)
    with pytest.raises(FacebookRequestError) as raised:
        audience.create_user(params={"payload": emails(ANN)})
    error = raised.value
    assert expected == (
        error.http_status(),
        error.api_error_code(),
        error.api_error_subcode(),
        error.api_transient_error(),
    )
    assert sandbox.members() == set()
    assert sandbox.control("GET", "/calls")["users"]["errors"] == {name: 1}
    audience.create_user(params={"payload": emails(ANN)})
    assert sandbox.members() == {f"EMAIL:{ANN}"}


def test_a_throttled_call_says_how_long_to_wait(sandbox: Sandbox) -> None:
    sandbox.fault("throttle", data={"minutes": 12})
    throttled = json.loads(sandbox.users(emails(ANN)).headers["X-Business-Use-Case-Usage"])
    assert throttled["1000"][0]["call_count"] == 100
    assert throttled["1000"][0]["estimated_time_to_regain_access"] == 12
    after = json.loads(sandbox.users(emails(ANN)).headers["X-Business-Use-Case-Usage"])
    assert after["1000"][0]["estimated_time_to_regain_access"] == 0


@pytest.mark.parametrize(
    ("name", "status"), [("rate_429_html", 429), ("html_502", 502), ("html_414", 414)]
)
def test_pages_that_the_sdk_takes_for_success(
    sandbox: Sandbox, api: FacebookAdsApi, name: str, status: int
) -> None:
    sandbox.fault(name)
    answer = api.call("POST", ("222", "users"), params={"payload": emails(ANN)})
    assert answer.is_success()
    assert answer.status() == status
    assert isinstance(answer.json(), str)
    assert answer.headers()["Content-Type"].startswith("text/html")
    assert sandbox.members() == set()


def test_an_empty_200_does_nothing(sandbox: Sandbox, api: FacebookAdsApi) -> None:
    sandbox.fault("empty_200")
    answer = api.call("POST", ("222", "users"), params={"payload": emails(ANN)})
    assert answer.is_success()
    assert (answer.status(), answer.json()) == (200, {})
    assert sandbox.members() == set()


def test_reset_before_and_drop_after_the_work(sandbox: Sandbox, audience: CustomAudience) -> None:
    for name, received in (("reset", []), ("drop_after", [1])):
        sandbox.fault(name)
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            audience.create_user(
                params={"payload": emails(ANN), "session": {"session_id": 1, "batch_seq": 1}}
            )
        assert [one["received"] for one in sandbox.sessions()] == received
    assert sandbox.members() == {f"EMAIL:{ANN}"}
    errors = sandbox.control("GET", "/calls")["users"]["errors"]
    assert errors == {"reset": 1, "drop_after": 1}


def test_hang_lasts_until_the_client_gives_up(sandbox: Sandbox, api: FacebookAdsApi) -> None:
    sandbox.fault("hang")
    api._session.timeout = 0.3
    with pytest.raises(requests.ReadTimeout):
        api.call("POST", ("222", "users"), params={"payload": emails(ANN)})
    assert sandbox.members() == set()


def test_slow_is_late_and_then_does_the_work(sandbox: Sandbox) -> None:
    sandbox.fault("slow", delay=0.05)
    assert sandbox.users(emails(ANN)).json()["num_received"] == 1


def test_slow_outlasts_an_impatient_client_and_the_work_is_done_all_the_same() -> None:
    with running() as sandbox, sdk(sandbox) as api:
        sandbox.fault("slow", delay=2)
        api._session.timeout = 0.1
        with pytest.raises(requests.ReadTimeout):
            api.call("POST", ("222", "users"), params={"payload": emails(ANN)})
        until = time.monotonic() + DEADLINE
        while not sandbox.members() and time.monotonic() < until:
            time.sleep(0.05)
        assert sandbox.members() == {f"EMAIL:{ANN}"}


def test_each_nth_row_is_called_invalid(sandbox: Sandbox) -> None:
    sandbox.fault("invalid_entries", data={"every": 3})
    rows = [sha(str(number)) for number in range(1, 8)]
    answer = sandbox.users(emails(*rows)).json()
    assert (answer["num_received"], answer["num_invalid_entries"]) == (7, 2)
    assert len(answer["invalid_entry_samples"]) == 2
    assert sandbox.members() == {f"EMAIL:{one}" for one in rows} - {
        f"EMAIL:{rows[2]}",
        f"EMAIL:{rows[5]}",
    }


def test_a_bad_row_refuses_all_it_comes_with(sandbox: Sandbox) -> None:
    sandbox.fault("bad_row", times=-1, data={"value": BEN})
    refused = sandbox.users(emails(ANN, BEN), {"session_id": 1, "batch_seq": 1})
    assert refused.code == 100
    assert BEN not in refused.text
    assert sandbox.sessions() == []
    assert sandbox.users(emails(ANN, EVE)).status == 200
    assert sandbox.members() == {f"EMAIL:{ANN}", f"EMAIL:{EVE}"}


def test_a_success_without_figures_has_done_the_work(sandbox: Sandbox) -> None:
    sandbox.fault("success_200")
    assert sandbox.users(emails(ANN)).json() == {"success": True}
    assert sandbox.members() == {f"EMAIL:{ANN}"}


def test_a_fault_meets_only_its_method(sandbox: Sandbox) -> None:
    sandbox.fault("permission", "users_remove", times=-1)
    sandbox.fault("transient", "audience")
    assert sandbox.users(emails(ANN)).status == 200
    assert sandbox.users(emails(ANN), method="DELETE").code == 200
    assert sandbox.get("222").code == 2
    assert sandbox.get("222").status == 200
    assert sandbox.members() == {f"EMAIL:{ANN}"}
    with pytest.raises(AssertionError, match="unknown fault"):
        sandbox.fault("earthquake")


# --- the control port


def test_reset_forgets_members_and_sessions_and_keeps_audiences(sandbox: Sandbox) -> None:
    sandbox.control("POST", "/audiences", {"id": "801", "name": "Kept"})
    sandbox.users(emails(ANN), {"session_id": 1, "batch_seq": 1}, audience="801")
    before = sandbox.control("GET", "/state")
    assert before["audiences"]["801"] == {"name": "Kept", "members": 1, "limited": 0}
    made = sandbox.create(name="Made", subtype="CUSTOM", customer_file_source="USER_PROVIDED_ONLY")
    assert made.json()["id"] in sandbox.control("GET", "/state")["accounts"]["act_1000"]
    sandbox.control("POST", "/reset", {})
    after = sandbox.control("GET", "/state")
    assert after["audiences"]["801"] == {"name": "Kept", "members": 0, "limited": 0}
    assert after["sessions"] == []
    # What a call has created is gone with what calls have sent.
    assert set(after["accounts"]) == {"act_1000", "act_2000"}
    assert made.json()["id"] not in after["accounts"]["act_1000"]
    assert sandbox.control("GET", "/calls") == {}


def test_audiences_need_a_new_id_of_digits(sandbox: Sandbox) -> None:
    nobodys = {"id": "9", "account_id": "77"}
    for wrong in ({"id": "222"}, {"id": "two"}, {"name": "no id"}, nobodys):
        with pytest.raises(AssertionError, match="error"):
            sandbox.control("POST", "/audiences", wrong)
