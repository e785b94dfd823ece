"""The Google Ads platform against the sandbox, over Google's own SDK and a real socket."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import grpc
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from google.ads.googleads.v26.services.types import customer_service

from penstock.connections import GoogleAdsConnection
from penstock.contract import GoogleAds, LaneOutcome
from sandbox.servers import GoogleAdsSandbox
from sandbox.servers.process import free_port
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload import platforms
from services.upload.platform import Checked, Context, LaneEnd, Lot, Sent
from services.upload.platforms.google_ads import GoogleAdsPlatform, GoogleAdsSender, check
from services.upload.platforms.google_ads_api import GoogleAdsApi, api_of
from services.upload.platforms.google_ads_jobs import Closing
from services.upload.platforms.google_ads_request import add_request

ROOT = Path(__file__).resolve().parents[2]
CUSTOMER = "1234567890"
LIST = f"customers/{CUSTOMER}/userLists/111"
TOKEN = "developer-token-of-the-tests"
PATIENCE = 60
DIGEST = pa.binary(32)
GOOD = LaneEnd(accepted=1, error=None, cancelled=False)
ADD = Lot("add")
FILLED = {"filled add": True}


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def chunk(**columns: list[Any]) -> pa.RecordBatch:
    """Columns by name; digests are given as the text they are the digest of."""
    arrays = {}
    for name, values in columns.items():
        if name in ("country", "postal_code"):
            arrays[name] = pa.array(values, pa.string())
        else:
            arrays[name] = pa.array([None if v is None else sha(v) for v in values], DIGEST)
    return pa.RecordBatch.from_pydict(arrays)


def emails(*names: str) -> pa.RecordBatch:
    return chunk(email=list(names))


def keys(*names: str) -> set[str]:
    return {f"email:{sha(name).hex()}" for name in names}


def connection(endpoint: str, **more: Any) -> GoogleAdsConnection:
    given = {"developer_token": TOKEN, "endpoint": endpoint, "insecure": True, **more}
    return GoogleAdsConnection.model_validate({"kind": "google_ads", **given})


def platform(
    sandbox: GoogleAdsSandbox, *, poll_seconds: float = 0.05, **destination: Any
) -> GoogleAdsPlatform:
    wanted = {"connection": "ads", "customer_id": CUSTOMER, **destination}
    if "audience" not in wanted:
        wanted.setdefault("user_list_id", "111")
    return GoogleAdsPlatform(
        connection(sandbox.endpoint), GoogleAds.model_validate(wanted), Context(poll_seconds)
    )


def send(lane: GoogleAdsPlatform, memo: dict[str, Any], *chunks: pa.RecordBatch) -> list[Sent]:
    """Keeps in the memo what the lane's ledger would."""
    sender = lane.sender(memo, sum(one.num_rows for one in chunks), ADD)
    done = [sender.send(one, last=one is chunks[-1]) for one in chunks]
    for sent in done:
        memo |= sent.keep
    return done


def look(lane: GoogleAdsPlatform, memo: dict[str, Any], end: LaneEnd = GOOD) -> LaneOutcome | Wait:
    """One close, as the core does it: whatever is to be kept is kept, and asked again at once."""
    while isinstance(found := lane.close(memo, end), Checked):
        assert found.keep
        memo |= found.keep
    return found


def close(lane: GoogleAdsPlatform, memo: dict[str, Any], end: LaneEnd = GOOD) -> LaneOutcome:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look(lane, memo, end)
        if isinstance(found, LaneOutcome):
            return found
        time.sleep(found.seconds)
    raise AssertionError("the job did not end")


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert TOKEN not in text
    assert caught.value.reason.endswith(".") or isinstance(caught.value, RowsRejected)
    return caught.value


def jobs(sandbox: GoogleAdsSandbox) -> list[dict[str, Any]]:
    return list(sandbox.state()["jobs"])


@pytest.fixture
def sandbox(google_sandbox: GoogleAdsSandbox) -> Iterator[GoogleAdsSandbox]:
    before = google_sandbox.settings()["processing"]
    google_sandbox.settings(processing=0.1)
    yield google_sandbox
    google_sandbox.settings(processing=before)


def test_the_members_are_those_that_were_sent(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    rows = chunk(
        email=["a", None, "c", None],
        phone=[None, "p2", "p3", None],
        first_name=[None, None, "f3", "f4"],
        last_name=[None, None, "l3", "l4"],
        country=[None, None, "DE", "US"],
        postal_code=[None, None, "10115", "94105-1234"],
    )
    # A slice starts in the middle of its buffers.
    assert send(lane, memo, rows.slice(0, 1), rows.slice(1, 3)) == [Sent(1, keep=FILLED), Sent(3)]
    assert sandbox.members("111") == []

    assert look(lane, memo, LaneEnd(4, None, cancelled=False)) == Wait(0.05)
    outcome = close(lane, memo)

    def hexed(text: str) -> str:
        return sha(text).hex()

    assert set(sandbox.members("111")) == {
        f"email:{hexed('a')}",
        f"phone:{hexed('p2')}",
        f"address:{hexed('f3')}:{hexed('l3')}:DE:10115|email:{hexed('c')}|phone:{hexed('p3')}",
        f"address:{hexed('f4')}:{hexed('l4')}:US:94105-1234",
    }
    assert outcome == LaneOutcome(
        details={"list": LIST, "job": memo["job add"], "match_rate_range": "less than 20 %"}
    )
    assert [(job["operations"], job["status"]) for job in jobs(sandbox)] == [(4, "SUCCESS")]


def test_a_full_request_fits_the_limits(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    rows = lane.limits.rows
    columns = {name: [f"{name}{n}" for n in range(rows)] for name in
               ("email", "phone", "first_name", "last_name")}  # fmt: skip
    full = chunk(**columns, country=["DE"] * rows, postal_code=["10115"] * rows)
    estimate = lane.row_bytes(full.schema.names)
    assert add_request("job", full).ByteSize() < rows * estimate <= lane.limits.bytes
    memo = lane.prepare({}, ADD)
    assert send(lane, memo, full) == [Sent(rows, keep=FILLED)]
    close(lane, memo)
    assert sandbox.count("111") == rows


def test_preparing_looks_up_and_creates_only_what_the_memo_lacks(
    sandbox: GoogleAdsSandbox,
) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    assert memo == {"list": LIST, "job add": jobs(sandbox)[0]["resource_name"]}
    calls = sandbox.calls()
    assert lane.prepare(memo, ADD) == {}
    assert sandbox.calls() == calls


@pytest.mark.parametrize("name", ["Letter of spring", "Mum's list", 'The "best" of us'])
def test_a_list_is_found_by_its_name(sandbox: GoogleAdsSandbox, name: str) -> None:
    made = sandbox.add_audience(customer_id=CUSTOMER, name=name)
    assert platform(sandbox, audience=name).prepare({}, ADD)["list"] == made["resource_name"]


def test_a_list_that_is_not_there_is_named(sandbox: GoogleAdsSandbox) -> None:
    by_id = refused(lambda: platform(sandbox, user_list_id="999").prepare({}, ADD))
    by_name = refused(lambda: platform(sandbox, audience="No such").prepare({}, ADD))
    assert isinstance(by_id, Fatal)
    assert isinstance(by_name, Fatal)
    assert str(by_id) == f"Google Ads account {CUSTOMER} has no user list 999."
    assert str(by_name) == f"Google Ads account {CUSTOMER} has no user list named 'No such'."
    assert jobs(sandbox) == []


def test_a_name_that_two_lists_have_is_refused(sandbox: GoogleAdsSandbox) -> None:
    for _ in range(2):
        sandbox.add_audience(customer_id=CUSTOMER, name="Twins")
    verdict = refused(lambda: platform(sandbox, audience="Twins").prepare({}, ADD))
    assert isinstance(verdict, Fatal)
    assert "2 user lists named 'Twins'" in str(verdict)


def test_an_account_out_of_reach(sandbox: GoogleAdsSandbox) -> None:
    verdict = refused(lambda: platform(sandbox, customer_id="5555555555").prepare({}, ADD))
    assert isinstance(verdict, Fatal)
    assert "login_customer_id" in str(verdict)


def test_rows_that_google_refuses_are_counted_with_their_reasons(
    sandbox: GoogleAdsSandbox,
) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    sandbox.fault("add", "partial", data={"every": 3})
    rows = chunk(
        email=["a", None, "c", None, "e", "f"],
        first_name=[None, None, None, "f4", None, None],
        last_name=[None, None, None, "l4", None, None],
        country=[None, None, None, "Germany", None, None],
        postal_code=[None, None, None, "10115", None, None],
    )
    (sent,) = send(lane, memo, rows)
    assert sent.accepted == 2
    assert sent.rows == {
        1: ("", "Google: missing user identifier"),
        2: ("", "Google: invalid sha256 format"),
        3: ("country", "Google: invalid country code"),
        5: ("", "Google: invalid sha256 format"),
    }
    assert sent.rejected == {
        "Google: invalid sha256 format": 2,
        "Google: missing user identifier": 1,
        "Google: invalid country code": 1,
    }
    close(lane, memo)
    assert set(sandbox.members("111")) == keys("a", "e")


def test_ten_thousand_refused_rows_are_all_counted(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    sandbox.fault("add", "partial", data={"every": 1})
    (sent,) = send(lane, memo, emails(*(f"e{n}" for n in range(10_000))))
    assert sent.accepted == 0
    assert sent.rejected == {"Google: invalid sha256 format": 10_000}
    assert sorted(sent.rows) == list(range(10_000))
    assert sent.keep == {}


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("internal", Retryable, "INTERNAL_ERROR"),
        ("transient", Retryable, "TRANSIENT_ERROR"),
        ("deadline", Retryable, "DEADLINE_EXCEEDED"),
        ("concurrent", Retryable, "CONCURRENT_MODIFICATION"),
        ("unavailable", Retryable, "connection was lost"),
        ("unauthenticated", Fatal, "OAUTH_TOKEN_INVALID"),
        ("permission", Fatal, "may not use this Google Ads account"),
        ("not_allowlisted", Fatal, 'kind = "data_manager"'),
        ("terms", Fatal, "Goals > Conversions > Settings"),
    ],
)
@pytest.mark.parametrize("method", ["search", "create", "add", "run"])
def test_each_refusal_has_its_verdict(
    sandbox: GoogleAdsSandbox, method: str, fault: str, kind: type[Verdict], told: str
) -> None:
    lane = platform(sandbox)
    steps: dict[str, Callable[[], Any]] = {
        "search": lambda: lane.prepare({}, ADD),
        "create": lambda: lane.prepare({"list": LIST}, ADD),
    }
    if method in ("add", "run"):
        memo = lane.prepare({}, ADD)
        send(lane, memo, emails("b"))
        steps["add"] = lambda: send(lane, memo, emails("a"))
        steps["run"] = lambda: lane.close(memo, GOOD)
    sandbox.fault(method, fault)
    verdict = refused(steps[method])
    assert type(verdict) is kind
    assert told in str(verdict)
    if isinstance(verdict, Retryable):
        assert not verdict.throttled
        assert verdict.after is None
    # The SDK has not retried by itself.
    errors = sandbox.calls()[method]["errors"]
    assert sum(errors.values()) == 1
    steps[method]()


@pytest.mark.parametrize("seconds", [None, 2.5, 90.0])
def test_being_told_to_slow_down(sandbox: GoogleAdsSandbox, seconds: float | None) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    sandbox.fault("add", "resource_exhausted", data={"retry_seconds": seconds})
    verdict = refused(lambda: send(lane, memo, emails("a")))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == seconds


def test_a_chunk_whose_answer_was_lost_is_sent_again_and_counts_once(
    sandbox: GoogleAdsSandbox,
) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    sender = lane.sender(memo, 2, ADD)
    sandbox.fault("add", "drop_after")
    assert isinstance(refused(lambda: sender.send(emails("a", "b"), last=True)), Retryable)
    assert sender.send(emails("a", "b"), last=True) == Sent(2, keep=FILLED)
    close(lane, memo | FILLED)
    assert jobs(sandbox)[0]["operations"] == 4
    assert sorted(sandbox.members("111")) == sorted(keys("a", "b"))


def test_nothing_is_sent_to_a_job_that_runs(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    send(lane, memo, emails("a"))
    close(lane, memo)
    verdict = refused(lambda: send(lane, memo, emails("b")))
    assert isinstance(verdict, Fatal)
    assert "started already" in str(verdict)


def test_a_job_is_not_run_where_nothing_was_accepted(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    nothing = LaneEnd(accepted=0, error=None, cancelled=False)
    assert lane.close({}, nothing) == LaneOutcome()
    assert lane.close(lane.prepare({}, ADD), nothing) == LaneOutcome()
    assert jobs(sandbox)[0]["status"] == "PENDING"


@pytest.mark.parametrize(
    ("end", "lost_to"),
    [
        (LaneEnd(accepted=1, error="It broke.", cancelled=False), "failed"),
        (LaneEnd(accepted=1, error=None, cancelled=True), "skipped"),
        (LaneEnd(accepted=1, error="It broke.", cancelled=True), "failed"),
    ],
)
def test_a_job_is_never_run_for_a_lane_that_failed_or_was_cancelled(
    sandbox: GoogleAdsSandbox, end: LaneEnd, lost_to: str
) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    send(lane, memo, emails("a"))
    details = {"list": LIST, "job": memo["job add"]}
    assert lane.close(memo, end) == LaneOutcome(lost_to=lost_to, details=details)
    assert jobs(sandbox)[0]["status"] == "PENDING"
    assert "run" not in sandbox.calls()


def test_a_cancel_after_the_run_takes_nobody_out(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    send(lane, memo, emails("a"))
    assert isinstance(look(lane, memo), Wait)
    outcome = close(lane, memo, LaneEnd(accepted=1, error=None, cancelled=True))
    assert outcome.lost_to is None
    assert set(sandbox.members("111")) == keys("a")


def test_a_job_that_google_fails(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    send(lane, memo, emails("a"))
    sandbox.fault("run", "job_failed", data={"failure_reason": "HIGH_AVERAGE_TRANSACTION_VALUE"})
    outcome = close(lane, memo)
    assert outcome.error == "Google's job failed: high average transaction value."
    assert outcome.lost_to == "failed"
    assert outcome.details["job"] == memo["job add"]
    assert sandbox.members("111") == []


def test_a_run_whose_answer_was_lost_is_not_run_twice(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    send(lane, memo, emails("a"))
    sandbox.fault("run", "drop_after")
    assert isinstance(refused(lambda: lane.close(memo, GOOD)), Retryable)
    assert close(lane, memo).error is None
    assert sandbox.calls()["run"] == {"ok": 0, "err": 1, "errors": {"unavailable": 1}}
    # A status may lag behind: the run that is then refused is as good as one.
    closing = Closing(api_of(lane._connection), CUSTOMER, memo, 1.0)
    for job in closing._jobs():
        closing._run(job)
    assert sandbox.calls()["run"]["err"] == 2


def test_a_job_that_is_gone(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    memo = lane.prepare({}, ADD)
    send(lane, memo, emails("a"))
    sandbox.reset()
    # A search may be behind: it is asked again until the attempts are used up.
    verdict = refused(lambda: lane.close(memo, GOOD))
    assert isinstance(verdict, Retryable)
    assert memo["job add"] in str(verdict)
    assert isinstance(refused(lambda: lane.close({}, GOOD)), Fatal)
    assert isinstance(refused(lambda: send(lane, memo, emails("a"))), Fatal)


def test_a_server_that_never_answers(sandbox: GoogleAdsSandbox) -> None:
    impatient = GoogleAdsApi(connection(sandbox.endpoint), add_seconds=0.2)
    sender = GoogleAdsSender(impatient, platform(sandbox).prepare({}, ADD), "add")
    sandbox.fault("add", "hang")
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert "did not answer in time" in str(verdict)


def test_a_server_that_is_not_there(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox)
    lane._connection = connection(f"127.0.0.1:{free_port()}")
    verdict = refused(lambda: lane.prepare({}, ADD))
    assert isinstance(verdict, Retryable)
    assert "could not be reached" in str(verdict)


def test_threads_share_one_channel_and_work_side_by_side(sandbox: GoogleAdsSandbox) -> None:
    fresh = connection(sandbox.endpoint, login_customer_id=CUSTOMER)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(api_of, [fresh] * 32))) == 1
        lanes = [platform(sandbox) for _ in range(8)]
        memos = list(pool.map(lambda lane: lane.prepare({}, ADD), lanes))
        done = pool.map(lambda n: send(lanes[n], memos[n], emails(f"e{n}")), range(8))
        assert list(done) == [[Sent(1, keep=FILLED)]] * 8
    assert len({memo["job add"] for memo in memos}) == 8


def test_no_log_holds_a_hash_or_the_token(
    sandbox: GoogleAdsSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "google"):
        lane = platform(sandbox)
        memo = lane.prepare({}, ADD)
        send(lane, memo, emails("a"))
        sandbox.fault("add", "terms")
        refused(lambda: send(lane, memo, emails("a")))
    told = "\n".join(str(vars(record)) for record in caplog.records)
    assert sha("a").hex() not in told
    assert TOKEN not in told


def test_the_check_asks_for_the_login_account(sandbox: GoogleAdsSandbox) -> None:
    good = connection(sandbox.endpoint, login_customer_id="123-456-7890")
    assert check(good) == f"Google Ads answers for account {CUSTOMER}."
    unknown = connection(sandbox.endpoint, login_customer_id="5555555555")
    assert isinstance(refused(lambda: check(unknown)), Fatal)


def test_the_platform_is_found_by_its_kind(sandbox: GoogleAdsSandbox) -> None:
    destination = GoogleAds(connection="ads", customer_id=CUSTOMER, user_list_id="111")
    where = connection(sandbox.endpoint)
    lane = platforms.platform("google_ads", where, destination, Context(poll_seconds=7.0))
    assert lane.account == f"google_ads/{CUSTOMER}"
    memo = lane.prepare({}, ADD)
    memo |= lane.sender(memo, 1, ADD).send(emails("a"), last=True).keep
    assert look(lane, memo) == Wait(7.0)
    assert "for account" in platforms.check(
        "google_ads", connection(sandbox.endpoint, login_customer_id=CUSTOMER)
    )


class Plain(grpc.GenericRpcHandler):
    """A server that answers `CustomerService` alone, or refuses without errors of Google's own."""

    def __init__(self) -> None:
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.metadata: dict[str, str | bytes] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            self.metadata = dict(context.invocation_metadata())
            if self.refusal is not None:
                context.abort(*self.refusal)
            assert details.method.endswith("CustomerService/ListAccessibleCustomers")
            return customer_service.ListAccessibleCustomersResponse.serialize(
                customer_service.ListAccessibleCustomersResponse(
                    resource_names=["customers/1", "customers/2"]
                )
            )

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def plain() -> Iterator[tuple[Plain, GoogleAdsConnection]]:
    handler = Plain()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield handler, connection(f"127.0.0.1:{port}")
        server.stop(0).wait()


def test_the_check_counts_accounts_where_none_is_named(
    plain: tuple[Plain, GoogleAdsConnection],
) -> None:
    said = check(plain[1])
    assert said == "Google Ads answers; the credentials reach 2 accounts."


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, Fatal),
        (grpc.StatusCode.PERMISSION_DENIED, Fatal),
        (grpc.StatusCode.INVALID_ARGUMENT, Fatal),
        (grpc.StatusCode.UNIMPLEMENTED, Fatal),
        (grpc.StatusCode.NOT_FOUND, Fatal),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Retryable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Retryable),
        (grpc.StatusCode.UNAVAILABLE, Retryable),
        (grpc.StatusCode.INTERNAL, Retryable),
        (grpc.StatusCode.UNKNOWN, Retryable),
        (grpc.StatusCode.ABORTED, Retryable),
    ],
)
def test_a_status_without_errors_of_googles_own(
    plain: tuple[Plain, GoogleAdsConnection], status: grpc.StatusCode, kind: type[Verdict]
) -> None:
    handler, where = plain
    handler.refusal = status, f"the value {sha('a').hex()} with {TOKEN} is wrong"
    verdict = refused(lambda: check(where))
    assert type(verdict) is kind
    if isinstance(verdict, Retryable):
        assert verdict.throttled is (status is grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_revoked_sign_in_is_not_tried_again(plain: tuple[Plain, GoogleAdsConnection]) -> None:
    # How gRPC tells that the credentials could not be renewed in the middle of the work.
    handler, where = plain
    handler.refusal = grpc.StatusCode.UNAVAILABLE, "Getting metadata failed: invalid_grant"
    assert isinstance(refused(lambda: check(where)), Fatal)


class TokenServer(ThreadingHTTPServer):
    """Where a service account signs in: `grants` times it gives a token, then it refuses."""

    daemon_threads = True

    def __init__(self, grants: int) -> None:
        super().__init__(("127.0.0.1", 0), SignIn)
        self.grants = grants
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
        self.rfile.read(int(self.headers["Content-Length"]))
        granted, self.server.grants = self.server.grants > 0, self.server.grants - 1
        answer = (
            # Sooner over than the SDK takes for fresh: it signs in again for each call.
            {"access_token": "access", "expires_in": 5, "token_type": "Bearer"}
            if granted
            else {"error": "invalid_grant", "error_description": TOKEN}
        )
        body = json.dumps(answer).encode()
        self.send_response(200 if granted else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def pem_key() -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def service_account(path: Path, port: int, endpoint: str = "127.0.0.1:1") -> GoogleAdsConnection:
    content = {
        "type": "service_account",
        "private_key": pem_key()[1].decode(),
        "client_email": "robot@example.com",
        "token_uri": f"http://127.0.0.1:{port}/token",
    }
    path.write_text(json.dumps(content))
    return connection(endpoint, insecure=False, json_key_file_path=path)


def test_a_service_account_that_google_refuses(tmp_path: Path) -> None:
    with TokenServer(grants=0) as server:
        where = service_account(tmp_path / "key.json", server.server_address[1])
        verdict = refused(lambda: check(where))
    assert isinstance(verdict, Fatal)
    assert "refused the sign-in" in str(verdict)


def certificate() -> tuple[bytes, bytes]:
    """A key for `localhost`, and its certificate signed by itself."""
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
    return pem, signed.public_bytes(serialization.Encoding.PEM)


CHECK_IN_A_PROCESS = """
import sys
from penstock.connections import GoogleAdsConnection
from services.runtime.verdicts import Verdict
from services.upload.platforms.google_ads import check

endpoint, key = sys.argv[1:]
connection = GoogleAdsConnection(
    kind="google_ads", developer_token="token", endpoint=endpoint, json_key_file_path=key
)
try:
    print(check(connection))
except Verdict as verdict:
    print(type(verdict).__name__, verdict)
"""


@pytest.mark.parametrize(
    ("grants", "said"),
    [
        (9, "Google Ads answers; the credentials reach 2 accounts."),
        (1, "Fatal Google refused the sign-in: "),
    ],
    ids=["signed in", "revoked later"],
)
def test_signed_in_and_over_tls(tmp_path: Path, grants: int, said: str) -> None:
    handler, (key, root) = Plain(), certificate()
    trusted = tmp_path / "root.pem"
    trusted.write_bytes(root)
    with ThreadPoolExecutor(2) as pool, TokenServer(grants) as tokens:
        server = grpc.server(pool, handlers=[handler])
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, root)]))
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
    assert done.stdout.startswith(said), done.stderr
    if grants > 1:
        assert handler.metadata["authorization"] == "Bearer access"
        assert handler.metadata["developer-token"] == "token"


def test_a_sign_in_service_that_is_not_there(tmp_path: Path) -> None:
    where = service_account(tmp_path / "key.json", free_port())
    assert isinstance(refused(lambda: check(where)), Retryable)


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    where = connection("127.0.0.1:1", insecure=False, json_key_file_path=path)
    missing = refused(lambda: check(where))
    path.write_text(f'{{"private_key": "{TOKEN}"}}')
    other = refused(lambda: check(where))
    path.write_text(TOKEN)
    no_json = refused(lambda: check(where))
    assert all(isinstance(verdict, Fatal) for verdict in (missing, other, no_json))
    assert "cannot be read" in str(missing)
    assert "not the key of a service account" in str(other)
    assert "not the key of a service account" in str(no_json)
