"""A dry run does all there is to do, tells what would come of it, and changes nothing anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.errors import JobExistsError
from sandbox.servers import (
    DataManagerSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
    Rclone,
)
from tests.builders import execute
from tests.harness import (
    AUDIENCE,
    CUSTOMER,
    GOOGLE,
    META,
    USER_LIST,
    Stack,
    sums_are_right,
    to_file,
)

_number = count(1)
_ids = count(61_000)

#: What a dry run may call; of `create`, `mutate` and `ingest` only what is to be validated, which
#: shows in that no job, list or request comes of it.
READING = {
    "google_ads": {"search", "create", "mutate"},
    "data_manager": {"get_user_list", "ingest"},
    "meta": {"me", "account", "audience", "audiences"},
    "linkedin": {"me", "segment", "segments"},
}
ONE_OF_EACH = ("google", "data", "meta", "linkedin")
UNCHANGED = {"reason": "unchanged since the last run", "count": 290}
NOBODY = {"reason": "no usable identifier", "count": 1}


@dataclass
class World:
    """All that a job could change."""

    stack: Stack
    google: GoogleAdsSandbox
    data_manager: DataManagerSandbox
    meta: MetaSandbox
    linkedin: LinkedInSandbox
    s3: Rclone
    bucket: str

    def now(self) -> dict[str, Any]:
        return {
            "google": _held(self.google, self._lists(self.google)),
            "data_manager": _held(self.data_manager, self._lists(self.data_manager)),
            "meta": _held(self.meta, self.meta.state()["audiences"]),
            "linkedin": _held(self.linkedin, self.linkedin.state()["audiences"]),
            "files": self._files(),
            "mirrors": self._mirrors(),
        }

    def calls(self) -> dict[str, dict[str, int]]:
        """For each platform how often each method was called."""
        sandboxes = {
            "google_ads": self.google,
            "data_manager": self.data_manager,
            "meta": self.meta,
            "linkedin": self.linkedin,
        }
        return {
            name: {method: n["ok"] + n["err"] for method, n in sandbox.calls().items()}
            for name, sandbox in sandboxes.items()
        }

    def _lists(self, sandbox: GoogleAdsSandbox | DataManagerSandbox) -> list[str]:
        return [one for lists in sandbox.state()["customers"].values() for one in lists]

    def _files(self) -> list[Any]:
        client = self.s3.client()
        try:
            objects = client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
            try:
                uploads = client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
            except client.exceptions.NoSuchUpload:  # rclone's way to say that there is none
                uploads = []
        finally:
            client.close()
        return [objects, uploads]

    def _mirrors(self) -> dict[str, Any]:
        tables = ("mirror", "mirror_entry", "mirror_added", "mirror_seen")
        with psycopg.connect(self.stack.ledger_url) as db:
            return {
                table: db.execute(
                    "select count(*), md5(string_agg(md5(t::text), '' order by md5(t::text))) "
                    f"from penstock.{table} as t"
                ).fetchone()
                for table in tables
            }


def _held(sandbox: Any, audiences: Any) -> dict[str, Any]:
    state = {k: v for k, v in sandbox.state().items() if k != "usage"}
    return {"state": state, "members": {one: sorted(sandbox.members(one)) for one in audiences}}


@pytest.fixture
def world(
    running: Stack,
    google_sandbox: GoogleAdsSandbox,
    data_manager_sandbox: DataManagerSandbox,
    meta_sandbox: MetaSandbox,
    linkedin_sandbox: LinkedInSandbox,
    s3_server: Rclone,
    bucket: str,
) -> World:
    return World(
        running, google_sandbox, data_manager_sandbox, meta_sandbox, linkedin_sandbox, s3_server,
        bucket,
    )  # fmt: skip


@pytest.fixture
def people(shared_source: str) -> str:
    """The name of a table of 300."""
    table = f"dry_{next(_number)}"
    execute(
        shared_source,
        f"create table {table} (id integer primary key, email text, phone text, first_name text, "
        "last_name text, country text, postal_code text)",
        _insert(table, 1, 300),
    )
    return table


def _insert(table: str, first: int, last: int) -> str:
    return (
        f"insert into {table} select n, 'd' || n || '@example.com', '+4930' || (2000000 + n) "
        f"from generate_series({first}, {last}) as n"
    )


def _source(table: str) -> dict[str, Any]:
    return {"connection": "warehouse", "table": table, "key": "id"}


def _data_manager(user_list: str = USER_LIST) -> dict[str, Any]:
    return {"connection": "data_manager", "kind": "data_manager", "customer_id": CUSTOMER,
            "user_list_id": user_list, "terms_accepted": True}  # fmt: skip


def _linkedin(**audience: Any) -> dict[str, Any]:
    return {"connection": "linkedin", "kind": "linkedin", **audience}


def _cli(stack: Stack, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *argv], check=False, capture_output=True, text=True,
        encoding="utf-8", timeout=300,
        env=env | {"PENSTOCK_BROKER_URL": stack.broker_url, "PENSTOCK_LEDGER_URL": stack.ledger_url,
                   "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"},
    )  # fmt: skip


def test_nothing_changes_and_everything_is_counted(
    world: World, people: str, shared_source: str, tmp_path: Path
) -> None:
    number = next(_ids)
    segment = str(world.linkedin.add_audience(id=str(number))["id"])
    to_mirror = [
        {**destination, "lane": lane, "mode": "mirror"}
        for lane, destination in zip(
            ONE_OF_EACH,
            (GOOGLE, _data_manager(), META, _linkedin(audience_id=segment)),
            strict=True,
        )
    ]
    spec = {
        "name": f"dry {number}",
        "source": _source(people),
        "destinations": to_mirror,
        "batch_rows": 100,
    }
    real = world.stack.client.submit(spec)
    status = world.stack.wait(real)
    assert status["state"] == "succeeded", status
    assert [lane["accepted"] for lane in status["lanes"]] == [300] * 4

    execute(
        shared_source,
        f"delete from {people} where id <= 10",
        _insert(people, 301, 320),
        f"insert into {people} (id, email) values (321, 'has no mail')",
        # Google checks it where it can be asked to.
        f"insert into {people} values "
        "(322, 'd322@example.com', null, 'Ann', 'Bee', 'DE', 'Postfach 3/22')",
    )
    new = {"audience": f"never made {number}", "create": True}
    spec["destinations"] = [
        *to_mirror,
        {**GOOGLE, "lane": "google-add"},
        {"connection": "ads", "customer_id": CUSTOMER, **new, "lane": "google-new"},
        {**_data_manager(), "lane": "data-add"},
        {**META, "mode": "replace", "lane": "meta-replace"},
        {"connection": "meta", "account_id": "1000", **new, "lane": "meta-new"},
        _linkedin(account_id="1000", **new, lane="linkedin-new"),
        to_file(world.bucket, lane="file"),
    ]
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec))
    before, called = world.now(), world.calls()

    ran = _cli(world.stack, "submit", str(path), "--dry-run", "--wait")
    assert ran.returncode == 0, ran.stderr
    job = ran.stdout.strip()
    status = world.stack.client.status(job)
    assert (status["state"], status["dry_run"], status["extracted"]) == ("succeeded", True, 312)
    assert sums_are_right(status)
    assert world.now() == before
    for platform, calls in world.calls().items():
        made = {m for m, n in calls.items() if n > called[platform].get(m, 0)}
        assert made, platform
        assert made <= READING[platform], platform

    _check_mirrors(world, status, segment)
    _check_others(world, status, job)
    shown = _cli(world.stack, "status", job)
    assert "nothing was changed anywhere" in shown.stdout

    # The real job's id is taken: nobody mistakes the one for the other.
    with pytest.raises(JobExistsError):
        world.stack.client.submit({**spec, "destinations": to_mirror, "dry_run": True}, real)


def _check_mirrors(world: World, status: dict[str, Any], segment: str) -> None:
    names = {"google": USER_LIST, "data": USER_LIST, "meta": AUDIENCE, "linkedin": segment}
    for name, audience in names.items():
        lane = world.stack.lane(status, name)
        refused = [{"reason": "Google: invalid postal code", "count": 1}] if name == "data" else []
        assert lane["reasons"] == [UNCHANGED, *refused, NOBODY], name
        assert lane["accepted"] == 21 - len(refused)
        details = lane["details"]
        assert details["dry_run"] == "nothing was sent"
        assert details["audience"].endswith(f"(id {audience})")
        # Only the last two of the four batches have anybody new.
        assert details["requests"] == 2, name
        assert "removed" not in details


def _check_others(world: World, status: dict[str, Any], job: str) -> None:
    for name in (
        "google-add",
        "google-new",
        "data-add",
        "meta-replace",
        "meta-new",
        "linkedin-new",
    ):
        lane = world.stack.lane(status, name)
        refused = int(name == "data-add")
        assert (lane["accepted"], lane["rejected"], lane["skipped"]) == (311 - refused, refused, 1)
        assert lane["details"]["requests"] == 4, name
        assert lane["details"]["unusable_values"] == {"email: not an e-mail address": 1}
        assert (lane["details"]["audience"] == "would be created") == name.endswith("-new")
    # The report is that of a real run.
    assert [
        (row["row"], row["field"], row["reason"])
        for row in world.stack.client.rejected(job, "data-add")
    ] == [
        ("321", "email", "not an e-mail address"),
        ("321", "", "no usable identifier"),
        ("322", "postal_code", "Google: invalid postal code"),
    ]
    lane = world.stack.lane(status, "file")
    assert (lane["accepted"], lane["artifacts"]) == (312, [])
    details = lane["details"]
    assert details["dry_run"] == "nothing was written"
    assert details["would_write"] == f"s3://{world.bucket}/{job}.csv.gz"
    assert details["exists_already"] is False
    assert details["bytes_it_would_write"] > 0


def test_without_its_audience_a_lane_fails_and_a_retry_is_a_dry_run_too(
    world: World, people: str
) -> None:
    number = str(next(_ids))
    destinations = [
        {**GOOGLE, "user_list_id": number, "lane": "google"},
        {**_data_manager(number), "lane": "data"},
        {**META, "audience_id": number, "lane": "meta"},
        {**_linkedin(audience_id=number), "lane": "linkedin"},
    ]
    by_name = [
        {"connection": "ads", "customer_id": CUSTOMER, "lane": "google-name"},
        {"connection": "meta", "account_id": "1000", "lane": "meta-name"},
        _linkedin(account_id="1000", lane="linkedin-name"),
    ]
    destinations += [{**one, "audience": f"List {number}"} for one in by_name]
    before = world.now()
    job = world.stack.client.submit(
        {"name": "absent", "source": _source(people), "destinations": destinations,
         "batch_rows": 100, "dry_run": True}
    )  # fmt: skip
    status = world.stack.wait(job)
    assert (status["state"], status["dry_run"]) == ("failed", True)
    assert sums_are_right(status)
    for lane in status["lanes"]:
        assert lane["state"] == "failed"
        assert number in lane["error"], lane
        assert lane["error"].endswith(".")
        assert lane["accepted"] == 0
    assert world.now() == before

    for sandbox in (world.google, world.data_manager):
        sandbox.add_audience(customer_id=CUSTOMER, user_list_id=number, name=f"List {number}")
    for sandbox in (world.meta, world.linkedin):
        sandbox.add_audience(id=number, name=f"List {number}")
    before = world.now()
    again = world.stack.client.retry(job)
    status = world.stack.wait(again)
    assert (status["state"], status["dry_run"], status["retry_of"]) == ("succeeded", True, job)
    for lane in status["lanes"]:
        assert lane["accepted"] == 300
        assert lane["details"]["audience"] == f"List {number} (id {number})"
    assert world.now() == before


def test_without_a_row_an_audience_is_looked_for_all_the_same(world: World, people: str) -> None:
    absent = str(next(_ids))
    source = {"connection": "warehouse", "query": f"select * from {people} where id < 0"}
    job = world.stack.client.submit(
        {"name": "empty", "source": source, "dry_run": True,
         "destinations": [META, {**META, "audience_id": absent, "lane": "absent"}]}
    )  # fmt: skip
    status = world.stack.wait(job)
    assert status["state"] == "partial", status
    assert world.stack.lane(status, "meta")["details"]["audience"] == f"Newsletter (id {AUDIENCE})"
    assert absent in world.stack.lane(status, "absent")["error"]
