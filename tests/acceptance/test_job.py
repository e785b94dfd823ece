"""Whole jobs, from a client to what the platforms and the store hold in the end."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import urllib.request
from typing import Any

import psycopg
import pytest

from penstock.contract import JobSpec
from sandbox.customers import create_customers
from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Redis
from tests.acceptance.conftest import Table
from tests.harness import AUDIENCE, GOOGLE, META, SOURCE, USER_LIST, Stack, sums_are_right, to_file


def _fetched(artifact: dict[str, Any]) -> bytes:
    with urllib.request.urlopen(artifact["url"], timeout=60) as answer:
        return answer.read()


def _table(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(gzip.decompress(data).decode(), newline="")))


def test_one_source_to_two_platforms_and_a_file(
    running: Stack,
    customers: Table,
    bucket: str,
    google_sandbox: GoogleAdsSandbox,
    meta_sandbox: MetaSandbox,
    redis_server: Redis,
) -> None:
    source, expected = customers(21_000)
    job = running.client.submit(
        {
            "name": "everything",
            "source": source,
            "destinations": [GOOGLE, META, to_file(bucket, "exports/{name}/{job_id}.csv.gz")],
            "batch_rows": 1_000,
        },
        job_id="first",
    )
    status = running.wait(job)

    assert status["state"] == "succeeded", status
    assert status["extracted"] == expected.rows
    assert sums_are_right(status)
    for name in ("ads", "meta"):
        lane = running.lane(status, name)
        assert (lane["state"], lane["accepted"]) == ("succeeded", expected.identifiable)
        assert lane["reasons"] == [
            {"reason": "no usable identifier", "count": expected.unidentifiable}
        ]
    assert google_sandbox.count(USER_LIST) == expected.identifiable
    assert meta_sandbox.count(AUDIENCE) == expected.identifiable
    assert running.lane(status, "ads")["details"]["match_rate_range"]

    [artifact] = running.lane(status, "files")["artifacts"]
    data = _fetched(artifact)
    assert len(data) == artifact["bytes"]
    assert hashlib.sha256(data).hexdigest() == artifact["sha256"]
    head, *rows = _table(data)
    assert head[:3] == ["id", "email", "phone"]
    assert [int(row[0]) for row in rows] == list(range(1, expected.rows + 1))
    assert artifact["rows"] == expected.rows
    assert artifact["key"] == "exports/everything/first.csv.gz"

    with redis_server.client(int(running.broker_url.rpartition("/")[2])) as client:
        assert list(client.scan_iter("penstock:payload:*")) == []
    assert "@example" not in running.logs()


def test_the_file_is_what_the_database_writes(
    running: Stack, customers: Table, shared_source: str, bucket: str
) -> None:
    source, _ = customers(5_003)
    job = running.client.submit(
        {
            "name": "same",
            "source": source,
            "destinations": [to_file(bucket, "same.csv", compression="none")],
            "batch_rows": 700,
        }
    )
    [artifact] = running.wait(job)["lanes"][0]["artifacts"]
    with psycopg.connect(shared_source) as conn, conn.cursor() as cursor:
        cursor.execute("set timezone = 'UTC'")
        with cursor.copy(
            f"copy (select * from {source['table']} order by id) to stdout (format csv, header)"
        ) as copy:
            floor = b"".join(bytes(block) for block in copy)
    assert _fetched(artifact) == floor


@pytest.mark.parametrize("key", ["id", None])
def test_an_empty_result_is_a_valid_empty_file(
    running: Stack,
    customers: Table,
    bucket: str,
    key: str | None,
    google_sandbox: GoogleAdsSandbox,
) -> None:
    table = customers(10)[0]["table"]
    source = {"connection": "warehouse", "query": f"select * from {table} where id < 0"}
    job = running.client.submit(
        {
            "name": "empty",
            "source": source | ({"key": key} if key else {}),
            "destinations": [GOOGLE, META, to_file(bucket)],
        }
    )
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    assert [lane["rows"] for lane in status["lanes"]] == [0, 0, 0]
    [artifact] = running.lane(status, "files")["artifacts"]
    assert artifact["rows"] == 0
    assert _table(_fetched(artifact))[0][0] == "id"
    assert len(_table(_fetched(artifact))) == 1
    assert google_sandbox.state()["jobs"] == []


def test_parts_are_put_together_in_order_whoever_ends_first(
    stack: Stack, source_url: str, moto_server: Any, connections: dict[str, Any]
) -> None:
    """Moto refuses parts below S3's smallest, and the batches here make pieces far below it."""
    rows = 130_000
    create_customers(source_url, rows)
    connections["files"] |= {
        "endpoint_url": moto_server.endpoint_url,
        "access_key_id": moto_server.access_key,
        "secret_access_key": moto_server.secret_key,
    }
    moto_server.create_bucket("parts")
    with Stack(stack.directory / "moto", stack.broker_url, stack.ledger_url, connections) as own:
        own.start("jobs", "extract", "export", slots=1)
        own.add("export", 2, slots=4).start()
        job = own.client.submit(
            {
                "name": "parts",
                "source": SOURCE,
                "destinations": [to_file("parts", compression="none")],
                "batch_rows": 3_000,
            }
        )
        status = own.wait(job)
    assert status["state"] == "succeeded", status
    [artifact] = status["lanes"][0]["artifacts"]
    assert artifact["bytes"] > 2 * 6 * 1024 * 1024
    table = csv.reader(io.StringIO(_fetched(artifact).decode(), newline=""))
    ids = [int(row[0]) for row in list(table)[1:]]
    assert ids == list(range(1, rows + 1))


def test_without_a_key_too(running: Stack, customers: Table, bucket: str) -> None:
    source, _ = customers(4_000)
    job = running.client.submit(
        {
            "name": "no key",
            "source": {
                "connection": "warehouse",
                "query": f"select id, email as mail, phone from {source['table']} "
                "where id <= %(most)s",
                "params": {"most": 3_500},
                "columns": {"email": "mail"},
            },
            "destinations": [META, to_file(bucket)],
            "batch_rows": 100,
            "window": 4,
        }
    )
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    assert status["extracted"] == 3_500
    assert sums_are_right(status)


def test_an_id_twice_is_one_job(running: Stack, customers: Table, bucket: str) -> None:
    source, _ = customers(2_000)
    spec = JobSpec.parse(
        {"name": "once", "source": source, "destinations": [to_file(bucket)], "batch_rows": 500}
    )
    assert {running.client.submit(spec, "once") for _ in range(3)} == {"once"}
    status = running.wait("once")
    assert (status["state"], status["extracted"]) == ("succeeded", 2_000)
