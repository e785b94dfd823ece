"""The LinkedIn platform against the sandbox, over a real socket."""

from __future__ import annotations

import hashlib
import re
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pyarrow as pa
import pytest

from penstock import routes
from penstock.connections import TokenConnection
from penstock.contract import Audience, LaneOutcome
from sandbox.servers import LinkedInSandbox
from sandbox.servers.process import free_port
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload import platforms
from services.upload.platform import Context, LaneEnd, Lot, Sent
from services.upload.platforms.linkedin import (
    UNKNOWN_BY_ANY,
    Api,
    LinkedInPlatform,
    LinkedInSender,
    _user_ids,
)

AUDIENCE = "222"
ACCOUNT = "1000"
TOKEN = "access-token-of-the-tests"
DIGEST = pa.binary(32)
MEMO = {"audience": AUDIENCE, "created": 0.0}
ADD, REMOVE = Lot("add"), Lot("remove")
AIDS = [f"38400000-8cf0-11bd-b23e-{n:012x}" for n in range(10)]


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def emails(*names: str | None, **more: Any) -> pa.RecordBatch:
    digests = pa.array([None if name is None else sha(name) for name in names], DIGEST)
    rows = pa.array(range(len(names)), pa.uint32())
    return pa.RecordBatch.from_pydict({"email": digests, "row": rows, **more})


def keys(*names: str) -> set[str]:
    return {f"SHA256_EMAIL:{sha(name).hex()}" for name in names}


def connection(url: str, **more: Any) -> TokenConnection:
    given = {"kind": "linkedin", "access_token": TOKEN, "api_url": url, **more}
    return TokenConnection.model_validate(given)


def platform(url: str, *, token: str = TOKEN, **destination: Any) -> LinkedInPlatform:
    wanted = {"kind": "linkedin", "connection": "ads", **destination}
    if "audience" in wanted:
        wanted.setdefault("account_id", ACCOUNT)
    else:
        wanted.setdefault("audience_id", AUDIENCE)
    return LinkedInPlatform(connection(url, access_token=token), Audience.model_validate(wanted))


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert TOKEN not in text
    assert caught.value.reason.endswith(".")
    return caught.value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedInSandbox]:
    """What it is told to be full of stays: for tests that add no audience."""
    with LinkedInSandbox(tmp_path_factory.mktemp("linkedin")) as started:
        yield started


@pytest.fixture
def sandbox(server: LinkedInSandbox) -> LinkedInSandbox:
    server.reset()
    return server


@pytest.fixture
def own_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedInSandbox]:
    """For a test that adds audiences or changes settings: they outlive a reset."""
    with LinkedInSandbox(tmp_path_factory.mktemp("linkedin")) as started:
        yield started


def test_the_members_are_those_that_were_sent(sandbox: LinkedInSandbox) -> None:
    lane = platform(sandbox.url)
    assert lane.prepare({}, ADD) == MEMO
    rows = emails("a", None, "c", None, mobile_ad_id=pa.array([None, AIDS[1], AIDS[2], None]))
    sender = lane.sender(MEMO, 4, ADD)
    # A slice starts in the middle of its buffers.
    assert sender.send(rows.slice(0, 1), last=False) == Sent(1)
    assert sender.send(rows.slice(1), last=True) == Sent(
        2, {UNKNOWN_BY_ANY: 1}, {2: ("", UNKNOWN_BY_ANY)}
    )
    assert set(sandbox.members(AUDIENCE)) == {
        *keys("a"),
        f"GOOGLE_AID:{AIDS[1]}",
        f"GOOGLE_AID:{AIDS[2]}|SHA256_EMAIL:{sha('c').hex()}",
    }
    assert lane.sender(MEMO, 2, REMOVE).send(emails("a", "x"), last=True) == Sent(2)
    assert sandbox.count(AUDIENCE) == 2
    for end in (LaneEnd(3, None, cancelled=False), LaneEnd(1, "It broke.", cancelled=True)):
        assert lane.close(MEMO, end) == LaneOutcome(details={"audience": AUDIENCE})
    assert lane.close({}, LaneEnd(0, None, cancelled=False)) == LaneOutcome()


def test_rows_that_linkedin_knows_by_nothing_cost_no_request(sandbox: LinkedInSandbox) -> None:
    phones = pa.RecordBatch.from_pydict({"phone": pa.array([sha("1"), sha("2")], DIGEST)})
    sent = platform(sandbox.url).sender(MEMO, 2, ADD).send(phones, last=True)
    assert sent == Sent(0, {UNKNOWN_BY_ANY: 2}, dict.fromkeys((0, 1), ("", UNKNOWN_BY_ANY)))
    assert "users" not in sandbox.calls()


def test_whom_linkedin_cannot_know_is_out_already(sandbox: LinkedInSandbox) -> None:
    lane = platform(sandbox.url)
    lane.sender(MEMO, 2, ADD).send(emails("a", "b"), last=True)
    remove = lane.sender(MEMO, 3, REMOVE)
    assert remove.send(emails(None, "a", None), last=False) == Sent(3)
    assert set(sandbox.members(AUDIENCE)) == keys("b")
    asked = sandbox.calls()["users"]
    assert remove.send(emails(None, None), last=True) == Sent(2)
    assert sandbox.calls()["users"] == asked


def test_a_full_request_fits_the_limits(sandbox: LinkedInSandbox) -> None:
    lane = platform(sandbox.url)
    rows = lane.limits.rows
    ids = [f"38400000-8cf0-11bd-b23e-{n:012x}" for n in range(rows)]
    full = emails(*map(str, range(rows)), mobile_ad_id=pa.array(ids))
    elements = [{"action": "REMOVE", "userIds": known} for known in _user_ids(full)]
    size = len(orjson.dumps({"elements": elements}))
    assert size < rows * lane.row_bytes(full.schema.names) <= lane.limits.bytes
    assert lane.sender(MEMO, rows, ADD).send(full, last=True) == Sent(rows)
    assert sandbox.count(AUDIENCE) == rows


def test_a_replacement_is_not_to_be_had(sandbox: LinkedInSandbox) -> None:
    lane = platform(sandbox.url)
    assert isinstance(refused(lambda: lane.sender(MEMO, 1, Lot("replace"))), Fatal)
    assert lane.modes == {"add", "remove", "mirror"}
    assert lane.validate(emails("a"), ADD) is None
    assert sandbox.calls() == {}


def test_each_status_is_its_own_rows(sandbox: LinkedInSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 9, ADD)
    sandbox.fault("users", "user_status", data={"every": 2, "status": 400})
    reason = "LinkedIn: refused with status 400"
    # The first row is not in the request: the second status there is that of the third row.
    assert sender.send(emails(None, "a", "b", "c"), last=False) == Sent(
        2, {UNKNOWN_BY_ANY: 1, reason: 1}, {0: ("", UNKNOWN_BY_ANY), 2: ("", reason)}
    )
    assert set(sandbox.members(AUDIENCE)) == keys("a", "c")


@pytest.mark.parametrize(("status", "throttled"), [(429, True), (503, False)])
def test_a_status_that_may_pass_brings_the_chunk_again(
    sandbox: LinkedInSandbox, status: int, throttled: bool
) -> None:
    sender = platform(sandbox.url).sender(MEMO, 3, ADD)
    sandbox.fault("users", "user_status", data={"every": 2, "status": status})
    verdict = refused(lambda: sender.send(emails("a", "b", "c"), last=True))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled is throttled
    assert sender.send(emails("a", "b", "c"), last=True) == Sent(3)
    assert set(sandbox.members(AUDIENCE)) == keys("a", "b", "c")


def test_an_audience_by_its_id(own_sandbox: LinkedInSandbox) -> None:
    own_sandbox.add_audience(id="300", name="Firms", type="COMPANY")
    url = own_sandbox.url
    assert platform(url).look() == {"audience": "Newsletter (id 222)"}
    gone = refused(lambda: platform(url, audience_id="999").look())
    wrong = refused(lambda: platform(url, audience_id="300").prepare({}, ADD))
    assert "no audience 999" in str(gone)
    assert "300 is not one of contacts" in str(wrong)
    assert all(type(verdict) is Fatal for verdict in (gone, wrong))
    path = refused(lambda: platform(url, audience_id="222/users").prepare({}, ADD))
    assert isinstance(path, Fatal)


def test_an_audience_is_found_by_its_name_on_any_page(own_sandbox: LinkedInSandbox) -> None:
    for number in range(210):
        own_sandbox.add_audience(id=str(5000 + number), name=f"Audience {number}")
    own_sandbox.add_audience(id="6000", name="Audience 7")
    own_sandbox.add_audience(id="6001", name="Firms", type="COMPANY")
    own_sandbox.add_audience(id="6002", name="Audience 3", account="1001")

    def find(name: str, **more: Any) -> dict[str, Any]:
        return platform(own_sandbox.url, audience=name, **more).prepare({}, ADD)

    assert find("Audience 205") == {"audience": "5205", "created": 0.0}
    assert find("Audience 3") == {"audience": "5003", "created": 0.0}
    missing, twins = refused(lambda: find("audience 205")), refused(lambda: find("Audience 7"))
    firms, stranger = refused(lambda: find("Firms")), refused(lambda: find("A", account_id="77"))
    assert str(missing) == f"Ad account {ACCOUNT} has no audience named 'audience 205'."
    assert "2 audiences named 'Audience 7'" in str(twins)
    assert "not one of contacts" in str(firms)
    assert "rw_dmp_segments" in str(stranger)
    assert all(isinstance(verdict, Fatal) for verdict in (missing, twins, firms, stranger))
    # Where workers may have created twins, all must take the same.
    assert find("Audience 7", create=True) == {"audience": "5007", "created": 0.0}
    assert "create" not in own_sandbox.calls()


def test_an_audience_is_created_and_awaited(own_sandbox: LinkedInSandbox) -> None:
    lane = platform(
        own_sandbox.url,
        audience="Customers",
        create=True,
        description="From the shop",
        options={"source_platform": "PENSTOCK"},
    )
    assert lane.look() == {"audience": "would be created"}
    assert "create" not in own_sandbox.calls()
    before = time.time()
    memo = lane.prepare({}, ADD)
    assert before - 1 <= memo["created"] <= time.time() + 1
    assert lane.look() == {"audience": f"Customers (id {memo['audience']})"}
    made = own_sandbox.state()["audiences"][memo["audience"]]
    assert made == {
        "account": ACCOUNT,
        "name": "Customers",
        "type": "USER",
        "description": "From the shop",
        "source_platform": "PENSTOCK",
        "members": 0,
    }
    assert lane.prepare(memo, ADD) == {}
    # As if the clock of this machine were four seconds behind LinkedIn's, so that none is needed.
    soon = lane.sender({**memo, "created": time.time() + 4}, 1, ADD)
    verdict = refused(lambda: soon.send(emails("a"), last=True))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after is not None
    assert 0 < verdict.after <= 10
    assert "users" not in own_sandbox.calls()
    own_sandbox.settings(ready_seconds=0)
    late = lane.sender({**memo, "created": memo["created"] - 60}, 1, ADD)
    assert late.send(emails("a"), last=True) == Sent(1)
    assert own_sandbox.count(memo["audience"]) == 1


def test_workers_that_create_at_once_agree(own_sandbox: LinkedInSandbox) -> None:
    lane = platform(own_sandbox.url, audience="Customers", create=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: lane.prepare({}, ADD), range(8)))
        after = {memo["audience"] for memo in pool.map(lambda _: lane.prepare({}, ADD), range(8))}
    assert after == {"223"}


def test_an_account_that_is_full(own_sandbox: LinkedInSandbox) -> None:
    own_sandbox.settings(max_segments=1)
    lane = platform(own_sandbox.url, audience="Customers", create=True)
    verdict = refused(lambda: lane.prepare({}, ADD))
    assert type(verdict) is Fatal
    assert "delete some" in str(verdict)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("http_500", Retryable, "HTTP 500"),
        ("http_503", Retryable, "HTTP 503"),
        ("html_502", Retryable, "HTTP 502"),
        ("html_403", Retryable, "HTTP 403"),
        ("html_200", Retryable, "HTTP 200"),
        ("reset", Retryable, "connection was lost"),
        ("token", Fatal, "refused the access token"),
        ("permission", Fatal, "rw_dmp_segments"),
        ("version", Fatal, "option `version`"),
        ("bad_request", Fatal, "HTTP 400"),
        ("html_413", Fatal, "too large"),
    ],
)
@pytest.mark.parametrize("method", ["segment", "segments", "create", "users"])
def test_each_refusal_has_its_verdict(
    sandbox: LinkedInSandbox, method: str, fault: str, kind: type[Verdict], told: str
) -> None:
    step: Callable[[], Any] = {
        "segment": lambda: platform(sandbox.url).prepare({}, ADD),
        "segments": lambda: platform(sandbox.url, audience="Newsletter").prepare({}, ADD),
        "create": lambda: platform(sandbox.url, audience=f"For {fault}", create=True).prepare(
            {}, ADD
        ),
        "users": lambda: platform(sandbox.url).sender(MEMO, 1, ADD).send(emails("a"), last=True),
    }[method]
    if method == "users" and fault in ("bad_request", "html_413"):
        # Of a batch, its halves come then.
        kind = RowsRejected
    sandbox.fault(method, fault)
    verdict = refused(step)
    assert isinstance(verdict, kind)
    assert told in str(verdict)
    if isinstance(verdict, Retryable):
        assert not verdict.throttled
        assert verdict.after is None
    assert sandbox.calls()[method]["err"] == 1
    step()


@pytest.mark.parametrize(
    ("fault", "data", "after"),
    [
        ("throttle", {"retry_after": 7}, 7.0),
        ("throttle", {"retry_after": "soon"}, 60.0),
        ("throttle", {"retry_after": 0}, 60.0),
        ("throttle", {}, 60.0),
        ("html_429", {}, 60.0),
    ],
)
def test_being_told_to_slow_down(
    sandbox: LinkedInSandbox, fault: str, data: dict[str, Any], after: float
) -> None:
    sender = platform(sandbox.url).sender(MEMO, 1, ADD)
    sandbox.fault("users", fault, data=data)
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == after
    assert sender.send(emails("a"), last=True) == Sent(1)


@pytest.mark.parametrize("fault", ["empty_200", "one_status_short"])
def test_a_success_must_say_what_became_of_each(sandbox: LinkedInSandbox, fault: str) -> None:
    sender = platform(sandbox.url).sender(MEMO, 2, ADD)
    sandbox.fault("users", fault)
    assert type(refused(lambda: sender.send(emails("a", "b"), last=True))) is Retryable
    assert sender.send(emails("a", "b"), last=True) == Sent(2)


def test_a_chunk_whose_answer_was_lost_is_sent_again(sandbox: LinkedInSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 2, ADD)
    sandbox.fault("users", "drop_after")
    assert isinstance(refused(lambda: sender.send(emails("a", "b"), last=True)), Retryable)
    assert sender.send(emails("a", "b"), last=True) == Sent(2)
    assert sorted(sandbox.members(AUDIENCE)) == sorted(keys("a", "b"))


def test_an_option_that_is_not_known_is_named(sandbox: LinkedInSandbox) -> None:
    typo = platform(sandbox.url, options={"sourceplatform": "PENSTOCK"})
    for step in (typo.look, lambda: typo.prepare({}, ADD), lambda: typo.sender(MEMO, 1, ADD)):
        verdict = refused(step)
        assert type(verdict) is Fatal
        assert "'sourceplatform'" in str(verdict)
    old = platform(sandbox.url, options={"version": "202301"})
    assert "option `version`" in str(refused(old.look))
    assert platform(sandbox.url, options={"version": "202607"}).look()


def test_the_limits_are_those_of_the_connection(sandbox: LinkedInSandbox) -> None:
    lane = platform(sandbox.url, audience="Newsletter")
    assert lane.account == "linkedin/ads"
    assert lane.pace.per_minute == 600


def test_the_check_signs_in(sandbox: LinkedInSandbox) -> None:
    said = "LinkedIn accepts the access token (API version 202608)."
    assert platforms.check("linkedin", connection(sandbox.url)) == said
    no_profile = connection(sandbox.url + "/", access_token="no-profile")
    assert platforms.check("linkedin", no_profile) == said
    bad = refused(lambda: platforms.check("linkedin", connection(sandbox.url, access_token="bad")))
    assert isinstance(bad, Fatal)
    assert "get a new one" in str(bad)


def test_a_server_that_never_answers(sandbox: LinkedInSandbox) -> None:
    api = Api(connection(sandbox.url), "202608", timeout=(10.0, 0.2))
    sandbox.fault("users", "hang")
    verdict = refused(
        lambda: LinkedInSender(api, AUDIENCE, 0.0, "ADD").send(emails("a"), last=True)
    )
    assert type(verdict) is Retryable
    assert "did not answer in time" in str(verdict)


def test_a_server_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert type(refused(platform(url).look)) is Retryable
    assert type(refused(platform("no address").look)) is Fatal


def test_a_file_and_a_line_are_all_it_takes(sandbox: LinkedInSandbox) -> None:
    assert routes.PLAIN_AUDIENCES["linkedin"] == "meta"
    destination = Audience(kind="linkedin", connection="ads", audience_id=AUDIENCE)
    lane = platforms.platform("linkedin", connection(sandbox.url), destination, Context())
    sender = lane.sender(lane.prepare({}, ADD), 1, ADD)
    assert sender.send(emails("a"), last=True) == Sent(1)
