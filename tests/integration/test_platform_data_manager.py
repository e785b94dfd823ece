"""The Data Manager platform against the sandbox, over Google's own SDK and a real socket."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

import grpc
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from penstock.connections import DataManagerConnection
from penstock.contract import DataManager, LaneOutcome
from sandbox.servers import DataManagerSandbox
from sandbox.servers.process import free_port
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platform import Checked, Context, LaneEnd, Lot, Sent
from services.upload.platforms.data_manager import DataManagerPlatform, DataManagerSender, check
from services.upload.platforms.data_manager_api import SCOPE, DataManagerApi, project_of
from services.upload.platforms.data_manager_requests import add_request

ROOT = Path(__file__).resolve().parents[2]
CUSTOMER, MANAGER = "1234567890", "9876543210"
SECRET = "secret-of-the-tests"
PATIENCE = 60
DIGEST = pa.binary(32)
ADD, REMOVE, REPLACE = Lot("add"), Lot("remove"), Lot("replace")
DONE = {"polls": 1, "per_minute": 300, "per_day": 100_000, "violations": 20}


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def hexed(text: str) -> str:
    return sha(text).hex()


def chunk(**columns: list[Any]) -> pa.RecordBatch:
    """Columns by name; digests are given as the text they are the digest of."""
    arrays = {}
    for name, values in columns.items():
        if name in ("country", "postal_code", "external_id", "mobile_ad_id"):
            arrays[name] = pa.array(values, pa.string())
        elif name == "consent":
            arrays[name] = pa.array(values, pa.uint8())
        else:
            arrays[name] = pa.array([None if v is None else sha(v) for v in values], DIGEST)
    arrays["row"] = pa.array(range(len(values)), pa.uint32())
    return pa.RecordBatch.from_pydict(arrays)


def emails(*names: str) -> pa.RecordBatch:
    return chunk(email=list(names))


def keys(*names: str) -> set[str]:
    return {f"email:{hexed(name)}" for name in names}


def homes(*postal_codes: str) -> pa.RecordBatch:
    """A person per postal code, of whom nothing but the address is known."""
    names = [f"n{at}" for at in range(len(postal_codes))]
    return chunk(
        first_name=names,
        last_name=names,
        country=["DE"] * len(names),
        postal_code=list(postal_codes),
    )


def connection(endpoint: str, **more: Any) -> DataManagerConnection:
    given = {"kind": "data_manager", "endpoint": endpoint, "insecure": True, **more}
    return DataManagerConnection.model_validate(given)


def wanted(**more: Any) -> DataManager:
    given = {"user_list_id": "111", "customer_id": CUSTOMER, "terms_accepted": True, **more}
    return DataManager.model_validate({"kind": "data_manager", "connection": "dm", **given})


def platform(sandbox: DataManagerSandbox, **destination: Any) -> DataManagerPlatform:
    context = Context(poll_seconds=0.05)
    return DataManagerPlatform(connection(sandbox.endpoint), wanted(**destination), context)


def send(lane: DataManagerPlatform, *chunks: pa.RecordBatch, lot: Lot = ADD) -> list[Sent]:
    sender = lane.sender({}, sum(one.num_rows for one in chunks), lot)
    return [sender.send(one, last=one is chunks[-1]) for one in chunks]


def end(*sent: Sent, **more: Any) -> LaneEnd:
    given = {
        "accepted": sum(one.accepted for one in sent),
        "error": None,
        "cancelled": False,
        "requests": [one.request for one in sent if one.request],
        **more,
    }
    return LaneEnd(**given)


def close(
    lane: DataManagerPlatform, found: LaneEnd, memo: dict[str, Any] | None = None
) -> tuple[LaneOutcome, dict[str, int]]:
    """As the core does it: verdicts are counted and kept, and the rest is asked for again."""
    memo = memo if memo is not None else {}
    rejected: dict[str, int] = {}
    for _ in range(100):
        answer = lane.close(memo, found)
        if isinstance(answer, LaneOutcome):
            return answer, rejected
        if isinstance(answer, Wait):
            assert answer.seconds == 0.05
            continue
        memo |= json.loads(json.dumps(answer.keep))
        for counts in answer.requests.values():
            for reason, count in counts.items():
                rejected[reason] = rejected.get(reason, 0) + count
        found = LaneEnd(
            found.accepted - sum(sum(one.values()) for one in answer.requests.values()),
            found.error,
            found.cancelled,
            requests=[one for one in found.requests if one not in answer.requests],
        )
    raise AssertionError("the lane did not end")


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert SECRET not in text
    assert caught.value.reason.endswith(".") or isinstance(caught.value, RowsRejected)
    return caught.value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataManagerSandbox]:
    with DataManagerSandbox(tmp_path_factory.mktemp("data-manager")) as server:
        yield server


@pytest.fixture
def sandbox(server: DataManagerSandbox) -> DataManagerSandbox:
    server.reset()
    server.settings(**DONE)
    return server


def test_the_members_are_those_that_were_sent(sandbox: DataManagerSandbox) -> None:
    lane = platform(sandbox)
    assert lane.prepare({}, ADD) == {"list": "111"}
    rows = chunk(
        email=["a", None, "c", None],
        phone=[None, "p2", "p3", None],
        first_name=[None, None, "f3", "f4"],
        last_name=[None, None, "l3", "l4"],
        country=[None, None, "DE", "US"],
        postal_code=[None, None, "10115", "94105-1234"],
    )
    # A slice starts in the middle of its buffers.
    sent = send(lane, rows.slice(0, 1), rows.slice(1, 3))
    assert [one.accepted for one in sent] == [1, 3]
    assert all(re.fullmatch(r"[13]:\S+", one.request or "") for one in sent)
    assert sandbox.members("111") == []

    assert lane.close({}, end(*sent)) == Wait(0.05)
    outcome, rejected = close(lane, end(*sent))
    assert rejected == {}
    assert outcome == LaneOutcome(
        details={
            "list": "111",
            "records": 4,
            "identifiers": 6,
            "match_rate_range": "less than 20 %",
        }
    )
    assert set(sandbox.members("111")) == {
        f"email:{hexed('a')}",
        f"phone:{hexed('p2')}",
        "|".join(
            sorted(
                (
                    f"email:{hexed('c')}",
                    f"phone:{hexed('p3')}",
                    f"address:{hexed('f3')}:{hexed('l3')}:DE:10115",
                )
            )
        ),
        f"address:{hexed('f4')}:{hexed('l4')}:US:94105-1234",
    }


def test_other_lists(sandbox: DataManagerSandbox) -> None:
    crm = platform(sandbox, user_list_id="112", list_type="crm_id", terms_accepted=True)
    app = platform(sandbox, user_list_id="113", list_type="mobile_advertising_id")
    device = "38400000-8cf0-11bd-b23e-10b96e40000d"
    sent = send(crm, chunk(external_id=["crm-1", "crm-2"]))
    outcome, _ = close(crm, end(*sent))
    assert outcome.details == {"list": "112", "records": 2, "identifiers": 2}
    close(app, end(*send(app, chunk(mobile_ad_id=[device]))))
    assert set(sandbox.members("112")) == {"user:crm-1", "user:crm-2"}
    assert sandbox.members("113") == [f"mobile:{device}"]

    refusal = refused(lambda: send(platform(sandbox, user_list_id="112"), emails("a")))
    assert "`list_type`" in refusal.reason


def test_removing(sandbox: DataManagerSandbox) -> None:
    lane = platform(sandbox)
    close(lane, end(*send(lane, emails("a", "b", "c"))))
    gone = platform(sandbox, mode="remove", terms_accepted=False)
    outcome, _ = close(gone, end(*send(gone, emails("a", "c"), lot=REMOVE)))
    assert outcome.error is None
    assert set(sandbox.members("111")) == keys("b")
    assert [one["verb"] for one in sandbox.state()["requests"]] == ["ingest", "remove"]


def test_a_rows_own_consent_goes_before_the_constants(sandbox: DataManagerSandbox) -> None:
    lane = platform(sandbox, ad_user_data="granted")
    # Nothing; personalization denied; both granted; user data denied.
    sent = send(lane, chunk(email=["a", "b", "c", "d"], consent=[0, 2, 4, 6]))
    [told] = sandbox.state()["requests"]
    assert told["consents"] == {
        "GRANTED/STATUS_UNSPECIFIED": 1,
        "GRANTED/DENIED": 1,
        "GRANTED/GRANTED": 1,
        "DENIED/STATUS_UNSPECIFIED": 1,
    }
    _, rejected = close(lane, end(*sent))
    assert rejected == {"Google: denied consent": 1}
    assert set(sandbox.members("111")) == keys("a", "b", "c")


def test_no_consent_is_no_consent(sandbox: DataManagerSandbox) -> None:
    send(platform(sandbox), emails("a"))
    assert sandbox.state()["requests"][0]["consents"] == {
        "STATUS_UNSPECIFIED/STATUS_UNSPECIFIED": 1
    }


def test_a_full_request_fits_the_limits(sandbox: DataManagerSandbox) -> None:
    lane = platform(sandbox, ad_user_data="granted", login_customer_id=MANAGER)
    names = [str(number) for number in range(lane.limits.rows)]
    full = chunk(
        email=names,
        phone=names,
        first_name=names,
        last_name=names,
        country=["DE"] * len(names),
        postal_code=["1011512345"] * len(names),
        consent=[4] * len(names),
    )
    request = add_request(wanted(), full)
    size = lane.row_bytes(full.schema.names)
    assert request.ByteSize() <= size * len(names) <= lane.limits.bytes
    [sent] = send(lane, full)
    assert sent.accepted == 10_000
    outcome, _ = close(lane, end(sent))
    assert sandbox.count("111") == 10_000
    assert outcome.details["identifiers"] == 30_000


@pytest.mark.parametrize("violations", [1, 20])
def test_wrong_rows_are_named_and_the_others_go(
    sandbox: DataManagerSandbox, violations: int
) -> None:
    sandbox.settings(violations=violations)
    lane = platform(sandbox)
    rows = homes("?", "10115", "!", "10117", "*")
    wrong = ("postal_code", "Google: invalid postal code")
    [sent] = send(lane, rows)
    assert sent.accepted == 2
    assert sent.rejected == {wrong[1]: 3}
    assert sent.rows == {0: wrong, 2: wrong, 4: wrong}
    assert sandbox.calls()["ingest"]["err"] == (3 if violations == 1 else 1)
    close(lane, end(sent))
    assert sandbox.count("111") == 2

    [nobody] = send(lane, homes("?", "!"))
    assert (nobody.accepted, nobody.request) == (0, None)
    assert nobody.rows == {0: wrong, 1: wrong}


def test_a_row_without_an_identifier_is_named(sandbox: DataManagerSandbox) -> None:
    [sent] = send(platform(sandbox), chunk(email=["a", None], phone=[None, None]))
    assert (sent.accepted, sent.rows) == (1, {1: ("", "Google: required field missing")})
    app = platform(sandbox, user_list_id="113", list_type="mobile_advertising_id")
    [sent] = send(app, chunk(mobile_ad_id=["no id", None]))
    assert sent.rows == dict.fromkeys((0, 1), ("mobile_ad_id", "Google: invalid mobile id format"))


def test_many_wrong_rows_are_left_to_the_core(sandbox: DataManagerSandbox) -> None:
    sandbox.settings(violations=1)
    verdict = refused(lambda: send(platform(sandbox), homes(*"?" * 20)))
    assert isinstance(verdict, RowsRejected)
    assert verdict.reason == "Google: invalid postal code"
    assert sandbox.calls()["ingest"]["err"] == 10


def test_validating_names_the_same_rows_and_changes_nothing(sandbox: DataManagerSandbox) -> None:
    lane = platform(sandbox)
    for lot in (ADD, REMOVE, REPLACE):
        sent = lane.validate(homes("?", "10115"), lot)
        assert (sent.accepted, sent.request) == (1, None)
        assert sent.rows == {0: ("postal_code", "Google: invalid postal code")}
    assert sandbox.state()["requests"] == []
    refusal = refused(lambda: platform(sandbox, user_list_id="999").validate(emails("a"), ADD))
    assert refusal.reason == "`user_list_id` is not a list of this account's."


def test_a_lane_that_sent_nothing(sandbox: DataManagerSandbox) -> None:
    assert platform(sandbox).close({}, end()) == LaneOutcome(details={"list": "111"})


def test_verdicts_that_come_later(sandbox: DataManagerSandbox) -> None:
    unknown = {"reason": "PROCESSING_ERROR_REASON_UNKNOWN_CONSENT"}
    sandbox.fault("ingest", "partial", data={"every": 2, **unknown})
    sandbox.fault("ingest", "failed", data=unknown)
    sandbox.fault("ingest", "failed", data={"counts": False})
    sandbox.fault("ingest", "partial", data={"counts": False})
    lane = platform(sandbox)
    hundred = emails(*(f"m{number}" for number in range(100)))
    sent = send(lane, emails("a", "b", "c"), emails("d", "e"), emails("f"), emails("g"), hundred)
    assert [one.rejected for one in sent] == [{}] * 5
    outcome, rejected = close(lane, end(*sent))
    assert rejected == {"Google: unknown consent": 4, "Google: refused without a reason": 1}
    assert outcome.error is None
    assert outcome.details == {
        "list": "111",
        "records": 107,
        "identifiers": 107,
        "match_rate_range": "61 to 70 % (100 records), less than 20 % (7 records)",
        "unexplained": "Google refused rows of 1 requests without saying how many.",
    }


def test_requests_are_asked_after_in_order_and_within_bounds(sandbox: DataManagerSandbox) -> None:
    lane = platform(sandbox)
    sent = send(lane, *(emails(f"m{number}") for number in range(120)))
    everything = end(*sent)
    assert lane.close({}, everything) == Wait(0.05)
    # Later ones are not likely to be done while earlier ones are not.
    assert sandbox.calls()["status"]["ok"] == 10
    sandbox.settings(polls=0)
    answer = lane.close({}, everything)
    assert isinstance(answer, Checked)
    assert list(answer.requests) == list(everything.requests[:20])
    assert answer.keep["records"] == 20


def test_what_is_known_is_kept_when_google_asks_to_slow_down(sandbox: DataManagerSandbox) -> None:
    sandbox.settings(polls=0)
    lane = platform(sandbox)
    found = end(*send(lane, emails("a"), emails("b"), emails("c")))
    sandbox.fault("status", "throttle", after=2)
    answer = lane.close({}, found)
    assert isinstance(answer, Checked)
    assert list(answer.requests) == list(found.requests[:2])
    sandbox.fault("status", "throttle")
    assert isinstance(refused(lambda: lane.close({}, found)), Retryable)


def test_a_request_that_google_does_not_know(sandbox: DataManagerSandbox) -> None:
    # It may be too new: Google is asked again, and at last the lane fails.
    lane = platform(sandbox)
    verdict = refused(lambda: lane.close({}, end(accepted=1, requests=["1:never-was"])))
    assert isinstance(verdict, Retryable)
    assert not verdict.throttled


@pytest.mark.parametrize("how", [{"error": "It broke."}, {"cancelled": True}])
def test_a_lane_that_ends_early_does_not_wait(
    sandbox: DataManagerSandbox, how: dict[str, Any]
) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, REPLACE)
    sent = send(lane, emails("a"), emails("b"), lot=REPLACE)
    outcome, _ = close(lane, end(*sent, **how), memo)
    assert outcome.lost_to is None
    assert outcome.details["still_processing"] == "at least 2 requests"
    assert outcome.details["replaced"].startswith("no: ")
    assert "remove_all" not in sandbox.calls()


def swap(sandbox: DataManagerSandbox, *names: str) -> tuple[DataManagerPlatform, Any, Any]:
    """A list with old members, and a lane that has sent the new ones."""
    sandbox.settings(polls=0)
    lane = platform(sandbox)
    send(lane, emails("old", "both"))
    sandbox.settings(polls=1, older=600)
    memo = lane.prepare({}, REPLACE)
    assert lane.prepare(memo, REPLACE) == {}
    return lane, memo, end(*send(lane, emails(*names), lot=REPLACE))


def test_replacing_leaves_exactly_the_source_and_never_nobody(sandbox: DataManagerSandbox) -> None:
    lane, memo, found = swap(sandbox, "both", "new")
    assert lane.close(memo, found) == Wait(0.05)
    answer = lane.close(memo, found)
    assert isinstance(answer, Checked)
    # The new are in, and who was there before is not out yet.
    assert set(sandbox.members("111")) == keys("old", "both", "new")
    assert "remove_all" not in sandbox.calls()

    outcome, _ = close(lane, LaneEnd(2, None, cancelled=False), {**memo, **answer.keep})
    assert outcome.error is None
    assert set(sandbox.members("111")) == keys("both", "new")
    assert sandbox.calls()["remove_all"]["ok"] == 1


def test_a_removal_whose_answer_was_lost_is_asked_for_again(sandbox: DataManagerSandbox) -> None:
    lane, memo, found = swap(sandbox, "new")
    sandbox.fault("remove_all", "drop_after")
    assert isinstance(refused(lambda: close(lane, found, memo)), Retryable)
    close(lane, LaneEnd(1, None, cancelled=False), memo)
    assert set(sandbox.members("111")) == keys("new")


def test_a_removal_that_google_did_not_do(sandbox: DataManagerSandbox) -> None:
    lane, memo, found = swap(sandbox, "new")
    sandbox.fault("remove_all", "failed")
    outcome, _ = close(lane, found, memo)
    assert "did not remove" in (outcome.error or "")
    assert set(sandbox.members("111")) == keys("old", "both", "new")


def test_replacing_with_nobody_leaves_the_list_as_it_is(sandbox: DataManagerSandbox) -> None:
    sandbox.fault("ingest", "failed", after=1)
    lane, memo, found = swap(sandbox, "new")
    outcome, rejected = close(lane, found, memo)
    assert rejected == {"Google: internal error": 1}
    assert outcome.error == "Google took no member, so the list was left as it is."
    assert set(sandbox.members("111")) == keys("old", "both")
    assert "remove_all" not in sandbox.calls()


@pytest.mark.parametrize("counts", [True, False])
def test_replacing_removes_nobody_where_a_request_failed_whole(
    sandbox: DataManagerSandbox, counts: bool
) -> None:
    """Who was in it and is in the list from before would be taken out for no fault of theirs."""
    sandbox.fault("ingest", "failed", after=2, data={"counts": counts})
    lane, memo, first = swap(sandbox, "new")
    (failed,) = send(lane, emails("both"), lot=REPLACE)
    whole = LaneEnd(2, None, cancelled=False, requests=[*first.requests, failed.request or ""])
    outcome, rejected = close(lane, whole, memo)
    assert sum(rejected.values()) == 1
    assert (outcome.error or "").startswith("Google failed requests whole, so nobody was removed:")
    assert set(sandbox.members("111")) == keys("old", "both", "new")
    assert "remove_all" not in sandbox.calls()


@pytest.mark.parametrize(
    ("fault", "data", "kind", "says", "after"),
    [
        ("throttle", {}, Retryable, "slow down", 60.0),
        ("throttle", {"retry_seconds": 7}, Retryable, "slow down", 7.0),
        ("throttle", {"day": True}, Retryable, "of the day", 3600.0),
        ("internal", {}, Retryable, "passing fault", None),
        ("deadline", {}, Retryable, "passing fault", None),
        ("unavailable", {}, Retryable, "could not be reached", None),
        ("reset", {}, Retryable, "could not be reached", None),
        ("html", {}, Retryable, "failed", None),
        ("unauthenticated", {}, Fatal, "refused the sign-in", None),
        ("permission", {}, Fatal, "`login_customer_id`", None),
        ("scope", {}, Fatal, "auth/datamanager", None),
        ("disabled", {}, Fatal, "not enabled", None),
        ("terms", {}, Fatal, "`terms_accepted = true`", None),
        ("not_allowlisted", {}, Fatal, "allow-list", None),
    ],
)
def test_what_a_refusal_means(
    sandbox: DataManagerSandbox,
    fault: str,
    data: dict[str, Any],
    kind: type[Verdict],
    says: str,
    after: float | None,
) -> None:
    sandbox.fault("ingest", fault, data=data)
    lane = platform(sandbox)
    verdict = refused(lambda: send(lane, emails("a")))
    assert isinstance(verdict, kind)
    assert says in verdict.reason
    if isinstance(verdict, Retryable):
        assert verdict.after == after
        assert verdict.throttled == (fault == "throttle")
        assert send(lane, emails("a"))[0].accepted == 1


def test_the_projects_limit_is_a_wait(sandbox: DataManagerSandbox) -> None:
    sandbox.settings(per_minute=1)
    lane = platform(sandbox)
    send(lane, emails("a"))
    verdict = refused(lambda: send(lane, emails("b")))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == 60


def test_a_lost_answer_sends_the_chunk_again(sandbox: DataManagerSandbox) -> None:
    sandbox.fault("ingest", "drop_after")
    lane = platform(sandbox)
    assert isinstance(refused(lambda: send(lane, emails("a", "b"))), Retryable)
    close(lane, end(*send(lane, emails("a", "b"))))
    assert set(sandbox.members("111")) == keys("a", "b")


def test_a_call_that_hangs_ends(sandbox: DataManagerSandbox) -> None:
    sandbox.fault("ingest", "hang")
    api = DataManagerApi(connection(sandbox.endpoint), send_seconds=0.2)
    sender = DataManagerSender(api, wanted(), ADD)
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert isinstance(verdict, Retryable)
    assert "in time" in verdict.reason


def test_a_server_that_is_not_there_or_another() -> None:
    nobody = connection(f"http://127.0.0.1:{free_port()}")
    assert isinstance(refused(lambda: check(nobody)), Retryable)
    with TokenServer(grants=0) as web:
        # Speaks HTTP, and not what gRPC is made of.
        other = connection(f"127.0.0.1:{web.server_address[1]}")
        assert isinstance(refused(lambda: check(other)), Retryable)


def test_a_list_that_is_no_list_of_the_accounts(sandbox: DataManagerSandbox) -> None:
    for destination, says in (
        ({"user_list_id": "999"}, "`user_list_id`"),
        ({"customer_id": "5555555555"}, "`customer_id`"),
        ({"login_customer_id": "5555555555"}, "`login_customer_id`"),
        ({"login_customer_id": MANAGER, "linked_customer_id": CUSTOMER}, None),
    ):
        lane = platform(sandbox, **destination)
        if says is None:
            # A data partner's way in; that the sandbox lets it pass shows the account types.
            assert send(lane, emails("a"))[0].accepted == 1
            continue
        verdict = refused(lambda lane=lane: send(lane, emails("a")))
        assert isinstance(verdict, Fatal)
        assert says in verdict.reason


def test_looking_at_the_list(sandbox: DataManagerSandbox) -> None:
    assert platform(sandbox).look() == {"audience": "Newsletter (id 111)"}
    through = platform(sandbox, login_customer_id=MANAGER)
    assert through.look() == {"audience": "Newsletter (id 111)"}
    for lane, says in (
        (platform(sandbox, user_list_id="999"), "no user list 999"),
        (platform(sandbox, login_customer_id="5555555555"), "no user list 111"),
        (platform(sandbox, user_list_id="112"), "`contact_info`"),
    ):
        verdict = refused(lane.look)
        assert isinstance(verdict, Fatal)
        assert says in verdict.reason
    assert sandbox.state()["requests"] == []


def test_whose_limits_a_lane_shares(sandbox: DataManagerSandbox, tmp_path: Path) -> None:
    key = service_account(tmp_path / "key.json", 1).json_key_file_path
    oauth = {"client_id": "42-x.apps.example", "client_secret": SECRET, "refresh_token": SECRET}
    assert platform(sandbox).account == f"data_manager/{sandbox.endpoint}"
    assert project_of(connection("e", json_key_file_path=key, **oauth)) == "project-of-the-tests"
    assert project_of(connection("e", **oauth)) == "42"
    assert project_of(connection("e", quota_project="paying", **oauth)) == "paying"


def test_checking_a_connection(sandbox: DataManagerSandbox) -> None:
    good = connection(sandbox.endpoint)
    assert check(good) == "The Data Manager API answers and takes the credentials."
    # Google may say no more of a request that never was than that nobody may see it.
    sandbox.fault("status", "permission")
    assert check(good).startswith("The Data Manager API answers")
    for fault in ("unauthenticated", "scope", "disabled"):
        sandbox.fault("status", fault)
        assert isinstance(refused(lambda: check(good)), Fatal)


def test_the_sdk_logs_no_requests() -> None:
    for service in ("ingestion_service", "user_list_service"):
        module = f"google.ads.datamanager_v1.services.{service}.transports.grpc"
        assert logging.getLogger(module).disabled


class TokenServer(ThreadingHTTPServer):
    """Where a service account signs in: `grants` times it gives a token, then it refuses."""

    daemon_threads = True

    def __init__(self, grants: int) -> None:
        super().__init__(("127.0.0.1", 0), SignIn)
        self.grants = grants
        self.asked: list[dict[str, list[str]]] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class SignIn(BaseHTTPRequestHandler):
    server: TokenServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(parse_qs(body.decode()))
        granted, self.server.grants = self.server.grants > 0, self.server.grants - 1
        answer = (
            {"access_token": "access", "expires_in": 3600, "token_type": "Bearer"}
            if granted
            else {"error": "invalid_grant", "error_description": SECRET}
        )
        said = json.dumps(answer).encode()
        self.send_response(200 if granted else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def pem_key() -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def service_account(path: Path, port: int, endpoint: str = "localhost:1") -> DataManagerConnection:
    content = {
        "type": "service_account",
        "project_id": "project-of-the-tests",
        "private_key": pem_key()[1].decode(),
        "client_email": "robot@example.com",
        "token_uri": f"http://127.0.0.1:{port}/token",
    }
    path.write_text(json.dumps(content))
    return connection(endpoint, insecure=False, json_key_file_path=path)


def test_a_service_account_that_google_refuses(tmp_path: Path) -> None:
    with TokenServer(grants=0) as tokens:
        where = service_account(tmp_path / "key.json", tokens.server_address[1])
        verdict = refused(lambda: check(where))
    assert isinstance(verdict, Fatal)
    assert "refused the sign-in" in verdict.reason
    claims = tokens.asked[0]["assertion"][0].split(".")[1]
    told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert told["scope"] == SCOPE


def test_a_sign_in_service_that_is_not_there(tmp_path: Path) -> None:
    where = service_account(tmp_path / "key.json", free_port())
    assert isinstance(refused(lambda: check(where)), Retryable)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"project_id": "p"}', f'{{"private_key": "{SECRET}"}}']
)
def test_a_key_file_that_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    verdict = refused(lambda: check(connection("e", insecure=False, json_key_file_path=path)))
    assert isinstance(verdict, Fatal)
    assert "`json_key_file_path`" in verdict.reason


CHECK_IN_A_PROCESS = """
import sys
from penstock.connections import DataManagerConnection
from services.upload.platforms.data_manager import check

endpoint, key = sys.argv[1:]
print(check(DataManagerConnection(
    kind="data_manager", endpoint=endpoint, json_key_file_path=key, quota_project="paying"
)))
"""


class Remembering(grpc.GenericRpcHandler):
    """Knows no request, and remembers how it was asked."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.metadata = dict(details.invocation_metadata)

        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.NOT_FOUND, "There is no such request.")

        return grpc.unary_unary_rpc_method_handler(answer)


def test_calls_are_signed_over_tls(tmp_path: Path) -> None:
    key, pem = pem_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    root = signed.public_bytes(serialization.Encoding.PEM)
    trusted = tmp_path / "root.pem"
    trusted.write_bytes(root)
    handler = Remembering()
    with ThreadPoolExecutor(2) as pool, TokenServer(grants=1) as tokens:
        server = grpc.server(pool, handlers=[handler])
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(pem, root)]))
        server.start()
        service_account(tmp_path / "key.json", tokens.server_address[1])
        # In a process of its own: gRPC reads its trusted roots once.
        done = subprocess.run(
            [sys.executable, "-c", CHECK_IN_A_PROCESS, f"localhost:{port}", tmp_path / "key.json"],
            env={**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(trusted)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        server.stop(0).wait()
    assert handler.metadata.get("authorization") == "Bearer access", done.stderr
    assert handler.metadata["x-goog-user-project"] == "paying"
    assert done.stdout.startswith("The Data Manager API answers"), done.stderr
