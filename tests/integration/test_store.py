"""The object store against two real servers, a proxy that breaks connections, and a server that
answers what no well-behaved one can be made to say."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, urlsplit

import pytest

from penstock.connections import S3Connection
from sandbox.proxy import Proxy
from sandbox.servers import free_port
from services.export.store import S3Store, UploadGone, check
from services.export.store_client import clients
from services.runtime.verdicts import Fatal, Retryable

MIB = 1024 * 1024
PATIENCE = 60.0
SECRET = "a-secret-that-nobody-may-read"
_number = count(1)


def connection(server, url: str | None = None, **other) -> S3Connection:
    values = {
        "kind": "s3",
        "region": "us-east-1",
        "endpoint_url": url or server.endpoint_url,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    return S3Connection.model_validate(values | other)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(url: str) -> tuple[bytes, Message]:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read(), answer.headers


@pytest.fixture(params=["s3_server", "moto_server"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(request) -> str:
    """In whichever server the test asks for."""
    names = [n for n in ("server", "s3_server", "moto_server") if n in request.fixturenames]
    return request.getfixturevalue(names[0]).create_bucket(f"store-{next(_number)}")


@pytest.fixture
def store(server) -> S3Store:
    return S3Store(connection(server))


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with Proxy(f"127.0.0.1:{server.port}") as proxy:
        yield proxy


@pytest.fixture
def proxied(server, proxy) -> S3Store:
    return S3Store(connection(server, f"http://{proxy.url_host}"))


# --- What an export does


def test_parts_sent_out_of_order_become_the_object_and_its_link(store, bucket):
    data = os.urandom(10 * MIB + 12_345)
    pieces = {n: data[(n - 1) * 5 * MIB : n * 5 * MIB] for n in (1, 2, 3)}
    upload = store.begin(
        bucket,
        "dir/file ü.csv.gz",
        content_type="text/csv",
        content_encoding="gzip",
        disposition='attachment; filename="file.csv.gz"',
    )
    where = (bucket, "dir/file ü.csv.gz")
    etags = {n: store.put_part(*where, upload, n, memoryview(pieces[n])) for n in (3, 1)}
    etags[2] = store.put_part(*where, upload, 2, pieces[2])
    assert store.size(*where) is None
    assert store.parts(*where, upload) == etags
    store.complete(*where, upload, etags)

    blocks = []
    assert store.size(*where) == len(data)
    assert store.digest(*where, lambda: blocks.append(1)) == (len(data), sha(data))
    assert len(blocks) >= 11

    before = datetime.now(UTC) - timedelta(seconds=1)
    url, ends = store.link(*where, 600)
    assert before <= datetime.fromisoformat(ends) - timedelta(seconds=600) <= datetime.now(UTC)
    assert datetime.fromisoformat(ends).utcoffset() == timedelta(0)
    content, headers = fetch(url)
    assert content == data
    assert headers["Content-Type"] == "text/csv"
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Disposition"] == 'attachment; filename="file.csv.gz"'


def test_a_link_ends(s3_server, bucket):
    store = S3Store(connection(s3_server))
    store.put(bucket, "k", b"content", content_type="text/plain")
    url, ends = store.link(bucket, "k", 4)
    assert fetch(url)[0] == b"content"

    def fetch_until_it_ends() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            fetch(url)
            time.sleep(0.2)

    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch_until_it_ends()
    assert caught.value.code in (400, 403)
    caught.value.close()
    assert datetime.now(UTC) >= datetime.fromisoformat(ends)


@pytest.mark.parametrize("body", [b"", b"small", memoryview(b"a view")], ids=["0", "bytes", "view"])
def test_one_small_object(store, bucket, body):
    store.put(bucket, "k", body, content_type="text/plain", disposition="inline")
    assert store.size(bucket, "k") == len(body)
    assert store.digest(bucket, "k") == (len(body), sha(bytes(body)))
    content, headers = fetch(store.link(bucket, "k", 60)[0])
    assert (content, headers["Content-Disposition"]) == (bytes(body), "inline")


def test_more_parts_than_a_page_from_many_threads(store, bucket):
    upload = store.begin(bucket, "k", content_type="text/plain")
    numbers = range(1, 1_004)
    with ThreadPoolExecutor(8) as pool:
        etags = pool.map(lambda n: store.put_part(bucket, "k", upload, n, b"%d" % n), numbers)
    assert store.parts(bucket, "k", upload) == dict(zip(numbers, etags, strict=True))
    store.abort(bucket, "k", upload)


def test_an_abort_leaves_nothing_and_may_come_twice(server, store, bucket):
    upload = store.begin(bucket, "k", content_type="text/plain")
    store.put_part(bucket, "k", upload, 1, b"part")
    store.abort(bucket, "k", upload)
    store.abort(bucket, "k", upload)
    with pytest.raises(UploadGone):
        store.parts(bucket, "k", upload)
    assert store.size(bucket, "k") is None
    client = server.client()
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert not client.list_objects_v2(Bucket=bucket).get("Contents")
    client.close()


def test_equal_connections_share_a_client_and_a_child_gets_its_own(s3_server, bucket):
    store, same = S3Store(connection(s3_server)), connection(s3_server)
    store.put(bucket, "k", b"content", content_type="text/plain")
    client = clients.of(same)
    assert client is clients.of(connection(s3_server))
    # The lock is held as it may be by another thread at the moment of a fork.
    with clients._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(int(PATIENCE))  # the end of a child that waits for the lock
            other = clients.of(same)
            os._exit(0 if other is not client and store.size(bucket, "k") == 7 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert clients.of(same) is client


# --- What a store refuses


def test_a_wrong_secret_and_a_wrong_key_are_told_apart_and_never_told(s3_server, bucket):
    secret = connection(s3_server, secret_access_key=SECRET)
    for attempt in (
        lambda: S3Store(secret).begin(bucket, "k", content_type="text/plain"),
        lambda: S3Store(secret).put(bucket, "k", b"x", content_type="text/plain"),
        lambda: check(secret),
    ):
        with pytest.raises(Fatal, match="secret access key is wrong") as caught:
            attempt()
        assert SECRET not in str(caught.value)
    with pytest.raises(Fatal, match="does not know the access key") as caught:
        check(connection(s3_server, access_key_id=SECRET))
    assert SECRET not in str(caught.value)
    with pytest.raises(Fatal, match="denies these credentials HeadObject"):
        S3Store(secret).size(bucket, "k")


def test_a_bucket_that_is_not_there(store):
    for attempt in (
        lambda: store.begin("no-such", "k", content_type="text/plain"),
        lambda: store.put("no-such", "k", b"x", content_type="text/plain"),
        lambda: store.digest("no-such", "k"),
        lambda: store.link("no-such", "k", 60),
    ):
        with pytest.raises(Fatal, match="There is no bucket 'no-such'"):
            attempt()
    assert store.size("no-such", "k") is None


def test_an_object_that_is_not_there(store, bucket):
    assert store.size(bucket, "k") is None
    with pytest.raises(Fatal, match="The object is not in bucket"):
        store.digest(bucket, "k")


def test_parts_that_are_too_small(moto_server, bucket):
    store = S3Store(connection(moto_server))
    upload = store.begin(bucket, "k", content_type="text/plain")
    etags = {n: store.put_part(bucket, "k", upload, n, b"small") for n in (1, 2)}
    with pytest.raises(Fatal, match="smaller than the store takes"):
        store.complete(bucket, "k", upload, etags)


def test_an_etag_that_is_stale(store, bucket):
    upload = store.begin(bucket, "k", content_type="text/plain")
    store.put_part(bucket, "k", upload, 1, b"part")
    with pytest.raises(UploadGone, match="does not have a part"):
        store.complete(bucket, "k", upload, {1: f'"{"0" * 32}"'})


def test_an_upload_that_was_completed_before(s3_server, bucket):
    store = S3Store(connection(s3_server))
    upload = store.begin(bucket, "k", content_type="text/plain")
    etags = {1: store.put_part(bucket, "k", upload, 1, b"part")}
    store.complete(bucket, "k", upload, etags)
    for attempt in (
        lambda: store.complete(bucket, "k", upload, etags),
        lambda: store.put_part(bucket, "k", upload, 2, b"part"),
        lambda: store.parts(bucket, "k", upload),
    ):
        with pytest.raises(UploadGone, match="no longer there"):
            attempt()
    assert store.size(bucket, "k") == 4


@pytest.mark.parametrize("name", ["not a name!", "", "x" * 300])
def test_a_bucket_that_cannot_be(s3_server, name):
    with pytest.raises(Fatal, match="`bucket` or `key`"):
        S3Store(connection(s3_server)).put(name, "k", b"x", content_type="text/plain")


@pytest.mark.parametrize("url", ["localhost:9000", "http://", "not a url"])
def test_an_endpoint_that_cannot_be(s3_server, url):
    with pytest.raises(Fatal, match="`endpoint_url` of the connection is not valid"):
        check(connection(s3_server, url))


def test_tls_where_there_is_none(s3_server):
    with pytest.raises(Fatal, match="does not speak TLS"):
        check(connection(s3_server, f"https://127.0.0.1:{s3_server.port}"))


def test_nobody_at_the_endpoint(s3_server):
    with pytest.raises(Retryable, match="cannot be reached"):
        check(connection(s3_server, f"http://127.0.0.1:{free_port()}"))


@pytest.mark.usefixtures("bucket")
def test_doctor_counts_buckets(server):
    assert check(connection(server)).startswith("Signed in; ")


# --- Credentials


@pytest.fixture
def no_aws(monkeypatch, tmp_path):
    """boto3 finds nothing by itself, but for what the test writes to this file."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "aws-config"
    config.touch()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return config


@pytest.mark.usefixtures("no_aws")
def test_credentials_that_come_later_are_found(s3_server, monkeypatch):
    url = f"http://localhost:{s3_server.port}"
    found = connection(s3_server, url, access_key_id=None, secret_access_key=None)
    with pytest.raises(Fatal, match="no credentials"):
        check(found)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    assert check(found).startswith("Signed in")


@pytest.mark.parametrize("missing", ["access_key_id", "secret_access_key"])
def test_half_of_the_credentials(s3_server, missing):
    with pytest.raises(Fatal, match="belong together"):
        check(connection(s3_server, **{missing: None}))


@pytest.mark.usefixtures("no_aws")
def test_a_profile_that_is_not_there(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    url = f"http://localhost:{s3_server.port}/profile"
    with pytest.raises(Fatal, match="ProfileNotFound"):
        check(connection(s3_server, url, access_key_id=None, secret_access_key=None))


def test_a_link_ends_with_the_credentials_that_signed_it(s3_server, bucket, no_aws, tmp_path):
    S3Store(connection(s3_server)).put(bucket, "k", b"content", content_type="text/plain")
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=40)
    (tmp_path / "credentials.json").write_text(
        json.dumps(
            {
                "Version": 1,
                "AccessKeyId": s3_server.access_key,
                "SecretAccessKey": s3_server.secret_key,
                "Expiration": end.isoformat(),
            }
        )
    )
    no_aws.write_text(f"[default]\ncredential_process = cat {tmp_path}/credentials.json\n")
    url = f"http://localhost:{s3_server.port}"
    mortal = connection(s3_server, url, access_key_id=None, secret_access_key=None, region=None)
    link, ends = S3Store(mortal).link(bucket, "k", 7 * 86400)
    assert end - timedelta(minutes=5) < datetime.fromisoformat(ends) <= end
    assert fetch(link)[0] == b"content"


def test_links_to_aws_name_the_region_and_keep_dots_out_of_the_host():
    aws = S3Connection.model_validate(
        {"kind": "s3", "region": "eu-central-1", "access_key_id": "AK", "secret_access_key": "SK"}
    )
    client = clients.of(aws).s3
    hosts = [
        urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": b, "Key": "k"}))
        for b in ("bucket", "with.dots")
    ]
    assert [h.hostname for h in hosts] == [
        "bucket.s3.eu-central-1.amazonaws.com",
        "s3.eu-central-1.amazonaws.com",
    ]


# --- Connections that break


@pytest.mark.parametrize("view", [False, True], ids=["bytes", "view"])
def test_what_is_sent_survives_a_connection_that_is_cut(proxied, proxy, bucket, view):
    data = os.urandom(6 * MIB)
    proxy.cut_after("to_server", 2 * MIB)
    proxied.put(bucket, "k", memoryview(data) if view else data, content_type="text/plain")
    assert proxy._rules["to_server"].cut_after is None
    upload = proxied.begin(bucket, "parts", content_type="text/plain")
    proxy.cut_after("to_server", 2 * MIB)
    etag = proxied.put_part(bucket, "parts", upload, 1, memoryview(data) if view else data)
    assert proxy._rules["to_server"].cut_after is None
    proxied.complete(bucket, "parts", upload, {1: etag})
    for key in ("k", "parts"):
        assert proxied.digest(bucket, key) == (len(data), sha(data))


def test_what_is_sent_survives_a_reset(proxied, proxy, bucket):
    data = os.urandom(2 * MIB)
    proxied.size(bucket, "k")
    proxy.stall("to_client")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(proxied.put, bucket, "k", data, content_type="text/plain")
        deadline = time.monotonic() + PATIENCE
        while not any(p.held for link in proxy._links for p in link.pipes):
            assert time.monotonic() < deadline, "nothing is on its way"
            time.sleep(0.02)
        proxy.reset()
        proxy.release()
        sent.result(PATIENCE)
    assert proxied.digest(bucket, "k") == (len(data), sha(data))


def test_a_store_that_is_away_is_worth_another_attempt(proxied, proxy, bucket):
    proxy.refuse(True)
    with pytest.raises(Retryable, match="cannot be reached"):
        proxied.put(bucket, "k", b"x", content_type="text/plain")
    proxy.refuse(False)
    proxied.put(bucket, "k", b"x", content_type="text/plain")


def test_a_digest_goes_on_where_the_connection_was_cut(proxied, proxy, bucket):
    data = os.urandom(12 * MIB)
    proxied.put(bucket, "k", data, content_type="text/plain")
    proxy.cut_after("to_client", 1_500_000)
    cuts = []

    def on_block() -> None:
        if proxy._rules["to_client"].cut_after is None and len(cuts) < 5:
            cuts.append(1)
            proxy.cut_after("to_client", 700_000 * len(cuts))

    assert proxied.digest(bucket, "k", on_block) == (len(data), sha(data))
    assert len(cuts) == 5


def test_an_object_that_changes_while_it_is_read(store, proxied, proxy, bucket):
    store.put(bucket, "k", os.urandom(48 * MIB), content_type="text/plain")

    def on_block() -> None:
        if not changed:
            changed.append(1)
            proxy.cut_after("to_client", 1)
            store.put(bucket, "k", os.urandom(48 * MIB), content_type="text/plain")

    changed: list[int] = []
    with pytest.raises(Retryable, match="changed while it was read"):
        proxied.digest(bucket, "k", on_block)


def test_what_on_block_raises_ends_the_reading_as_it_is(store, bucket):
    store.put(bucket, "k", os.urandom(3 * MIB), content_type="text/plain")

    class LeaseLostError(ConnectionError):
        pass

    def on_block() -> None:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        store.digest(bucket, "k", on_block)
    assert store.digest(bucket, "k")[0] == 3 * MIB


# --- Answers that no well-behaved server can be made to give


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: Close the connection after so many bytes of the body.
    cut: int | None = None


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]


class Scripted(ThreadingHTTPServer):
    """Gives its answers in order, and the last one for ever."""

    daemon_threads = True
    access_key, secret_key = "AKSCRIPTED", SECRET

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.answers: list[Answer] = []
        self.asked: list[Asked] = []
        self.turn = threading.Lock()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _ScriptedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that was cut off hangs up as it likes
            super().handle()

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.turn:
            self.server.asked.append(Asked(self.command, self.path, dict(self.headers)))
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.cut])
        self.close_connection = self.close_connection or answer.cut is not None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def refusal(status: int, code: str, **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>quotes {SECRET} and a row</Message></Error>"
    return Answer(status, body.encode(), {k.replace("_", "-"): v for k, v in headers.items()})


COMPLETED = Answer(
    body=b'<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (refusal(403, "AccessDenied"), Fatal, r"denies .* in bucket 'b'; they need s3:PutObject"),
        (refusal(400, "ExpiredToken"), Fatal, "session token has expired"),
        (refusal(400, "AuthorizationHeaderMalformed"), Fatal, "`region` is wrong"),
        (refusal(400, "SomethingNew"), Fatal, r"refused UploadPart \(400 SomethingNew\)"),
        (refusal(501, "NotImplemented"), Fatal, "does not offer"),
        (refusal(400, f"odd code {SECRET}"), Fatal, r"\(400 no code\)"),
        (refusal(404, "NoSuchUpload"), UploadGone, "completed, aborted or expired"),
        (refusal(400, "BadDigest"), Retryable, "not what was sent"),
        (refusal(403, "RequestTimeTooSkewed"), Retryable, "clocks"),
        (refusal(500, "InternalError"), Retryable, r"failed at UploadPart \(500 InternalError\)"),
    ],
)
def test_what_a_refusal_means(scripted, answer, kind, text):
    scripted.answers = [answer]
    with pytest.raises(kind, match=text) as caught:
        S3Store(connection(scripted)).put_part("b", "k", "u", 1, b"part")
    assert SECRET not in str(caught.value)
    assert not (kind is Retryable and caught.value.throttled)


def test_a_store_that_asks_to_slow_down(scripted):
    scripted.answers = [refusal(503, "SlowDown", Retry_After="17")]
    with pytest.raises(Retryable) as caught:
        S3Store(connection(scripted)).put("b", "k", b"x", content_type="text/plain")
    assert (caught.value.throttled, caught.value.after) == (True, 17.0)
    assert len(scripted.asked) == 4


def test_an_error_inside_a_200_is_an_error(scripted):
    scripted.answers = [refusal(200, "InternalError")]
    with pytest.raises(Retryable, match="failed at CompleteMultipartUpload"):
        S3Store(connection(scripted)).complete("b", "k", "u", {1: '"e"'})
    assert len(scripted.asked) == 4


def test_an_error_inside_a_200_is_tried_again(scripted):
    scripted.answers = [refusal(200, "InternalError"), COMPLETED]
    S3Store(connection(scripted)).complete("b", "k", "u", {1: '"e"'})
    assert len(scripted.asked) == 2


@pytest.mark.parametrize("answer", [Answer(body=b""), Answer(body=COMPLETED.body, cut=0)])
def test_an_answer_that_was_lost_is_no_success(scripted, answer):
    scripted.answers = [answer]
    store = S3Store(connection(scripted))
    for attempt in (
        lambda: store.begin("b", "k", content_type="text/plain"),
        lambda: store.put_part("b", "k", "u", 1, b"part"),
        lambda: store.parts("b", "k", "u"),
        lambda: store.complete("b", "k", "u", {1: '"e"'}),
        lambda: store.put("b", "k", b"x", content_type="text/plain"),
    ):
        with pytest.raises(Retryable, match="cut short or garbled"):
            attempt()


@pytest.mark.parametrize(
    "answer", [Answer(body=b"<html><p>a proxy's page"), Answer(body=COMPLETED.body, cut=40)]
)
def test_an_answer_that_is_garbled_is_no_success(scripted, answer):
    scripted.answers = [answer]
    with pytest.raises(Retryable):
        S3Store(connection(scripted)).complete("b", "k", "u", {1: '"e"'})


def test_a_part_carries_its_md5_and_its_etag_is_compared(scripted):
    md5 = hashlib.md5(b"part")
    store = S3Store(connection(scripted))
    scripted.answers = [Answer(headers={"ETag": f'"{md5.hexdigest()}"'})]
    assert store.put_part("b", "k", "u", 1, memoryview(b"part")) == f'"{md5.hexdigest()}"'
    assert scripted.asked[-1].headers["Content-MD5"] == b64encode(md5.digest()).decode()
    assert not [n for n in scripted.asked[-1].headers if "checksum" in n.lower()]

    scripted.answers = [Answer(headers={"ETag": f'"{"0" * 32}"'})]
    for attempt in (
        lambda: store.put_part("b", "k", "u", 1, b"part"),
        lambda: store.put("b", "k", b"part", content_type="text/plain"),
    ):
        with pytest.raises(Retryable, match="not what was sent"):
            attempt()


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"},
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {"ETag": '"opaque"'},
    ],
    ids=["kms", "customer key", "opaque"],
)
def test_an_etag_that_is_no_md5_is_taken_as_it_is(scripted, headers):
    scripted.answers = [Answer(headers=headers)]
    assert S3Store(connection(scripted)).put_part("b", "k", "u", 1, b"part") == headers["ETag"]


def test_a_digest_asks_for_the_rest_of_the_same_object(scripted):
    data, tag = os.urandom(3 * MIB), {"ETag": '"e"'}
    place = {"Content-Range": f"bytes {2 * MIB}-{3 * MIB - 1}/{3 * MIB}"}
    scripted.answers = [
        Answer(200, data, tag, cut=2 * MIB),
        Answer(206, data[2 * MIB :], tag | place),
    ]
    assert S3Store(connection(scripted)).digest("b", "k") == (3 * MIB, sha(data))
    assert "Range" not in scripted.asked[0].headers
    assert scripted.asked[1].headers["Range"] == f"bytes={2 * MIB}-"
    assert scripted.asked[1].headers["If-Match"] == '"e"'


def test_a_digest_with_a_store_that_knows_no_range(scripted):
    data, tag = os.urandom(5 * MIB + 17), {"ETag": '"e"'}
    scripted.answers = [
        Answer(200, data, tag, cut=2 * MIB + 5),
        Answer(200, data, tag, cut=MIB),
        Answer(200, data, tag, cut=4 * MIB - 5),
        Answer(200, data, tag),
    ]
    blocks = []
    digest = S3Store(connection(scripted)).digest("b", "k", lambda: blocks.append(1))
    assert digest == (len(data), sha(data))
    assert len(scripted.asked) == 4
    # The lease is renewed too while the store says again what is known.
    assert len(blocks) >= 3 + 1 + 4 + 6


@pytest.mark.parametrize(
    "second",
    [
        Answer(206, b"x" * MIB, {"ETag": '"e"', "Content-Range": "bytes 9000000-9000001/9000002"}),
        Answer(200, b"x" * 3 * MIB, {"ETag": '"another"'}),
        refusal(412, "PreconditionFailed"),
        refusal(416, "InvalidRange"),
    ],
    ids=["a later range", "another version", "412", "416"],
)
def test_a_digest_never_mixes_objects(scripted, second):
    scripted.answers = [Answer(200, b"x" * 3 * MIB, {"ETag": '"e"'}, cut=MIB), second]
    with pytest.raises(Retryable, match="changed while it was read"):
        S3Store(connection(scripted)).digest("b", "k")
    assert len(scripted.asked) == 2


def test_a_digest_that_gets_nowhere_is_given_up(scripted):
    scripted.answers = [Answer(200, b"x" * MIB, {"ETag": '"e"'}, cut=0)]
    with pytest.raises(Retryable, match="connection to the store broke"):
        S3Store(connection(scripted)).digest("b", "k")
    assert len(scripted.asked) == 5


@pytest.mark.parametrize("status", [200, 403])
def test_a_link_is_signed_for_the_region_that_the_bucket_is_in(scripted, status):
    elsewhere = {"x-amz-bucket-region": "eu-west-1"}
    scripted.answers = [Answer(400, headers=elsewhere), Answer(status, headers=elsewhere)]
    url, _ = S3Store(connection(scripted)).link("b-elsewhere", "k", 60)
    assert "/eu-west-1/" in parse_qs(urlsplit(url).query)["X-Amz-Credential"][0]


def test_doctor_is_content_where_listing_is_forbidden(scripted):
    scripted.answers = [refusal(403, "AccessDenied")]
    assert "may not list buckets" in check(connection(scripted))
    scripted.answers = [refusal(403, "InvalidAccessKeyId")]
    with pytest.raises(Fatal, match="does not know the access key"):
        check(connection(scripted))
