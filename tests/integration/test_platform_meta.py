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
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload import platforms
from services.upload.platform import Context, LaneEnd, Lot, Sent, Usage
from services.upload.platforms.meta import MetaPlatform
from services.upload.platforms.meta_errors import verdict_of
from services.upload.platforms.meta_graph import Graph
from services.upload.platforms.meta_payload import KEYS, Payload
from services.upload.platforms.meta_send import MetaSender, Target
from services.upload.platforms.meta_usage import usage_of

AUDIENCE = "222"
ACCOUNT = "1000"
TOKEN = "access-token-of-the-tests"
SECRET = "sandbox-secret"
DIGEST = pa.binary(32)
MEMO = {"audience": AUDIENCE}
ADD = Lot("add")
TEXTS = ("external_id", "mobile_ad_id")
# What the sandbox says of an account that has made no calls to speak of.
CALM = Usage(1.0)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def chunk(**columns: list[str | None]) -> pa.RecordBatch:
    """Columns by name; digests are given as the text they are the digest of."""
    return pa.RecordBatch.from_pydict(
        {
            name: pa.array(values, pa.string())
            if name in TEXTS
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


def taken(accepted: int, invalid: int = 0, rows: set[int] | None = None) -> Sent:
    rejected = {"Meta: invalid entry": invalid} if invalid else {}
    places = dict.fromkeys(rows or (), ("", "Meta: invalid entry"))
    return Sent(accepted, rejected, places, CALM)


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
    memo = lane.prepare({}, ADD)
    assert memo == MEMO
    hashed = [name for name in KEYS if name not in (*TEXTS, "email")]
    rows = chunk(
        email=["a", None, "c"],
        **{name: [None, None, f"{name} of c"] for name in hashed},
        external_id=[None, 'id "2"\t\\é', "3"],
        mobile_ad_id=[None, None, "aebe52e7-03ee-455a-b3c4-e57283966239"],
    )
    # What is no identifier stays here.
    rows = rows.append_column("row", pa.array([0, 1, 2], pa.uint32()))
    rows = rows.append_column("row_key", pa.array(["k0", "k1", "k2"]))
    sender = lane.sender(memo, 3, ADD)
    # A slice starts in the middle of its buffers.
    assert sender.send(rows.slice(0, 1), last=False) == taken(1)
    assert sender.send(rows.slice(1, 2), last=True) == taken(2)

    third = {KEYS[name]: sha(f"{name} of c").hex() for name in hashed}
    third |= {"EMAIL": sha("c").hex(), "EXTERN_ID": "3"}
    third |= {"MADID": "aebe52e7-03ee-455a-b3c4-e57283966239"}
    assert set(sandbox.members(AUDIENCE)) == {
        *keys("a"),
        'EXTERN_ID:id "2"\t\\é',
        "|".join(f"{name}:{value}" for name, value in sorted(third.items())),
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
    lane = platform(
        sandbox.url,
        data_processing_options=["LDU"],
        data_processing_country=1,
        data_processing_state=1000,
    )
    rows = lane.limits.rows
    full = chunk(
        **{name: [f"{name}{n}" for n in range(rows)] for name in KEYS if name not in TEXTS},
        external_id=[f"customer-{n}" for n in range(rows)],
        mobile_ad_id=[f"aebe52e7-03ee-455a-b3c4-{n:012x}" for n in range(rows)],
    )
    size = len(Payload.of(full, lane._limited_use).json)
    assert size < rows * lane.row_bytes(full.schema.names) <= lane.limits.bytes
    assert lane.sender(MEMO, rows, ADD).send(full, last=True) == taken(rows)
    assert sandbox.count(AUDIENCE) == rows
    assert sandbox.state()["audiences"][AUDIENCE]["limited"] == rows


def test_the_payload_is_what_json_says_it_is() -> None:
    rows = chunk(
        email=["a", None, "c", None],
        phone=[None] * 4,
        external_id=["plain", "", 'qu"ote\\', None],
    )
    for part in (rows, rows.slice(1, 2), rows.slice(3)):
        built = orjson.loads(Payload.of(part, {"DATA_PROCESSING_OPTIONS": ["LDU"]}).json)
        values = [
            [v.hex() if isinstance(v, bytes) else v or "" for v in column.to_pylist()]
            for column in part.columns
        ]
        assert built == {
            "schema": ["EMAIL", "PHONE", "EXTERN_ID", "DATA_PROCESSING_OPTIONS"],
            "data": [[*row, ["LDU"]] for row in zip(*values, strict=True)],
        }


def test_preparing_twice_asks_once(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)
    assert lane.prepare(MEMO, ADD) == {}
    assert sandbox.calls() == {}


def test_an_audience_that_is_not_there_is_named(sandbox: MetaSandbox) -> None:
    verdict = refused(lambda: platform(sandbox.url, audience_id="999").prepare({}, ADD))
    assert isinstance(verdict, Fatal)
    assert "no audience 999" in str(verdict)
    gone = refused(
        lambda: (
            platform(sandbox.url).sender({"audience": "999"}, 1, ADD).send(emails("a"), last=True)
        )
    )
    assert isinstance(gone, Fatal)


def test_an_audience_is_found_by_its_name_on_any_page(own_sandbox: MetaSandbox) -> None:
    for number in range(410):
        own_sandbox.add_audience(id=str(5000 + number), name=f"Audience {number}")
    own_sandbox.add_audience(id="6000", name="Audience 7")

    def find(name: str, account: str = ACCOUNT) -> dict[str, Any]:
        return platform(own_sandbox.url, audience=name, account_id=account).prepare({}, ADD)

    assert find("Audience 405") == {"audience": "5405"}
    assert find("Newsletter") == MEMO
    missing, twins = refused(lambda: find("audience 405")), refused(lambda: find("Audience 7"))
    stranger = refused(lambda: find("Newsletter", "77"))
    assert all(isinstance(verdict, Fatal) for verdict in (missing, twins, stranger))
    assert str(missing) == f"Ad account {ACCOUNT} has no audience named 'audience 405'."
    assert "2 audiences named 'Audience 7'" in str(twins)
    assert "no ad account 77" in str(stranger)


def test_invalid_entries_are_those_of_the_chunk(sandbox: MetaSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 9, ADD)
    sandbox.fault("users", "invalid_entries", data={"every": 2})
    assert sender.send(emails("a", "b", "c"), last=False) == taken(2, 1, {1})
    assert sender.send(emails("d", "e"), last=False) == taken(2)
    blank = chunk(email=["f", None, None, "g"])
    assert sender.send(blank, last=True) == taken(2, 2, {1, 2})
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
        ("blocked", Fatal, "blocked uploads"),
        ("not_whole", Fatal, "not update the audience fully"),
    ],
)
@pytest.mark.parametrize("method", ["audience", "audiences", "users"])
def test_each_refusal_has_its_verdict(
    sandbox: MetaSandbox, method: str, fault: str, kind: type[Verdict], told: str
) -> None:
    by_id = platform(sandbox.url)
    by_name = platform(sandbox.url, audience="Newsletter", account_id=ACCOUNT)
    sender = by_id.sender(MEMO, 1, ADD)
    step: Callable[[], Any] = {
        "audience": lambda: by_id.prepare({}, ADD),
        "audiences": lambda: by_name.prepare({}, ADD),
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
    sender = platform(sandbox.url).sender(MEMO, 1, ADD)
    sandbox.fault("users", "empty_200")
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert sandbox.members(AUDIENCE) == []
    assert sender.send(emails("a"), last=True) == taken(1)


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
    sender = platform(sandbox.url).sender(MEMO, 1, ADD)
    sandbox.fault("users", fault, data=data)
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == after
    assert sender.send(emails("a"), last=True) == taken(1)


@pytest.mark.parametrize("code", [4, 17, 32, 613, 80003])
def test_every_code_that_asks_to_slow_down(code: int) -> None:
    uses = [{"estimated_time_to_regain_access": 3}, {"estimated_time_to_regain_access": 0}]
    headers = {"X-Business-Use-Case-Usage": orjson.dumps({"1": uses, "2": uses[1:]}).decode()}
    verdict = verdict_of(400, headers, {"code": code, "message": TOKEN})
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == 180.0


def test_a_request_that_is_too_large_is_halved() -> None:
    """Something in front of the API says so, in no words of Meta's."""
    verdict = verdict_of(413, {}, None)
    assert type(verdict) is RowsRejected
    assert verdict.reason == "Meta: the request was too large"


@pytest.mark.parametrize(
    ("passes", "kind"), [(True, Retryable), (False, Fatal), (None, Fatal), ("true", Fatal)]
)
def test_a_bad_parameter_that_meta_calls_passing_is_tried_again(
    passes: Any, kind: type[Verdict]
) -> None:
    verdict = verdict_of(400, {}, {"code": 100, "is_transient": passes, "message": TOKEN})
    assert type(verdict) is kind
    assert TOKEN not in verdict.reason


@pytest.mark.parametrize("header", ["", "no JSON", "[]", '{"1": 5}', '{"1": [{}, 7]}', "null"])
def test_a_usage_header_that_makes_no_sense(header: str) -> None:
    headers = {"X-Business-Use-Case-Usage": header, "X-App-Usage": header}
    verdict = verdict_of(429, headers, None)
    assert isinstance(verdict, Retryable)
    assert verdict.after == 60.0
    assert usage_of(headers) is None


def test_the_fullest_of_all_limits_counts(own_sandbox: MetaSandbox) -> None:
    lane = platform(own_sandbox.url, audience="Newsletter", account_id=ACCOUNT)
    assert lane.account == "meta/act_1000"
    assert platform(own_sandbox.url).account == "meta/ads"

    def usage() -> Usage | None:
        return lane.sender(MEMO, 1, ADD).send(emails("a"), last=True).usage

    assert usage() == CALM
    own_sandbox.settings(usage={"total_cputime": 41})
    assert usage() == Usage(41.0)
    own_sandbox.settings(app_usage={"call_count": 3, "total_time": 55.5})
    assert usage() == Usage(55.5)
    own_sandbox.settings(ad_account_usage={"acc_id_util_pct": 70.5, "reset_time_duration": 90})
    assert usage() == Usage(70.5)
    own_sandbox.settings(ad_account_usage={"acc_id_util_pct": 100, "reset_time_duration": 90})
    assert usage() == Usage(100.0, 90.0)
    own_sandbox.settings(usage={"estimated_time_to_regain_access": 2})
    assert usage() == Usage(100.0, 120.0)


def test_the_usage_of_another_account_counts_only_where_ones_own_is_not_told() -> None:
    told = {"1": [{"call_count": 80}], "2": [{"call_count": 7}, {"total_time": 9}]}
    headers = {"X-Business-Use-Case-Usage": orjson.dumps(told).decode()}
    assert usage_of(headers, "2") == Usage(9.0)
    assert usage_of(headers, "3") == Usage(80.0)
    assert usage_of(headers) == Usage(80.0)
    assert usage_of({}) is None


def test_an_account_that_is_full_says_how_long(own_sandbox: MetaSandbox) -> None:
    own_sandbox.settings(usage_per_call=50, regain_minutes=3)
    sender = platform(own_sandbox.url).sender(MEMO, 3, ADD)
    assert sender.send(emails("a"), last=False).usage == Usage(50.0)
    assert sender.send(emails("b"), last=False).usage == Usage(100.0, 180.0)
    verdict = refused(lambda: sender.send(emails("c"), last=True))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after == 180.0
    own_sandbox.settings(regain_minutes=0)
    assert sender.send(emails("c"), last=True).accepted == 1


def test_an_audience_that_is_being_replaced_is_tried_again(sandbox: MetaSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 1, ADD)
    sandbox.fault("users", "busy")
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert verdict.after == 600.0


def test_a_row_that_spoils_the_request_is_told_from_a_request_that_is_wrong(
    sandbox: MetaSandbox,
) -> None:
    sender = platform(sandbox.url).sender(MEMO, 3, ADD)
    sandbox.fault("users", "bad_row", times=-1, data={"value": sha("b").hex()})
    for part in (emails("a", "b"), emails("b")):
        with pytest.raises(RowsRejected, match=r"^Meta: entry refused$"):
            sender.send(part, last=False)
    assert sender.send(emails("a"), last=True) == taken(1)
    error = {"code": 100, "message": "(#100) Param payload.schema has an unknown key"}
    assert isinstance(verdict_of(400, {}, error), Fatal)


def test_invalid_entries_that_cannot_be_told_apart_are_counted_only(sandbox: MetaSandbox) -> None:
    sender = platform(sandbox.url).sender(MEMO, 4, ADD)
    sandbox.fault("users", "invalid_entries", data={"every": 4})
    assert sender.send(emails("a", "b", "c", "b"), last=True) == taken(3, 1)


@pytest.mark.parametrize(
    ("samples", "places"),
    [
        (["v1", "nobody"], [1]),
        ({"v0": "why", '["v2"]': "why"}, [0, 2]),
        ([["v1", ["LDU"]]], [1]),
        (["[no JSON", 7, None, [], [4]], []),
        (None, []),
        ([], []),
    ],
)
def test_samples_in_any_form(samples: Any, places: list[int]) -> None:
    payload = Payload.of(chunk(external_id=["v0", "v1", "v2"]), {})
    assert payload.places(samples) == places


def test_a_chunk_whose_answer_was_lost_is_sent_again_and_counts_once(
    sandbox: MetaSandbox,
) -> None:
    sender = platform(sandbox.url).sender(MEMO, 5, ADD)
    assert sender.send(emails("a", "b"), last=False) == taken(2)
    sandbox.fault("users", "drop_after")
    assert isinstance(refused(lambda: sender.send(emails("c", "d"), last=False)), Retryable)
    sandbox.fault("users", "invalid_entries", data={"every": 2})
    assert sender.send(emails("c", "d"), last=False) == taken(1, 1, {1})
    assert sender.send(emails("e"), last=True) == taken(1)
    members = sandbox.members(AUDIENCE)
    assert sorted(members) == sorted(keys("a", "b", "c", "d", "e"))
    counts = [
        (one["batches"], one["received"], one["last_batch_seen"]) for one in sessions(sandbox)
    ]
    assert counts == [([1, 2], 4, False), ([1, 2], 3, True)]


def test_batches_side_by_side_do_not_mix_their_counts(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox.url)

    def batch(number: int) -> list[Sent]:
        sender = lane.sender(MEMO, 12, ADD)
        parts = [chunk(email=[f"{number}.{part}", f"{number}.{part}+", None]) for part in range(4)]
        return [sender.send(part, last=part is parts[-1]) for part in parts]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(batch, range(16)))
    assert answers == [[taken(2, 1, {2})] * 4] * 16
    assert sandbox.count(AUDIENCE) == 16 * 4 * 2
    assert len(sessions(sandbox)) == 16


@pytest.mark.parametrize("mode", ["add", "remove", "mirror"])
def test_members_stay_whatever_became_of_the_lane(sandbox: MetaSandbox, mode: str) -> None:
    lane = platform(sandbox.url, mode=mode)
    lane.sender(MEMO, 1, ADD).send(emails("a"), last=True)
    for end in (LaneEnd(1, "It broke.", cancelled=False), LaneEnd(1, None, cancelled=True)):
        assert lane.close(MEMO, end) == LaneOutcome(details=MEMO)
    assert lane.close({}, LaneEnd(0, None, cancelled=False)) == LaneOutcome()
    assert set(sandbox.members(AUDIENCE)) == keys("a")


def test_the_check_signs_in(sandbox: MetaSandbox) -> None:
    def check(of: MetaConnection) -> str:
        return platforms.check("meta", of)

    said = "Meta accepts the access token (Graph API v26.0)."
    assert check(connection(sandbox.url)) == said
    assert check(connection(sandbox.url + "/", app_id="1", app_secret=SECRET)) == said
    bad_token = refused(lambda: check(connection(sandbox.url, access_token="bad")))
    bad_proof = refused(lambda: check(connection(sandbox.url, app_secret="another")))
    assert isinstance(bad_token, Fatal)
    assert isinstance(bad_proof, Fatal)
    assert "get a new one" in str(bad_token)


def test_a_server_that_never_answers(sandbox: MetaSandbox) -> None:
    target = Target(Graph(connection(sandbox.url), 0.2), f"{AUDIENCE}/users", None)
    sender = MetaSender(target, 1, remove=False)
    sandbox.fault("users", "hang")
    verdict = refused(lambda: sender.send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert "did not answer in time" in str(verdict)


def test_a_server_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    verdict = refused(lambda: platform(url).sender(MEMO, 1, ADD).send(emails("a"), last=True))
    assert type(verdict) is Retryable
    assert type(refused(lambda: platforms.check("meta", connection("no address")))) is Fatal


def test_the_platform_is_found_by_its_kind(sandbox: MetaSandbox) -> None:
    destination = Meta(connection="ads", audience_id=AUDIENCE)
    lane = platforms.platform("meta", connection(sandbox.url), destination, Context(7.0))
    assert lane.sender(lane.prepare({}, ADD), 1, ADD).send(emails("a"), last=True) == taken(1)
    assert lane.validate(emails("a"), ADD) is None


def test_every_request_proves_that_it_comes_from_the_app(sandbox: MetaSandbox) -> None:
    def members_sent(secret: str) -> Sent:
        lane = MetaPlatform(
            connection(sandbox.url, app_id="1", app_secret=secret),
            Meta(connection="ads", audience_id=AUDIENCE),
        )
        return lane.sender(MEMO, 1, ADD).send(emails("a"), last=True)

    assert members_sent(SECRET) == taken(1)
    assert isinstance(refused(lambda: members_sent("another")), Fatal)
