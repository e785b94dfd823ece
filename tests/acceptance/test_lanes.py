"""One lane's trouble is its own; the window, cancel and retry."""

from __future__ import annotations

from sandbox.customers import create_customers
from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Rclone, Redis
from tests.acceptance.conftest import Table
from tests.harness import (
    AUDIENCE,
    GOOGLE,
    META,
    SOURCE,
    USER_LIST,
    Stack,
    sums_are_right,
    to_file,
    wait_for,
)


def test_trouble_is_waited_out(
    running: Stack, customers: Table, google_sandbox: GoogleAdsSandbox, meta_sandbox: MetaSandbox
) -> None:
    source, expected = customers(6_000)
    google_sandbox.fault("create", "unavailable")
    google_sandbox.fault("add", "internal", after=1)
    google_sandbox.fault("add", "resource_exhausted", after=2, data={"retry_seconds": 7})
    google_sandbox.fault("add", "drop_after", after=3)
    google_sandbox.fault("run", "transient")
    google_sandbox.fault("search", "unavailable", after=2)
    for fault in ("http_500", "html_502", "reset", "drop_after", "empty_200", "error_in_200"):
        meta_sandbox.fault("users", fault, after=1)
    job = running.client.submit(
        {"name": "rough", "source": source, "destinations": [GOOGLE, META], "batch_rows": 1_000}
    )
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    assert sums_are_right(status)
    for lane in status["lanes"]:
        assert lane["accepted"] == expected.identifiable
    assert google_sandbox.count(USER_LIST) == expected.identifiable
    assert meta_sandbox.count(AUDIENCE) == expected.identifiable
    assert {j["max_concurrent"] for j in google_sandbox.state()["jobs"]} == {1}


def test_a_final_no_ends_the_lane_at_once_and_no_other(
    running: Stack, customers: Table, bucket: str, meta_sandbox: MetaSandbox
) -> None:
    source, _ = customers(5_000)
    meta_sandbox.fault("users", "terms", after=2, times=-1)
    job = running.client.submit(
        {
            "name": "no",
            "source": source,
            "destinations": [META, to_file(bucket)],
            "batch_rows": 500,
        }
    )
    status = running.wait(job)
    assert status["state"] == "partial", status
    assert sums_are_right(status)
    lane = running.lane(status, "meta")
    assert lane["state"] == "failed"
    assert "terms" in lane["error"].lower()
    assert lane["failed"] > 0
    assert running.lane(status, "files")["accepted"] == 5_000

    # Only what failed is done again.
    meta_sandbox.clear()
    again = running.client.retry(job)
    assert running.client.retry(job) == again
    status = running.wait(again)
    assert [x["lane"] for x in status["lanes"]] == ["meta"]
    assert status["state"] == "succeeded"
    assert meta_sandbox.count(AUDIENCE) == status["lanes"][0]["accepted"]


def test_when_all_lanes_fail_the_stream_stops_early(
    running: Stack, customers: Table, meta_sandbox: MetaSandbox
) -> None:
    source, _ = customers(20_000)
    meta_sandbox.fault("users", "permission", times=-1)
    job = running.client.submit(
        {
            "name": "none",
            "source": source,
            "destinations": [META],
            "batch_rows": 200,
            "window": 3,
        }
    )
    status = running.wait(job)
    assert status["state"] == "failed"
    assert sums_are_right(status)
    assert 0 < status["extracted"] < 20_000


def test_rejected_rows_are_counted_with_their_reason(
    running: Stack, customers: Table, google_sandbox: GoogleAdsSandbox, meta_sandbox: MetaSandbox
) -> None:
    source, expected = customers(2_000)
    google_sandbox.fault("add", "partial", times=-1, data={"every": 10})
    meta_sandbox.fault("users", "invalid_entries", times=-1, data={"every": 10})
    job = running.client.submit(
        {"name": "some", "source": source, "destinations": [GOOGLE, META], "batch_rows": 1_000}
    )
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    assert sums_are_right(status)
    for lane in status["lanes"]:
        assert lane["state"] == "rejected_some"
        assert lane["rejected"] > 0
        assert lane["accepted"] + lane["rejected"] == expected.identifiable
    assert google_sandbox.count(USER_LIST) == running.lane(status, "ads")["accepted"]


def test_a_google_job_that_fails_takes_its_rows_along(
    running: Stack, customers: Table, google_sandbox: GoogleAdsSandbox
) -> None:
    source, _ = customers(1_000)
    google_sandbox.fault(
        "run", "job_failed", data={"failure_reason": "INSUFFICIENT_MATCHED_TRANSACTIONS"}
    )
    job = running.client.submit({"name": "late", "source": source, "destinations": [GOOGLE]})
    status = running.wait(job)
    [lane] = status["lanes"]
    assert (status["state"], lane["state"], lane["accepted"]) == ("failed", "failed", 0)
    assert sums_are_right(status)
    assert "Google" in lane["error"]


def test_at_the_window_the_stream_parks_and_its_slot_is_free(
    stack: Stack,
    source_url: str,
    bucket: str,
    redis_server: Redis,
    meta_sandbox: MetaSandbox,
) -> None:
    expected = create_customers(source_url, 30_000)
    stack.start("jobs", "extract", "export")
    held = stack.client.submit(
        {
            "name": "held",
            "source": SOURCE,
            "destinations": [META],
            "batch_rows": 1_000,
            "window": 5,
        }
    )
    wait_for(lambda: "slowest lane" in stack.client.status(held)["stage"])
    assert stack.client.status(held)["extracted"] == 5_000
    with redis_server.client(int(stack.broker_url.rpartition("/")[2])) as client:
        payloads = list(client.scan_iter(f"penstock:payload:{held}:*"))
        assert len(payloads) == 5
        assert sum(client.memory_usage(name) for name in payloads) < 5 * 1_000 * 150

    # The one extract worker with its one slot is free for another job.
    other = stack.client.submit(
        {"name": "other", "source": SOURCE, "destinations": [to_file(bucket)]}
    )
    assert stack.wait(other)["state"] == "succeeded"
    assert "slowest lane" in stack.client.status(held)["stage"]

    stack.add("upload.meta").start()
    status = stack.wait(held)
    assert status["state"] == "succeeded", status
    assert sums_are_right(status)
    assert meta_sandbox.count(AUDIENCE) == expected.identifiable


def test_cancel_takes_back_what_can_be_taken_back(
    running: Stack,
    customers: Table,
    bucket: str,
    s3_server: Rclone,
    google_sandbox: GoogleAdsSandbox,
    meta_sandbox: MetaSandbox,
) -> None:
    source, _ = customers(30_000)
    google_sandbox.fault("add", "slow", times=-1, delay=0.3)
    job = running.client.submit(
        {
            "name": "stop",
            "source": source,
            "destinations": [GOOGLE, META, to_file(bucket)],
            "batch_rows": 500,
            "window": 6,
        }
    )
    wait_for(lambda: running.client.status(job)["extracted"] > 5_000)
    running.client.cancel(job)
    status = running.wait(job)
    assert status["state"] == "cancelled", status
    assert sums_are_right(status)
    assert {lane["state"] for lane in status["lanes"]} == {"cancelled"}
    assert google_sandbox.count(USER_LIST) == 0
    assert running.lane(status, "ads")["accepted"] == 0
    assert running.lane(status, "files")["artifacts"] == []
    assert meta_sandbox.count(AUDIENCE) == running.lane(status, "meta")["accepted"]
    client = s3_server.client()
    try:
        assert client.list_objects_v2(Bucket=bucket).get("KeyCount", 0) == 0
    finally:
        client.close()


def test_a_job_needs_no_beat_where_nothing_goes_wrong(
    stack: Stack, source_url: str, bucket: str
) -> None:
    """The chord alone finalizes it; the sweep is for repairs and for platforms that take time."""
    create_customers(source_url, 3_000)
    stack.start("jobs", "extract", "upload.meta", "export", beat=False)
    job = stack.client.submit(
        {
            "name": "quiet",
            "source": SOURCE,
            "destinations": [META, to_file(bucket)],
            "batch_rows": 100,
        }
    )
    assert stack.wait(job)["state"] == "succeeded"
