"""The HTTP platform against an endpoint that checks signatures and digests, over a real socket."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from penstock.connections import HttpConnection
from penstock.contract import Http, LaneOutcome
from sandbox.servers import EndpointSandbox
from sandbox.servers.process import free_port
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload import platforms
from services.upload.platform import Context, LaneEnd, Lot, Sent
from services.upload.platforms.http import HttpPlatform

SECRET, TOKEN = "secret-of-the-tests", "bearer-of-the-tests"
ADD = Lot("add")
CONTEXT = Context(job_id="job-1", job_name="Nächtlich\n2", lane="crm", seq=7)
WELL = LaneEnd(3, None, cancelled=False)


def rows(*names: str | None, first: int = 0) -> pa.RecordBatch:
    places = pa.array(range(first, first + len(names)), pa.uint32())
    ids = pa.array([str(100 + n) for n in range(len(names))])
    return pa.RecordBatch.from_pydict(
        {"id": ids, "name": pa.array(names, pa.string()), "row": places}
    )


def connection(url: str, **more: Any) -> HttpConnection:
    given = {"kind": "http", "url": url, "secret": SECRET, "bearer_token": TOKEN, **more}
    return HttpConnection.model_validate(given)


def platform(
    url: str, context: Context = CONTEXT, options: dict[str, str] | None = None, **destination: Any
) -> HttpPlatform:
    wanted = {"kind": "http", "connection": "crm", "options": options or {}, **destination}
    return HttpPlatform(connection(url), Http.model_validate(wanted), context)


def send(lane: HttpPlatform, chunk: pa.RecordBatch) -> Sent:
    return lane.sender({}, chunk.num_rows, ADD).send(chunk, last=True)


def refused(work: Callable[[], Any]) -> Verdict:
    """What is raised, which must hold neither a secret nor a row."""
    with pytest.raises(Verdict) as caught:
        work()
    verdict = caught.value
    assert verdict.__context__ is None or verdict.__suppress_context__
    for secret in (SECRET, TOKEN, "in-the-query", "Ann"):
        assert secret not in str(verdict)
    return verdict


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointSandbox]:
    arguments = ("--secret", SECRET)
    with EndpointSandbox(tmp_path_factory.mktemp("endpoint"), arguments=arguments) as started:
        yield started


@pytest.fixture
def sandbox(server: EndpointSandbox) -> EndpointSandbox:
    server.reset()
    server.settings(rejected={}, refused=[])
    return server


@pytest.mark.parametrize("encoding", ["json", "arrow"])
def test_rows_arrive_once_with_all_that_is_known_of_them(
    sandbox: EndpointSandbox, encoding: str
) -> None:
    lane = platform(sandbox.url, options={"table": "customers"}, encoding=encoding)
    assert lane.prepare({}, ADD) == {}
    batch = rows("Ann", None, "Zoë")
    # A slice starts in the middle of its buffers.
    assert send(lane, batch.slice(0, 1)) == Sent(1)
    assert send(lane, batch.slice(1)) == Sent(2)
    assert sandbox.members("crm") == ['["100","Ann"]', '["101",null]', '["102","Zoë"]']
    state = sandbox.state()["crm"]
    assert state["columns"] == ["penstock_row", "id", "name"]
    assert state["last"] == {
        "v": 1,
        "event": "batch",
        "key": "job-1/crm/7/1-2",
        "job_id": "job-1",
        "job_name": "Nächtlich\n2",
        "lane": "crm",
        "seq": 7,
        "options": {"table": "customers"},
    }


@pytest.mark.parametrize("encoding", ["json", "arrow"])
def test_digests_are_hex_in_json_and_bytes_in_arrow(
    sandbox: EndpointSandbox, encoding: str
) -> None:
    digest = hashlib.sha256(b"a").digest()
    chunk = pa.RecordBatch.from_pydict(
        {
            "email": pa.array([digest, None], pa.binary(32)),
            "row": pa.array([3, 9], pa.uint32()),
            "consent": pa.array([4, 0], pa.uint8()),
        }
    )
    send(platform(sandbox.url, form="google", encoding=encoding), chunk)
    assert [orjson.loads(x) for x in sandbox.members("crm")] == [[digest.hex(), 4], [None, 0]]


@pytest.mark.parametrize("encoding", ["json", "arrow"])
def test_what_is_sent_again_is_known_again(sandbox: EndpointSandbox, encoding: str) -> None:
    """Cut from another batch, by another worker: the same key, and the same bytes."""
    names = [None if n % 3 == 0 else f"name {n}" for n in range(100)]
    whole = rows(*names)
    send(platform(sandbox.url, encoding=encoding), whole.slice(5, 50))
    behind = whole.filter(pa.array([n > 4 for n in range(100)]))
    send(platform(sandbox.url, encoding=encoding), behind.slice(0, 50))
    state = sandbox.state()["crm"]
    assert (state["batches"], state["repeated"], state["replaced"]) == (1, 1, 0)
    assert sandbox.count("crm") == 50


def test_other_rows_under_the_same_key_can_be_told(sandbox: EndpointSandbox) -> None:
    send(platform(sandbox.url), rows("Ann", "Bob"))
    send(platform(sandbox.url), rows("Ann", "Cem"))
    assert sandbox.state()["crm"]["replaced"] == 1
    assert sandbox.members("crm") == ['["100","Ann"]', '["101","Cem"]']


def test_keys_tell_batches_lanes_and_halves_apart(sandbox: EndpointSandbox) -> None:
    keys = set()
    for context in (CONTEXT, Context(job_id="job-1", lane="crm", seq=8),
                    Context(job_id="job-2", lane="crm", seq=7)):  # fmt: skip
        for chunk in (rows("Ann", "Bob"), rows("Ann"), rows("Bob", first=1)):
            send(platform(sandbox.url, context), chunk)
            keys.add(sandbox.state()["crm"]["last"]["key"])
    assert len(keys) == 9


def test_a_chunk_whose_answer_was_lost_counts_once(sandbox: EndpointSandbox) -> None:
    sandbox.fault("post", "drop_after")
    lane = platform(sandbox.url)
    assert isinstance(refused(lambda: send(lane, rows("Ann", "Bob"))), Retryable)
    assert send(lane, rows("Ann", "Bob")) == Sent(2)
    assert sandbox.state()["crm"]["repeated"] == 1
    assert sandbox.count("crm") == 2


def test_rejected_rows_are_read_back(sandbox: EndpointSandbox) -> None:
    sandbox.settings(rejected={"Bob": "blocked", "102": "unknown id"})
    assert send(platform(sandbox.url), rows("Ann", "Bob", "Cem", "Bob")) == Sent(
        1,
        {"blocked": 2, "unknown id": 1},
        {1: ("name", "blocked"), 2: ("id", "unknown id"), 3: ("name", "blocked")},
    )
    assert sandbox.members("crm") == ['["100","Ann"]']


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ("", Sent(2)),
        ("{}", Sent(2)),
        ('{"rejected": null}', Sent(2)),
        ('{"rejected": [{"row": 1}]}', Sent(1, {"rejected without a reason": 1},
                                            {1: ("", "rejected without a reason")})),
        ('{"rejected": [{"row": 0, "field": "row", "reason": "a\\n\\u0000 b"}]}',
         Sent(1, {"a b": 1}, {0: ("", "a b")})),
        (f'{{"rejected": [{{"row": 0, "reason": "{"x" * 300}"}}]}}',
         Sent(1, {"x" * 200: 1}, {0: ("", "x" * 200)})),
        ('{"rejected": [{"row": 0, "reason": "a"}, {"row": 0, "reason": "b"}]}',
         Sent(1, {"a": 1}, {0: ("", "a")})),
    ],
)  # fmt: skip
def test_what_a_success_may_say(sandbox: EndpointSandbox, body: str, sent: Sent) -> None:
    sandbox.fault("post", "answer", data={"body": body})
    assert send(platform(sandbox.url), rows("Ann", "Bob")) == sent


def test_reasons_are_for_counting(sandbox: EndpointSandbox) -> None:
    refusals = [{"row": n, "reason": f"number {n}"} for n in range(30)]
    sandbox.fault("post", "answer", data={"body": orjson.dumps({"rejected": refusals}).decode()})
    sent = send(platform(sandbox.url), rows(*["Ann"] * 40))
    assert sent.accepted == 10
    assert sent.rejected["rejected for other reasons"] == 10
    assert sum(sent.rejected.values()) == len(sent.rows) == 30
    assert len(sent.rejected) == 21
    assert sent.rows[29] == ("", "number 29")


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        ("<html>Log in</html>", Retryable, "JSON object"),
        ("OK", Retryable, "JSON object"),
        ("[]", Retryable, "JSON object"),
        ('{"rejected": {"0": "x"}}', Fatal, "not a list"),
        ('{"rejected": [{"row": 2, "reason": "x"}]}', Fatal, "not given"),
        ('{"rejected": [{"row": -1, "reason": "x"}]}', Fatal, "not given"),
        ('{"rejected": [{"reason": "x"}]}', Fatal, "without saying which"),
        ('{"rejected": [{"row": "0", "reason": "x"}]}', Fatal, "without saying which"),
        ('{"rejected": [7]}', Fatal, "without saying which"),
    ],
)
def test_what_a_success_must_not_say(
    sandbox: EndpointSandbox, body: str, kind: type[Verdict], told: str
) -> None:
    sandbox.fault("post", "answer", data={"body": body})
    verdict = refused(lambda: send(platform(sandbox.url), rows("Ann", "Bob")))
    assert type(verdict) is kind
    assert told in verdict.reason


def test_an_endless_answer_is_left(sandbox: EndpointSandbox) -> None:
    sandbox.fault("post", "endless")
    verdict = refused(lambda: send(platform(sandbox.url), rows("Ann")))
    assert type(verdict) is Fatal
    assert "longer than 8 MB" in verdict.reason


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (302, Fatal, "redirects"),
        (308, Fatal, "redirects"),
        (400, Fatal, "HTTP 400"),
        (401, Fatal, "`bearer_token`"),
        (403, Fatal, "`secret`"),
        (404, Fatal, "`url`"),
        (405, Fatal, "no POST"),
        (408, Retryable, "HTTP 408"),
        (409, Retryable, "HTTP 409"),
        (410, Fatal, "`url`"),
        (413, RowsRejected, "HTTP 413"),
        (415, Fatal, "`encoding`"),
        (422, RowsRejected, "HTTP 422"),
        (425, Retryable, "HTTP 425"),
        (451, Fatal, "HTTP 451"),
        (500, Retryable, "HTTP 500"),
        (503, Retryable, "HTTP 503"),
    ],
)
def test_each_status_has_its_verdict(
    sandbox: EndpointSandbox, status: int, kind: type[Verdict], told: str
) -> None:
    headers = {"Location": sandbox.url} if status < 400 else {}
    body = "Ann is not wanted here"
    sandbox.fault("post", "status", data={"status": status, "headers": headers, "body": body})
    verdict = refused(lambda: send(platform(sandbox.url), rows("Ann")))
    assert type(verdict) is kind
    assert told in verdict.reason
    if isinstance(verdict, Retryable):
        assert (verdict.throttled, verdict.after) == (False, None)
    # A redirect that is followed would have come as a second call.
    assert sandbox.calls()["post"] == {"ok": 0, "err": 1, "errors": {"status": 1}}
    assert send(platform(sandbox.url), rows("Ann")) == Sent(1)


@pytest.mark.parametrize(
    ("status", "told", "after"),
    [(429, "7", 7), (429, "0", 1), (429, "soon", 60), (429, None, 60), (503, "9", 9),
     (503, "999999", 86_400)],
)  # fmt: skip
def test_being_told_to_slow_down(
    sandbox: EndpointSandbox, status: int, told: str | None, after: float
) -> None:
    headers = {} if told is None else {"Retry-After": told}
    sandbox.fault("post", "status", data={"status": status, "headers": headers})
    verdict = refused(lambda: send(platform(sandbox.url), rows("Ann")))
    assert isinstance(verdict, Retryable)
    assert (verdict.throttled, verdict.after) == (True, after)


def test_a_wait_may_be_named_as_a_date(sandbox: EndpointSandbox) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    data = {"status": 503, "headers": {"Retry-After": until}}
    sandbox.fault("post", "status", data=data)
    verdict = refused(lambda: send(platform(sandbox.url), rows("Ann")))
    assert isinstance(verdict, Retryable)
    assert verdict.throttled
    assert verdict.after is not None
    assert 3_000 < verdict.after <= 3_600


def test_an_endpoint_that_does_not_answer(sandbox: EndpointSandbox) -> None:
    wanted = Http.model_validate({"kind": "http", "connection": "crm"})
    hasty = HttpPlatform(connection(sandbox.url, timeout_seconds=0.2), wanted, CONTEXT)
    sandbox.fault("post", "hang")
    late = refused(lambda: send(hasty, rows("Ann")))
    sandbox.fault("post", "reset")
    cut = refused(lambda: send(platform(sandbox.url), rows("Ann")))
    gone = refused(lambda: send(platform(f"http://127.0.0.1:{free_port()}/"), rows("Ann")))
    assert "in time" in late.reason
    assert all("could not be reached" in verdict.reason for verdict in (cut, gone))
    assert all(type(verdict) is Retryable for verdict in (late, cut, gone))


def test_a_wrong_secret_is_found_out(sandbox: EndpointSandbox) -> None:
    wanted = Http.model_validate({"kind": "http", "connection": "crm"})
    for secret in ("another", None):
        lane = HttpPlatform(connection(sandbox.url, secret=secret), wanted, CONTEXT)
        verdict = refused(lambda lane=lane: send(lane, rows("Ann")))
        assert type(verdict) is Fatal
        assert "`secret`" in verdict.reason
    assert sandbox.state() == {}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host/x",
        "https://",
        "host/path",
        "http://h:99999/",
        "http://[::1/",
        "http://a..b/",
        f"http://{'x' * 64}.example/",
    ],
)
def test_an_address_that_is_none(url: str) -> None:
    verdict = refused(lambda: platform(url))
    assert type(verdict) is Fatal
    assert "not the address of a web server" in verdict.reason


def test_a_user_in_the_address_is_refused() -> None:
    verdict = refused(lambda: platform(f"https://user:{TOKEN}@crm.example/"))
    assert type(verdict) is Fatal
    assert "bearer_token" in verdict.reason


def test_a_token_that_no_header_can_carry(sandbox: EndpointSandbox) -> None:
    wanted = Http.model_validate({"kind": "http", "connection": "crm"})
    for token in (f"{TOKEN}\nX: y", f"{TOKEN}\u20ac", ""):
        own = connection(sandbox.url, bearer_token=token)
        verdict = refused(lambda own=own: HttpPlatform(own, wanted, CONTEXT))
        assert type(verdict) is Fatal
        assert "`bearer_token`" in verdict.reason


def test_the_token_goes_before_a_password_file(
    sandbox: EndpointSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests would send the password of a netrc in place of the token."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password stranger\n")
    monkeypatch.setenv("NETRC", str(netrc))
    send(platform(sandbox.url), rows("Ann"))
    assert sandbox.state()["crm"]["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (WELL, "closed"),
        (LaneEnd(1, "It broke.", cancelled=False), "failed"),
        (LaneEnd(2, None, cancelled=True), "cancelled"),
    ],
)
def test_the_endpoint_is_told_of_the_end_once(
    sandbox: EndpointSandbox, end: LaneEnd, event: str
) -> None:
    lane = platform(sandbox.url, Context(job_id="job-1", lane="crm"), encoding="arrow")
    for _ in range(2):
        assert lane.close({}, end) == LaneOutcome()
    (told,) = sandbox.state()["crm"]["ends"]
    assert told["key"] == f"job-1/crm/{event}"
    assert (told["event"], told["accepted"], told["error"]) == (event, end.accepted, end.error)


def test_an_end_that_went_well_must_be_heard(sandbox: EndpointSandbox) -> None:
    lane = platform(sandbox.url)
    for status, kind in ((500, Retryable), (422, Fatal), (400, Fatal)):
        sandbox.fault("post", "status", data={"status": status})
        assert type(refused(lambda: lane.close({}, WELL))) is kind
    assert lane.close({}, WELL) == LaneOutcome()


def test_an_end_that_went_badly_waits_for_nobody() -> None:
    lane = platform(f"http://127.0.0.1:{free_port()}/")
    for end in (LaneEnd(1, "It broke.", cancelled=False), LaneEnd(1, None, cancelled=True)):
        assert lane.close({}, end).details == {"end": "the endpoint was not told"}


def test_what_is_shown_of_it(sandbox: EndpointSandbox) -> None:
    lane = platform(sandbox.url, max_rows=123)
    host = f"127.0.0.1:{sandbox.port}"
    assert lane.look() == {"endpoint": host}
    assert lane.account == f"http/{host}"
    assert lane.limits.rows == lane.limits.bytes // lane.row_bytes(["a"] * 50) == 123
    assert lane.validate(rows("Ann"), ADD) is None
    assert platforms.check("http", connection(sandbox.url)) == f"{host} takes connections."
    assert sandbox.calls() == {}


def test_the_check_of_what_is_not_there(sandbox: EndpointSandbox) -> None:
    port = free_port()
    gone = refused(lambda: platforms.check("http", connection(f"http://127.0.0.1:{port}/")))
    assert gone.reason == f"127.0.0.1:{port} cannot be reached from here."
    # It speaks no TLS.
    url = sandbox.url.replace("http:", "https:")
    plain = refused(lambda: platforms.check("http", connection(url)))
    assert "TLS failed" in plain.reason
    assert "TLS failed" in refused(lambda: send(platform(url), rows("Ann"))).reason


def test_the_signature_is_what_the_docs_say(sandbox: EndpointSandbox) -> None:
    """The endpoint of the docs' page takes it, and nothing that was changed on the way."""
    page = Path(__file__).resolve().parents[2] / "docs/howto/destination-of-your-own.md"
    (code,) = re.findall(r"```python\n(import hashlib.*?)```", page.read_text(), re.DOTALL)
    body, known = b'{"v": 1}', {}
    exec(code, known)
    lane = platform(sandbox.url)
    headers = lane._endpoint._headers(body, "key")
    assert known["is_ours"](SECRET.encode(), headers["X-Penstock-Signature"], body)
    for other in (body + b" ", b""):
        assert not known["is_ours"](SECRET.encode(), headers["X-Penstock-Signature"], other)
    old = re.sub(r"t=\d+", "t=1", headers["X-Penstock-Signature"])
    assert not known["is_ours"](SECRET.encode(), old, body)
    assert not known["is_ours"](SECRET.encode(), "", body)
