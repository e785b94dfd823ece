"""Accounts whose limits are scarce: no call is refused, no slot is held, and jobs take turns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from penstock.payloads import redis_url as for_redis_py
from sandbox.customers import create_customers
from sandbox.servers import MetaSandbox
from tests.harness import AUDIENCE, META, SOURCE, Stack, sums_are_right, wait_for

ACCOUNT, OTHER_ACCOUNT = "1000", "2000"
OTHER_AUDIENCE, ELSEWHERE = "322", "422"
BATCH_ROWS = 50


@pytest.fixture
def scarce(meta_sandbox: MetaSandbox) -> Iterator[MetaSandbox]:
    """What a test makes scarce is plenty again afterwards, for the sandbox is everybody's."""
    before = meta_sandbox.settings()
    known = meta_sandbox.state()["audiences"]
    for audience, account in ((OTHER_AUDIENCE, ACCOUNT), (ELSEWHERE, OTHER_ACCOUNT)):
        if audience not in known:
            meta_sandbox.add_audience(id=audience, account_id=account)
    yield meta_sandbox
    meta_sandbox.settings(**before)


@pytest.fixture
def narrow(stack: Stack, source_url: str) -> Stack:
    """A worker for uploads is still to come, with one slot; by then all batches may be queued."""
    create_customers(source_url, 7 * BATCH_ROWS)
    # A wait for a turn is longer, so that nobody sleeps through it in the only slot.
    stack.env["PENSTOCK_PATIENCE_SECONDS"] = "0.3"
    return stack.start("jobs", "extract", slots=1)


def submit(stack: Stack, audience: str, account: str, batches: int) -> str:
    source = {
        "connection": SOURCE["connection"],
        "query": f"select * from customers where id <= {batches * BATCH_ROWS}",
        "key": "id",
    }
    return stack.client.submit(
        {
            "name": f"into {audience}",
            "source": source,
            "destinations": [{**META, "audience_id": audience, "account_id": account}],
            "batch_rows": BATCH_ROWS,
        }
    )


def sent(sandbox: MetaSandbox) -> list[str]:
    """Whose audience each call was for, in their order, account by account: each batch has a
    session of its own.
    """
    return [session["audience_id"] for session in sandbox.state()["sessions"]]


def an_hour_passes(stack: Stack, sandbox: MetaSandbox) -> None:
    """For the limiter, for the ledger, and for the platform."""
    sandbox.settings(regain_minutes=0)
    with redis.Redis.from_url(for_redis_py(stack.broker_url)) as client:
        for name in client.scan_iter("penstock:pace:*:state"):
            for field in ("last", "held", "told"):
                if value := client.hget(name, field):
                    client.hset(name, field, float(value) - 3_700)
        for name in client.scan_iter("penstock:pace:*:promises"):
            client.delete(name)
    with stack.client.ledger.transaction() as db:
        db.execute("update penstock.lane set not_before = clock_timestamp()")
        db.execute(
            "update penstock.delivery set due_at = clock_timestamp() where state = 'pending'"
        )


def test_an_account_that_is_used_up_rests_and_its_slot_is_another_s(
    narrow: Stack, scarce: MetaSandbox
) -> None:
    # Looking for the audience and three batches use it up: a fourth would be refused for an hour.
    scarce.settings(usage_per_call=25, regain_minutes=60)
    narrow.add("upload.meta", slots=1).start()
    long = submit(narrow, AUDIENCE, ACCOUNT, batches=7)
    wait_for(lambda: len(sent(scarce)) == 3)

    short = submit(narrow, ELSEWHERE, OTHER_ACCOUNT, batches=2)
    status = narrow.wait(short)
    assert status["state"] == "succeeded", status
    assert narrow.client.status(long)["state"] == "running"
    assert sent(scarce) == [AUDIENCE] * 3 + [ELSEWHERE] * 2

    an_hour_passes(narrow, scarce)
    status = narrow.wait(long)
    assert status["state"] == "succeeded", status
    assert sums_are_right(status)
    assert sent(scarce) == [AUDIENCE] * 7 + [ELSEWHERE] * 2
    # Slowed before it was refused: not one call too many, and no attempt burnt by waiting.
    assert scarce.calls()["users"]["err"] == 0
    assert _tries(narrow) == {0}


def test_a_refusal_is_heard_by_every_job_of_the_account(narrow: Stack, scarce: MetaSandbox) -> None:
    """The platform may refuse without a warning in its headers: one call is enough to know it."""
    scarce.fault("users", "throttle", data={"minutes": 60})
    narrow.add("upload.meta", slots=1).start()
    first = submit(narrow, AUDIENCE, ACCOUNT, batches=2)
    wait_for(lambda: scarce.calls().get("users", {}).get("err"))
    second = submit(narrow, OTHER_AUDIENCE, ACCOUNT, batches=2)
    elsewhere = submit(narrow, ELSEWHERE, OTHER_ACCOUNT, batches=2)
    assert narrow.wait(elsewhere)["state"] == "succeeded"
    assert sent(scarce) == [ELSEWHERE] * 2

    an_hour_passes(narrow, scarce)
    for job in (first, second):
        assert narrow.wait(job)["state"] == "succeeded"
    assert scarce.calls()["users"]["err"] == 1
    assert _tries(narrow) == {0}


def test_two_jobs_on_one_account_take_turns(narrow: Stack, scarce: MetaSandbox) -> None:
    # 75 percent used: the limiter leaves most of a second between calls.
    scarce.settings(usage={"call_count": 75})
    first = submit(narrow, AUDIENCE, ACCOUNT, batches=6)
    second = submit(narrow, OTHER_AUDIENCE, ACCOUNT, batches=6)
    for job in (first, second):
        wait_for(lambda job=job: narrow.client.status(job)["extracted"] == 6 * BATCH_ROWS)
    # The one slot finds all of the first job's batches in the queue before the second's.
    narrow.add("upload.meta", slots=1).start()
    for job in (first, second):
        status = narrow.wait(job)
        assert status["state"] == "succeeded", status
        assert sums_are_right(status)
    order = sent(scarce)
    assert sorted(order) == [AUDIENCE] * 6 + [OTHER_AUDIENCE] * 6
    for audience, other in ((AUDIENCE, OTHER_AUDIENCE), (OTHER_AUDIENCE, AUDIENCE)):
        end = len(order) - order[::-1].index(audience)
        assert order[:end].count(other) >= 3, order
    assert scarce.calls()["users"]["err"] == 0


def _tries(stack: Stack) -> set[int]:
    with stack.client.ledger.transaction() as db:
        return {row["tries"] for row in db.execute("select tries from penstock.delivery")}
