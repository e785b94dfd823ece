"""The Meta platform against the sandbox, over the SDK's own session and a real socket."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from penstock.connections import MetaConnection
from penstock.contract import LaneOutcome, Meta
from sandbox.servers import MetaSandbox
from sandbox.servers.process import free_port
from services.runtime.verdicts import Fatal, Retryable, Verdict
from services.upload.platform import LaneEnd, Sent
from services.upload.platforms import CHECKS, PLATFORMS
from services.upload.platforms.meta import MetaPlatform, MetaSender, _payload
from services.upload.platforms.meta_errors import verdict_of
from services.upload.platforms.meta_graph import Graph

AUDIENCE = "222"
ACCOUNT = "1000"
TOKEN = "access-token-of-the-tests"
SECRET = "sandbox-secret"
DIGEST = pa.binary(32)
MEMO = {"audience": AUDIENCE}


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def chunk(**columns: list[str | None]) -> pa.RecordBatch:
    """Columns by name; digests are given as the text they are the digest of."""
    return pa.RecordBatch.from_pydict(
        {
            name: pa.array(values, pa.string())
            if name == "external_id"
            else pa.array([None if v is None else sha(v) for v in values], DIGEST)
            for name, values in columns.items()
        }
    )


def emails(*names: str) -> pa.RecordBatch:
    return chunk(email=list(names))


def keys(*names: str) -> set[str]:
    return {f"EMAIL:{sha(name).hex()}" for name in names}


def connection(url: str, **more: Any) -> MetaConnection:
    given = {"access_token": TOKEN, "graph_url": url, **more}
    return MetaConnection.model_validate({"kind": "meta", **given})


def platform(url: str, **destination: Any) -> MetaPlatform:
    wanted = {"connection": "ads", **destination}
    if "audience" not in wanted:
        wanted.setdefault("audience_id", AUDIENCE)
    return MetaPlatform(connection(url), Meta.model_validate(wanted))


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert TOKEN not in text
    assert SECRET not in text
    assert caught.value.reason.endswith(".")
    return caught.value


def sessions(sandbox: MetaSandbox) -> list[dict[str, Any]]:
    return list(sandbox.state()["sessions"])


@pytest.fixture
def sandbox(meta_sandbox: MetaSandbox) -> MetaSandbox:
    return meta_sandbox


@pytest.fixture
def own_sandbox(tmp_path: Path) -> Iterator[MetaSandbox]:
    """For a test that adds audiences: they outlive a reset."""
    with MetaSandbox(tmp_path) as server:
        yield server


def test_the_members_are_those_that_were_sent(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)
    memo = lane.prepare({})
    assert memo == MEMO
    rows = chunk(
        email=["a", None, "c"],
        phone=[None, "p2", "p3"],
        first_name=[None, None, "f3"],
        last_name=[None, None, "l3"],
        city=[None, None, "t3"],
        postal_code=[None, None, "z3"],
        country=[None, None, "c3"],
        external_id=[None, 'id "2"', "3"],
    )
    sender = lane.sender(memo, 3)
    # A slice starts in the middle of its buffers.
    assert sender.send(rows.slice(0, 1), last=False) == Sent(1)
    assert sender.send(rows.slice(1, 2), last=True) == Sent(2)

    def key(**values: str) -> str:
        return "|".join(f"{name}:{sha(value).hex()}" for name, value in values.items())

    third = key(COUNTRY="c3", CT="t3", EMAIL="c") + "|EXTERN_ID:3|"
    assert set(sandbox.members(AUDIENCE)) == {
        key(EMAIL="a"),
        'EXTERN_ID:id "2"|' + key(PHONE="p2"),
        third + key(FN="f3", LN="l3", PHONE="p3", ZIP="z3"),
    }
    (session,) = sessions(sandbox)
    assert 0 < int(session.pop("id")) < 2**63
    assert session == {
        "audience_id": AUDIENCE,
        "batches": [1, 2],
        "requests": 2,
        "received": 3,
        "invalid": 0,
        "last_batch_seen": True,
    }
    end = LaneEnd(accepted=3, error=None, cancelled=False)
    assert lane.close(memo, end) == LaneOutcome(details=MEMO)


def test_a_full_request_fits_the_limits(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)
    rows = lane.limits.rows
    names = ("email", "phone", "first_name", "last_name", "city", "postal_code", "country")
    full = chunk(**{name: [f"{name}{n}" for n in range(rows)] for name in names})
    full = full.append_column("external_id", pa.array([f"customer-{n}" for n in range(rows)]))
    size = len(orjson.dumps(_payload(full)))
    assert size < rows * lane.row_bytes(full.schema.names) <= lane.limits.bytes
    assert lane.sender(MEMO, rows).send(full, last=True) == Sent(rows)
    assert sandbox.count(AUDIENCE) == rows


def test_preparing_twice_asks_once(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)
    assert lane.prepare(MEMO) == {}
    assert sandbox.calls() == {}


def test_an_audience_that_is_not_there_is_named(sandbox: MetaSandbox) -> None:
    verdict = refused(lambda: platform(sandbox.url, audience_id="999").prepare({}))
    assert isinstance(verdict, Fatal)
    assert "no audience 999" in str(verdict)
    gone = refused(
        lambda: platform(sandbox.url).sender({"audience": "999"}, 1).send(emails("a"), last=True)
    )
    assert isinstance(gone, Fatal)


def test_an_audience_is_found_by_its_name_on_any_page(own_sandbox: MetaSandbox) -> None:
    for number in range(410):
        own_sandbox.add_audience(id=str(5000 + number), name=f"Audience {number}")
    own_sandbox.add_audience(id="6000", name="Audience 7")

    def find(name: str, account: str = ACCOUNT) -> dict[str, Any]:
        return platform(own_sandbox.url, audience=name, account_id=account).prepare({})

    assert find("Audience 405") == {"audience": "5405"}
    assert find("Newsletter") == MEMO
    missing, twins = refused(lambda: find("audience 405")), refused(lambda: find("Audience 7"))
    stranger = refused(lambda: find("Newsletter", "77"))
    assert all(isinstance(verdict, Fatal) for verdict in (missing, twins, stranger))
    assert str(missing) == f"Ad account {ACCOUNT} has no audience named 'audience 405'."
    assert "2 audiences named 'Audience 7'" in str(twins)
    assert "no ad account 77" in str(stranger)


def test_invalid_entries_are_those_of_the_chunk(sandbox: MetaSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 9)
    sandbox.fault("users", "invalid_entries", data={"every": 2})
    assert sender.send(emails("a", "b", "c"), last=False) == Sent(2, {"Meta: invalid entry": 1})
    assert sender.send(emails("d", "e"), last=False) == Sent(2)
    blank = chunk(email=["f", None, None, "g"])
    assert sender.send(blank, last=True) == Sent(2, {"Meta: invalid entry": 2})
    assert set(sandbox.members(AUDIENCE)) == keys("a", "c", "d", "e", "f", "g")
    assert len(sessions(sandbox)) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("transient", Retryable, "error 2"),
        ("http_500", Retryable, "error 1"),
        ("error_in_200", Retryable, "error 1"),
        ("html_502", Retryable, "HTTP 502"),
        ("html_414", Retryable, "HTTP 414"),
        ("reset", Retryable, "connection was lost"),
        ("token", Fatal, "refused the access token"),
        ("permission", Fatal, "ads_management"),
        ("terms", Fatal, "customaudiences/tos"),
        ("bad_parameter", Fatal, "error 100"),
    ],
)
@pytest.mark.parametrize("method", ["audience", "audiences", "users"])
def test_each_refusal_has_its_verdict(
    sandbox: MetaSandbox, method: str, fault: str, kind: type[Verdict], told: str
) -> None:
    by_id = platform(sandbox.url)
    by_name = platform(sandbox.url, audience="Newsletter", account_id=ACCOUNT)
    sender = by_id.sender(MEMO, 1)
    step: Callable[[], Any] = {
        "audience": lambda: by_id.prepare({}),
        "audiences": lambda: by_name.prepare({}),
        "users": lambda: sender.send(emails("a"), last=True),
    }[method]
    sandbox.fault(method, fault)
    verdict = refused(step)
    assert type(verdict) is kind
    assert told in str(verdict)
    if isinstance(verdict, Retryable):
        assert not verdict.throttled
        assert verdict.after is None
    assert sandbox.calls()[method]["err"] == 1
    step()


def test_a_success_must_say_what_was_received(sandbox: MetaSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 1)
    sandbox.fault("users", "empty_200")
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert sandbox.members(AUDIENCE) == []
    assert sender.send(emails("a"), last=True) == Sent(1)


@pytest.mark.parametrize(
    ("fault", "data", "after"),
    [
        ("throttle", {"minutes": 7}, 420.0),
        ("throttle", {"minutes": 0}, 60.0),
        ("rate_429", {}, 60.0),
        ("rate_429_html", {}, 60.0),
    ],
)
def test_being_told_to_slow_down(
    sandbox: MetaSandbox, fault: str, data: dict[str, Any], after: float
) -> None:
    sender = platform(sandbox.url).sender(MEMO, 1)
    sandbox.fault("users", fault, data=data)
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == after
    assert sender.send(emails("a"), last=True) == Sent(1)


@pytest.mark.parametrize("code", [4, 17, 32, 613, 80003])
def test_every_code_that_asks_to_slow_down(code: int) -> None:
    uses = [{"estimated_time_to_regain_access": 3}, {"estimated_time_to_regain_access": 0}]
    headers = {"X-Business-Use-Case-Usage": orjson.dumps({"1": uses, "2": uses[1:]}).decode()}
    verdict = verdict_of(400, headers, {"code": code, "message": TOKEN})
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == 180.0


@pytest.mark.parametrize("header", ["", "no JSON", "[]", '{"1": 5}', '{"1": [{}]}', "null"])
def test_a_usage_header_that_makes_no_sense(header: str) -> None:
    verdict = verdict_of(429, {"X-Business-Use-Case-Usage": header}, None)
    assert isinstance(verdict, Retryable)
    assert verdict.after == 60.0


def test_an_audience_that_is_being_replaced_is_tried_again() -> None:
    verdict = verdict_of(400, {}, {"code": 2650, "error_subcode": 1870145})
    assert isinstance(verdict, Retryable)
    assert verdict.after == 300.0


def test_a_chunk_whose_answer_was_lost_is_sent_again_and_counts_once(
    sandbox: MetaSandbox,
) -> None:
    sender = platform(sandbox.url).sender(MEMO, 5)
    assert sender.send(emails("a", "b"), last=False) == Sent(2)
    sandbox.fault("users", "drop_after")
    assert isinstance(refused(lambda: sender.send(emails("c", "d"), last=False)), Retryable)
    sandbox.fault("users", "invalid_entries", data={"every": 2})
    assert sender.send(emails("c", "d"), last=False) == Sent(1, {"Meta: invalid entry": 1})
    assert sender.send(emails("e"), last=True) == Sent(1)
    members = sandbox.members(AUDIENCE)
    assert sorted(members) == sorted(keys("a", "b", "c", "d", "e"))
    counts = [
        (one["batches"], one["received"], one["last_batch_seen"]) for one in sessions(sandbox)
    ]
    assert counts == [([1, 2], 4, False), ([1, 2], 3, True)]


def test_batches_side_by_side_do_not_mix_their_counts(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)

    def batch(number: int) -> list[Sent]:
        sender = lane.sender(MEMO, 12)
        parts = [chunk(email=[f"{number}.{part}", f"{number}.{part}+", None]) for part in range(4)]
        return [sender.send(part, last=part is parts[-1]) for part in parts]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(batch, range(16)))
    assert answers == [[Sent(2, {"Meta: invalid entry": 1})] * 4] * 16
    assert sandbox.count(AUDIENCE) == 16 * 4 * 2
    assert len(sessions(sandbox)) == 16


def test_members_stay_whatever_became_of_the_lane(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)
    lane.sender(MEMO, 1).send(emails("a"), last=True)
    for end in (LaneEnd(1, "It broke.", cancelled=False), LaneEnd(1, None, cancelled=True)):
        assert lane.close(MEMO, end) == LaneOutcome(details=MEMO)
    assert lane.close({}, LaneEnd(0, None, cancelled=False)) == LaneOutcome()
    assert set(sandbox.members(AUDIENCE)) == keys("a")


def test_the_check_signs_in(sandbox: MetaSandbox) -> None:
    check = CHECKS["meta"]
    said = "Meta accepts the access token (Graph API v26.0)."
    assert check(connection(sandbox.url)) == said
    assert check(connection(sandbox.url + "/", app_id="1", app_secret=SECRET)) == said
    bad_token = refused(lambda: check(connection(sandbox.url, access_token="bad")))
    bad_proof = refused(lambda: check(connection(sandbox.url, app_secret="another")))
    assert isinstance(bad_token, Fatal)
    assert isinstance(bad_proof, Fatal)
    assert "get a new one" in str(bad_token)


def test_a_server_that_never_answers(sandbox: MetaSandbox) -> None:
    sender = MetaSender(Graph(connection(sandbox.url), read_seconds=0.2), AUDIENCE, 1)
    sandbox.fault("users", "hang")
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert "did not answer in time" in str(verdict)


def test_a_server_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    verdict = refused(lambda: platform(url).sender(MEMO, 1).send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert type(refused(lambda: CHECKS["meta"](connection("no address")))) is Fatal


def test_the_platform_is_in_the_table(sandbox: MetaSandbox) -> None:
    destination = Meta(connection="ads", audience_id=AUDIENCE)
    lane = PLATFORMS["meta"](connection(sandbox.url), destination, 7.0)
    sender = lane.sender(lane.prepare({}), 1)
    assert sender.send(emails("a"), last=True) == Sent(1)
