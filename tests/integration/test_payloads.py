"""The claim check on a real Redis."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import PayloadKeyError
from penstock.payloads import EXPIRE_SECONDS, Payload, Payloads
from penstock.payloads import redis_url as for_redis_py
from sandbox.servers import Redis

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(32)).decode()
RAW = b"mary@example.com,Mary\n"


@pytest.fixture(params=[None, KEY], ids=["plain", "sealed"])
def payloads(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Payloads]:
    payloads = Payloads(redis_url, request.param)
    yield payloads
    payloads.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(for_redis_py(redis_url)) as client:
        yield client


def test_what_was_put_is_taken_any_number_of_times(payloads: Payloads) -> None:
    made = {"rows": Payload(RAW, {"form": "csv", "rows": 1}), "meta": Payload(b"")}
    size = payloads.put("job", 2, 7, made)
    assert size > len(RAW)
    for _ in range(2):
        assert payloads.take("job", 2, 7, "rows") == made["rows"]
        assert payloads.take("job", 2, 7, "meta") == made["meta"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(),
    st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text() | st.booleans()),
)
def test_any_bytes_come_back(payloads: Payloads, body: bytes, about: dict[str, object]) -> None:
    payloads.put("job", 1, 1, {"rows": Payload(body, about)})
    assert payloads.take("job", 1, 1, "rows") == Payload(body, about)


def test_each_batch_has_a_place_of_its_own(payloads: Payloads) -> None:
    payloads.put("job", 1, 1, {"rows": Payload(b"a")})
    for where in (("job", 1, 2), ("job", 2, 1), ("job2", 1, 1)):
        assert payloads.take(*where, "rows") is None
    assert payloads.take("job", 1, 1, "meta") is None


def test_a_view_goes_alone_and_the_rest_expires(payloads: Payloads, client: redis.Redis) -> None:
    payloads.put("job", 1, 1, {"rows": Payload(b"a"), "meta": Payload(b"b")})
    payloads.drop("job", 1, 1, "rows")
    payloads.drop("job", 1, 1, "rows")
    assert payloads.take("job", 1, 1, "rows") is None
    assert payloads.take("job", 1, 1, "meta") == Payload(b"b")
    (name,) = client.keys()
    assert 0 < client.ttl(name) <= EXPIRE_SECONDS
    payloads.drop("job", 1, 1, "meta")
    assert client.dbsize() == 0


def test_nothing_to_put_leaves_nothing(payloads: Payloads, client: redis.Redis) -> None:
    assert payloads.put("job", 1, 1, {}) == 0
    assert client.dbsize() == 0


def test_a_job_s_end_clears_its_own_and_no_other_s(payloads: Payloads) -> None:
    for job in ("job", "job.retry1", "my-job", "job-1"):
        for seq in range(600 if job == "job" else 1):
            payloads.put(job, seq % 3, seq, {"rows": Payload(b"a")})
    assert payloads.clear("job") == 600
    assert payloads.clear("job") == 0
    for job in ("job.retry1", "my-job", "job-1"):
        assert payloads.take(job, 0, 0, "rows") == Payload(b"a")


def test_sealed_payloads_cannot_be_read_in_redis(redis_url: str, client: redis.Redis) -> None:
    sealed = Payloads(redis_url, KEY)
    sealed.put("job", 1, 1, {"rows": Payload(RAW, {"rows": 1})})
    sealed.put("job", 1, 2, {"rows": Payload(RAW, {"rows": 1})})
    first, second = (client.hget(f"penstock:payload:job:1:{n}", "rows") for n in (1, 2))
    assert b"mary" not in first + second  # type: ignore[operator] # redis-py types async answers in
    assert first != second
    with pytest.raises(PayloadKeyError, match="another PENSTOCK_PAYLOAD_KEY"):
        Payloads(redis_url, OTHER_KEY).take("job", 1, 1, "rows")
    with pytest.raises(PayloadKeyError, match="this worker has no key"):
        Payloads(redis_url).take("job", 1, 1, "rows")


def test_a_sealed_payload_opens_only_in_its_place(redis_url: str, client: redis.Redis) -> None:
    sealed = Payloads(redis_url, KEY)
    sealed.put("job", 1, 1, {"rows": Payload(RAW)})
    client.copy("penstock:payload:job:1:1", "penstock:payload:job:1:2")
    with pytest.raises(PayloadKeyError):
        sealed.take("job", 1, 2, "rows")


@pytest.mark.parametrize("data", [b"nonsense and more", b"PSTK\x09\x00\x00\x00\x02{}", b""])
def test_what_is_of_another_form_is_refused(
    payloads: Payloads, client: redis.Redis, data: bytes
) -> None:
    client.hset("penstock:payload:job:1:1", "rows", data)
    with pytest.raises(PayloadKeyError, match="not of this release's form"):
        payloads.take("job", 1, 1, "rows")


@pytest.mark.parametrize("key", ["nonsense!", "c2l4dGVlbiBieXRlcyAxNg==", "A" * 44])
def test_a_key_that_is_none_is_refused(redis_url: str, key: str) -> None:
    with pytest.raises(PayloadKeyError, match="not the base64 form of 32 bytes") as caught:
        Payloads(redis_url, key)
    assert key not in str(caught.value)


def test_an_emptied_redis_has_lost_it(payloads: Payloads, client: redis.Redis) -> None:
    payloads.put("job", 1, 1, {"rows": Payload(b"a")})
    client.flushdb()
    assert payloads.take("job", 1, 1, "rows") is None
    payloads.drop("job", 1, 1, "rows")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/3", "redis://h:6379/3"),
        ("rediss://u:p@h/0", "rediss://u:p@h/0"),
        ("redis+socket:///run/r.sock?virtual_host=5", "unix:///run/r.sock?db=5"),
        ("redis+socket:///run/r.sock?x=1&virtual_host=/5", "unix:///run/r.sock?db=5"),
        ("redis+socket:///run/r.sock", "unix:///run/r.sock?db=0"),
    ],
)
def test_kombu_s_form_of_a_socket(url: str, expected: str) -> None:
    assert for_redis_py(url) == expected


def test_payloads_through_a_unix_socket(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis", unix_socket=True) as server:
        payloads = Payloads(server.url)
        payloads.put("job", 1, 1, {"rows": Payload(b"a")})
        assert payloads.take("job", 1, 1, "rows") == Payload(b"a")
        payloads.close()
