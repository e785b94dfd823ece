"""Kills and losses while an audience is mirrored or replaced: it ends as exactly the source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from penstock.dispatch import Dispatch
from penstock.ledger import Next
from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Postgres, Redis
from tests.acceptance.test_modes import People
from tests.harness import AUDIENCE, GOOGLE, META, USER_LIST, Stack, sums_are_right, wait_for

MIRROR_META, MIRROR_GOOGLE = {**META, "mode": "mirror"}, {**GOOGLE, "mode": "mirror"}
REPLACE_META, REPLACE_GOOGLE = {**META, "mode": "replace"}, {**GOOGLE, "mode": "replace"}


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory,
    own_redis: Redis,
    postgres_server: Postgres,
    google_sandbox: GoogleAdsSandbox,
    meta_sandbox: MetaSandbox,
) -> Iterator[Stack]:
    """This file's: its tests kill its workers and empty its Redis, and see all mended."""
    connections = {
        "warehouse": {"kind": "postgres", "url": postgres_server.create_database("destinations")},
        "ads": {
            "kind": "google_ads",
            "developer_token": "sandbox",
            "endpoint": google_sandbox.endpoint,
            "insecure": True,
        },
        "meta": {"kind": "meta", "access_token": "sandbox", "graph_url": meta_sandbox.url},
    }
    ledger_url = postgres_server.create_database("destinations_ledger")
    directory = tmp_path_factory.mktemp("destinations")
    with Stack(directory, own_redis.url, ledger_url, connections) as stack:
        yield stack.start("jobs", "extract", "upload.meta", "upload.google_ads")


@pytest.fixture
def people(own: Stack) -> People:
    return People(own.connections["warehouse"]["url"])


def submit(own: Stack, people: People, destination: dict[str, Any], **changes: Any) -> str:
    return own.client.submit(
        {
            "name": f"faults of {people.table}",
            "source": people.source,
            "destinations": [destination],
            "batch_rows": 500,
            **changes,
        }
    )


def lane_of(own: Stack, job: str) -> dict[str, Any]:
    """Its only lane, when it has ended well."""
    status = own.wait(job)
    assert status["state"] == "succeeded", status
    assert sums_are_right(status)
    [lane] = status["lanes"]
    return dict(lane)


def run(own: Stack, people: People, destination: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return lane_of(own, submit(own, people, destination, **changes))


def meta_members(own: Stack, people: People) -> set[str]:
    return {f"EMAIL:{_sha(e)}|PHONE:{_sha(p.lstrip('+'))}" for e, p in _source(own, people)}


def google_members(own: Stack, people: People) -> set[str]:
    return {f"email:{_sha(e)}|phone:{_sha(p)}" for e, p in _source(own, people)}


def _source(own: Stack, people: People) -> list[tuple[str, str]]:
    with psycopg.connect(own.connections["warehouse"]["url"]) as db:
        return db.execute(f"select email, phone from {people.table}").fetchall()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def struck(sandbox: GoogleAdsSandbox | MetaSandbox, times: int = 1) -> None:
    """Wait until so many calls have met a planned fault."""
    wait_for(lambda: sum(fault["fired"] for fault in sandbox.faults()) == times, every=0.02)


def made(sandbox: MetaSandbox, method: str) -> int:
    """Calls that the platform has done."""
    return int(sandbox.calls().get(method, {"ok": 0})["ok"])


def change(people: People, *, leave: int, come: int, before: int) -> None:
    """Some leave, some come, and of those who stay some get another phone."""
    people(f"delete from {{}} where id <= {leave}")
    people(f"update {{}} set phone = '+4940' || (1000000 + id) where id > {before - 50}")
    people.fill(before + 1, before + come)


def test_a_closing_mirror_is_killed_between_a_removal_and_the_ledger(
    own: Stack, people: People, meta_sandbox: MetaSandbox
) -> None:
    people.fill(1, 30_000)
    run(own, people, MIRROR_META, batch_rows=10_000)
    change(people, leave=12_000, come=300, before=30_000)
    # Two requests of removals: the worker dies in the second, which Meta does all the same.
    meta_sandbox.fault("users_remove", "slow", after=1, delay=1)
    job = submit(own, people, MIRROR_META, batch_rows=10_000)
    struck(meta_sandbox)
    own["upload.meta"].kill()
    wait_for(lambda: made(meta_sandbox, "users_remove") == 2)
    assert own.client.status(job)["state"] == "running"
    own["upload.meta"].start()

    lane = lane_of(own, job)
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(own, people)
    # The first request was in the ledger: the second alone is made again, and counted once.
    assert made(meta_sandbox, "users_remove") == 3
    assert lane["details"]["removed"] == 12_000 + 50
    _nothing_is_left_to_send(own, people, meta_sandbox)


def test_a_closing_mirror_is_killed_before_its_additions_run(
    own: Stack, people: People, google_sandbox: GoogleAdsSandbox
) -> None:
    people.fill(1, 2_000)
    run(own, people, MIRROR_GOOGLE)
    change(people, leave=500, come=100, before=2_000)
    # The removals' job has run when the worker dies with the other job's run on its lips.
    google_sandbox.fault("run", "hang", after=1)
    job = submit(own, people, MIRROR_GOOGLE)
    struck(google_sandbox)
    own["upload.google_ads"].kill()
    own["upload.google_ads"].start()
    assert lane_of(own, job)["details"]["removed"] == 500 + 50
    assert set(google_sandbox.members(USER_LIST)) == google_members(own, people)
    assert run(own, people, MIRROR_GOOGLE)["accepted"] == 0
    assert set(google_sandbox.members(USER_LIST)) == google_members(own, people)


def test_a_replacing_worker_is_killed_in_the_first_batch_and_in_a_later_one(
    own: Stack, people: People, meta_sandbox: MetaSandbox
) -> None:
    people.fill(1, 1_000)
    run(own, people, META)
    before = set(meta_sandbox.members(AUDIENCE))
    people("delete from {}")
    people.fill(500, 4_499)
    # Meta takes both batches; the workers that sent them never hear of it.
    meta_sandbox.fault("users_replace", "slow", delay=1)
    meta_sandbox.fault("users_replace", "slow", after=4, delay=1)
    job = submit(own, people, REPLACE_META)
    for kills, calls in ((1, 1), (2, 5)):
        struck(meta_sandbox, kills)
        own["upload.meta"].kill()
        wait_for(lambda calls=calls: made(meta_sandbox, "users_replace") == calls)
        assert set(meta_sandbox.members(AUDIENCE)) == before
        own["upload.meta"].start()

    assert lane_of(own, job)["accepted"] == 4_000
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(own, people)
    [replacement] = meta_sandbox.state()["replacements"]
    assert replacement["state"] == "finished"
    # Batch 1 came once, for a second one would begin anew: sent again it was number 2. Then came
    # seven more, one of them twice under its number, and what ends it.
    assert replacement["batches"] == list(range(1, 11))
    assert replacement["requests"] == 11
    assert meta_sandbox.calls()["users_replace"]["err"] == 0


def test_a_replacing_worker_is_killed_between_the_removal_of_all_and_the_members(
    own: Stack, people: People, google_sandbox: GoogleAdsSandbox
) -> None:
    people.fill(1, 1_000)
    run(own, people, GOOGLE)
    before = set(google_sandbox.members(USER_LIST))
    people("delete from {}")
    people.fill(500, 2_499)
    # The first removal of all, and the first members of the job that has one.
    google_sandbox.fault("add", "hang")
    google_sandbox.fault("add", "hang", after=2)
    job = submit(own, people, REPLACE_GOOGLE)
    for kills in (1, 2):
        struck(google_sandbox, kills)
        own["upload.google_ads"].kill()
        assert set(google_sandbox.members(USER_LIST)) == before
        own["upload.google_ads"].start()

    assert lane_of(own, job)["accepted"] == 2_000
    assert set(google_sandbox.members(USER_LIST)) == google_members(own, people)
    # Of the jobs whose creation or first removal nobody remembers none was run.
    jobs = google_sandbox.state()["jobs"]
    assert any(job["status"] == "PENDING" for job in jobs), jobs
    ran = [(job["verb"], job["removes_all"]) for job in jobs if job["started"] is not None]
    assert ran == [("create", False), ("create", True)], jobs


def test_redis_is_emptied_in_the_middle_of_a_mirror(
    own: Stack, own_redis: Redis, people: People, meta_sandbox: MetaSandbox
) -> None:
    people.fill(1, 8_000)
    for changed in (False, True):
        if changed:
            change(people, leave=2_000, come=1_000, before=8_000)
        own["upload.meta"].kill()
        job = submit(own, people, MIRROR_META, window=4)
        wait_for(lambda job=job: own.client.status(job)["extracted"] == 4 * 500)
        own_redis.flush()
        own["upload.meta"].start()
        lane_of(own, job)
        assert set(meta_sandbox.members(AUDIENCE)) == meta_members(own, people)
    _nothing_is_left_to_send(own, people, meta_sandbox)


def test_a_mirrored_batch_that_is_delivered_twice_is_staged_once(
    own: Stack, people: People, meta_sandbox: MetaSandbox
) -> None:
    people.fill(1, 3_000)
    own["upload.meta"].kill()
    job = submit(own, people, MIRROR_META)
    wait_for(lambda: _streamed(own, job))
    again = Next(job, deliver=[("meta", "meta", seq, 1) for seq in range(6)])
    dispatch = Dispatch(own.client.app)
    for _ in range(2):
        dispatch.follow(again)
    second = own.add("upload.meta", 2)
    try:
        for worker in (own["upload.meta"], second):
            worker.start()
        lane = lane_of(own, job)
    finally:
        second.kill()
    assert (lane["rows"], lane["accepted"]) == (3_000, 3_000)
    assert sum(s["received"] for s in meta_sandbox.state()["sessions"]) == 3_000
    # Each has an e-mail address and a phone. What was staged twice would have two numbers.
    with own.client.ledger.transaction() as db:
        state = db.execute(
            "select m.entries, m.next_ord, m.holder_job, count(e) as there from penstock.mirror as m "
            "join penstock.mirror_entry as e using (mirror_id) group by mirror_id "
            "order by mirror_id desc limit 1"
        ).fetchone()
        left = db.execute("select count(*) as n from penstock.mirror_added").fetchone()
    assert state == {"entries": 6_000, "next_ord": 6_000, "holder_job": None, "there": 6_000}
    assert left == {"n": 0}
    _nothing_is_left_to_send(own, people, meta_sandbox)


def _streamed(own: Stack, job: str) -> bool:
    with own.client.ledger.transaction() as db:
        row = db.execute("select stream from penstock.job where job_id = %s", (job,)).fetchone()
    return row is not None and row["stream"] == "ended"


def _nothing_is_left_to_send(own: Stack, people: People, sandbox: MetaSandbox) -> None:
    """The state knows the audience as it is: the next run finds no difference."""
    sandbox.clear()
    requests = {method: made(sandbox, method) for method in ("users", "users_remove")}
    assert run(own, people, MIRROR_META)["accepted"] == 0
    assert {method: made(sandbox, method) for method in requests} == requests
    assert set(sandbox.members(AUDIENCE)) == meta_members(own, people)
