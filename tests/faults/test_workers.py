"""What happens to a job when its workers die, freeze, or hear everything twice."""

from __future__ import annotations

import csv
import gzip
import io
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

from penstock.contract import Batch
from penstock.dispatch import Dispatch
from penstock.ledger import Next
from sandbox.customers import Expected, create_customers
from sandbox.servers import MetaSandbox, Postgres, Rclone, Redis
from sandbox.workers import Worker
from tests.harness import AUDIENCE, META, Stack, sums_are_right, to_file, wait_for

ROWS = 20_000


def _submit(stack: Stack, *destinations: dict[str, Any], key: str | None = "id") -> str:
    source = {"connection": "warehouse", "table": "customers"} | ({"key": key} if key else {})
    return stack.client.submit(
        {
            "name": "faults",
            "source": source,
            "destinations": list(destinations),
            "batch_rows": 500,
            "window": 6,
        }
    )


def _exact(stack: Stack, status: dict[str, Any], expected: Expected, meta: MetaSandbox) -> None:
    assert status["state"] == "succeeded", status
    assert status["extracted"] == expected.rows
    assert sums_are_right(status)
    assert stack.lane(status, "meta")["accepted"] == expected.identifiable
    assert meta.count(AUDIENCE) == expected.identifiable
    for lane in status["lanes"]:
        for artifact in lane["artifacts"]:
            with urllib.request.urlopen(artifact["url"], timeout=60) as answer:
                text = gzip.decompress(answer.read()).decode()
            rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
            assert sorted(int(row[0]) for row in rows) == list(range(1, expected.rows + 1))


def _job(stack: Stack, job_id: str, column: str) -> Any:
    with stack.client.ledger.transaction() as db:
        row = db.execute(f"select {column} as x from penstock.job where job_id = %s", (job_id,))
        return row.fetchone()["x"]  # type: ignore[index]


def _unfinished_uploads(s3: Rclone, bucket: str) -> list[Any]:
    client = s3.client()
    try:
        return client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    finally:
        client.close()


def test_a_killed_extract_goes_on_where_it_was(
    stack: Stack, source_url: str, bucket: str, meta_sandbox: MetaSandbox
) -> None:
    expected = create_customers(source_url, ROWS)
    meta_sandbox.fault("users", "slow", times=-1, delay=0.1)
    stack.start()
    job = _submit(stack, META, to_file(bucket))
    wait_for(lambda: stack.client.status(job)["extracted"] >= 4_000, every=0.02)
    stack["extract"].kill()
    at = _job(stack, job, "next_seq")
    assert at < ROWS / 500, "it had ended: the test proves nothing"
    stack["extract"].start()
    _exact(stack, stack.wait(job), expected, meta_sandbox)
    assert _job(stack, job, "epoch") >= 2
    assert _job(stack, job, "generation") == 1


def test_a_killed_extract_without_a_key_starts_over_and_counts_nothing_twice(
    stack: Stack, source_url: str, bucket: str, meta_sandbox: MetaSandbox, s3_server: Rclone
) -> None:
    expected = create_customers(source_url, ROWS)
    meta_sandbox.fault("users", "slow", times=-1, delay=0.1)
    stack.start()
    job = _submit(stack, META, to_file(bucket), key=None)
    wait_for(
        lambda: (
            stack.client.status(job)["lanes"]
            and stack.client.status(job)["lanes"][0]["accepted"] > 2_000
        )
    )
    stack["extract"].kill()
    assert _job(stack, job, "stream") == "reading", "it had ended: the test proves nothing"
    stack["extract"].start()
    _exact(stack, stack.wait(job), expected, meta_sandbox)
    assert _job(stack, job, "generation") == 2
    assert _unfinished_uploads(s3_server, bucket) == []


def test_an_emptied_redis_without_a_key_starts_over(
    tmp_path: Path,
    private_redis: Redis,
    ledger_url: str,
    source_url: str,
    connections: dict[str, dict[str, Any]],
    bucket: str,
    meta_sandbox: MetaSandbox,
) -> None:
    expected = create_customers(source_url, ROWS)
    with Stack(tmp_path / "own", private_redis.url, ledger_url, connections) as stack:
        stack.start("jobs", "extract", "export")
        job = _submit(stack, META, to_file(bucket), key=None)
        wait_for(lambda: stack.client.status(job)["extracted"] >= 3_000)
        private_redis.flush()
        stack.add("upload.meta").start()
        _exact(stack, stack.wait(job), expected, meta_sandbox)
        assert _job(stack, job, "generation") >= 2


def test_a_frozen_extract_that_wakes_up_is_fenced_off(
    stack: Stack, source_url: str, bucket: str, meta_sandbox: MetaSandbox
) -> None:
    expected = create_customers(source_url, ROWS)
    meta_sandbox.fault("users", "slow", times=-1, delay=0.05)
    stack.start()
    job = _submit(stack, META, to_file(bucket))
    wait_for(lambda: stack.client.status(job)["extracted"] >= 3_000, every=0.02)
    stack["extract"].pause()
    epoch = _job(stack, job, "epoch")
    stack.add("extract", 2).start()
    wait_for(lambda: _job(stack, job, "epoch") > epoch)
    stack["extract"].resume()
    _exact(stack, stack.wait(job), expected, meta_sandbox)


def test_every_message_three_times(
    stack: Stack, source_url: str, bucket: str, meta_sandbox: MetaSandbox
) -> None:
    expected = create_customers(source_url, 3_000)
    stack.start("jobs", "extract")
    job = _submit(stack, META, to_file(bucket))
    wait_for(lambda: stack.client.status(job)["extracted"] == 3_000)
    wait_for(lambda: _job(stack, job, "stream") == "ended")
    again = Next(job, extract=True, finalize=True)
    for seq in range(6):
        again.deliver += [("meta", "meta", seq, 1), ("s3", "files", seq, 1)]
    again.close = [("meta", "meta", 0, 2), ("s3", "files", 1, 2)]
    dispatch = Dispatch(stack.client.app)
    for _ in range(2):
        dispatch.follow(again)
        dispatch.refill(Batch(job, 3))
    for kind in ("upload.meta", "export"):
        stack.add(kind, 1, slots=4).start()
        stack.add(kind, 2, slots=4).start()
    status = stack.wait(job)
    _exact(stack, status, expected, meta_sandbox)
    assert sum(x["received"] for x in meta_sandbox.state()["sessions"]) == expected.identifiable


def test_a_file_completed_by_a_worker_that_died_is_adopted(
    stack: Stack, source_url: str, bucket: str, s3_server: Rclone
) -> None:
    """Killed between the store's complete and the ledger's commit."""
    expected = create_customers(source_url, 2_000)
    stack.start("jobs", "extract", "export")
    with stack.client.ledger.transaction() as db:
        # Nobody closes yet, as if a worker were at it.
        db.execute(
            "create function penstock.busy() returns trigger language plpgsql as $$ begin "
            "new.close_lease = clock_timestamp() + interval '1 hour'; return new; end $$"
        )
        db.execute(
            "create trigger busy before insert on penstock.lane for each row "
            "execute function penstock.busy()"
        )
    job = _submit(stack, to_file(bucket, "adopted.csv.gz"))

    def settled() -> dict[str, Any] | None:
        with stack.client.ledger.transaction() as db:
            lane = db.execute("select * from penstock.lane where job_id = %s", (job,)).fetchone()
        return lane if lane and lane["accepted"] == expected.rows else None

    upload_id = wait_for(settled)["memo"]["upload_id"]
    client = s3_server.client()
    try:
        where = {"Bucket": bucket, "Key": "adopted.csv.gz", "UploadId": upload_id}
        parts = client.list_parts(**where)["Parts"]
        client.complete_multipart_upload(
            **where,
            MultipartUpload={
                "Parts": [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in parts]
            },
        )
    finally:
        client.close()
    with stack.client.ledger.transaction() as db:
        db.execute("update penstock.lane set close_lease = clock_timestamp()")
    status = stack.wait(job)
    assert status["state"] == "succeeded", status
    [artifact] = status["lanes"][0]["artifacts"]
    assert artifact["rows"] == expected.rows


def test_the_ledger_restarts(
    tmp_path: Path,
    redis_url: str,
    private_postgres: Postgres,
    source_url: str,
    connections: dict[str, dict[str, Any]],
    bucket: str,
    meta_sandbox: MetaSandbox,
) -> None:
    expected = create_customers(source_url, ROWS)
    meta_sandbox.fault("users", "slow", times=-1, delay=0.1)
    ledger_url = private_postgres.create_database("ledger")
    with Stack(tmp_path / "own", redis_url, ledger_url, connections) as stack:
        stack.start()
        job = _submit(stack, META, to_file(bucket))
        wait_for(lambda: stack.client.status(job)["extracted"] >= 3_000, every=0.02)
        private_postgres.stop("immediate")
        time.sleep(2)
        private_postgres.start()
        _exact(stack, stack.wait(job), expected, meta_sandbox)


def test_the_source_restarts(
    stack: Stack,
    private_postgres: Postgres,
    connections: dict[str, dict[str, Any]],
    bucket: str,
    meta_sandbox: MetaSandbox,
) -> None:
    source_url = private_postgres.create_database("source")
    expected = create_customers(source_url, ROWS)
    connections["warehouse"]["url"] = source_url
    meta_sandbox.fault("users", "slow", times=-1, delay=0.1)
    with Stack(stack.directory / "own", stack.broker_url, stack.ledger_url, connections) as own:
        own.start()
        job = _submit(own, META, to_file(bucket))
        wait_for(lambda: own.client.status(job)["extracted"] >= 3_000, every=0.02)
        private_postgres.restart("immediate")
        _exact(own, own.wait(job), expected, meta_sandbox)


def test_a_stopped_worker_gives_its_work_back(
    stack: Stack, source_url: str, bucket: str, meta_sandbox: MetaSandbox
) -> None:
    """SIGTERM, as a rolling deploy sends it, in the middle of a stream and of sending."""
    expected = create_customers(source_url, ROWS)
    meta_sandbox.fault("users", "slow", times=-1, delay=0.1)
    stack.env["REMAP_SIGTERM"] = "SIGQUIT"
    stack.start()
    job = _submit(stack, META, to_file(bucket))
    wait_for(lambda: stack.client.status(job)["extracted"] >= 3_000, every=0.02)
    for kind in ("extract", "upload.meta", "export", "jobs"):
        stack[kind].send_signal(signal.SIGTERM)
    for kind in ("extract", "upload.meta", "export", "jobs"):
        stack[kind].wait(120)
        stack[kind].start()
    _exact(stack, stack.wait(job), expected, meta_sandbox)


def test_a_worker_without_its_servers_waits_and_says_so(
    tmp_path: Path, stack: Stack, private_postgres: Postgres, private_redis: Redis
) -> None:
    ledger_url = private_postgres.create_database("late")
    env = stack.env | {
        "PENSTOCK_LEDGER_URL": ledger_url,
        "PENSTOCK_BROKER_URL": private_redis.url,
    }
    private_redis.stop()
    worker = Worker("export", env=env, directory=tmp_path)
    ready, worker.ready = worker.ready, None
    with worker:
        wait_for(lambda: "run `penstock init`" in worker.output())
        with Stack(tmp_path / "tables", private_redis.url, ledger_url, {}):
            pass  # makes the tables
        wait_for(lambda: "Cannot connect to redis" in worker.output())
        assert worker.alive
        private_redis.start()
        assert ready is not None
        wait_for(ready)
        assert "Traceback" not in worker.output()


def test_a_full_payload_redis_is_waited_for(
    stack: Stack,
    private_redis: Redis,
    source_url: str,
    bucket: str,
    meta_sandbox: MetaSandbox,
) -> None:
    expected = create_customers(source_url, ROWS)
    stack.env["PENSTOCK_PAYLOAD_URL"] = private_redis.url
    with private_redis.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 150_000)
        stack.start()
        job = _submit(stack, META, to_file(bucket))
        wait_for(lambda: "or is full" in stack["extract"].output())
        assert stack.client.status(job)["state"] == "running"
        client.config_set("maxmemory", 0)
    _exact(stack, stack.wait(job), expected, meta_sandbox)
