"""A whole job to destinations of one's own, whose workers are killed in the middle of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.customers import create_customers
from sandbox.servers import EndpointSandbox
from tests.harness import SOURCE, Stack, sums_are_right, wait_for

ROWS = 6_000
BATCH, REQUEST = 500, 250

#: Takes each batch into a file of its own, and is slow enough to be killed at it.
FUNCTION = """
import json
import os
import time
from pathlib import Path

from penstock.processor import RejectBatch


def take(rows, batch):
    directory = Path(batch.options["directory"])
    name = batch.key.replace("/", "_")
    with (directory / "calls").open("a") as calls:
        calls.write(name + "\\n")
    emails = rows.column("email").to_pylist()
    if int(batch.options["bad_seq"]) == batch.seq and 3 in rows["penstock_row"].to_pylist():
        raise RejectBatch("cannot be taken")
    time.sleep(0.05)
    rejected = [n for n, email in enumerate(emails) if email is None]
    taken = [email.hex() for email in emails if email is not None]
    (directory / f"{name}.tmp").write_text(json.dumps(taken))
    os.replace(directory / f"{name}.tmp", directory / f"{name}.json")
    return [(n, "no e-mail address") for n in rejected]
"""


@dataclass
class Own:
    """Both kinds: what they were given."""

    stack: Stack
    endpoint: EndpointSandbox
    taken: Path

    def calls(self) -> list[str]:
        path = self.taken / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def people(self) -> list[str]:
        return [one for p in self.taken.glob("*.json") for one in json.loads(p.read_text())]


@pytest.fixture
def own(tmp_path: Path, redis_url: str, ledger_url: str, source_url: str) -> Iterator[Own]:
    for name in ("modules", "taken"):
        (tmp_path / name).mkdir()
    (tmp_path / "modules" / "own_destination.py").write_text(FUNCTION)
    with EndpointSandbox(tmp_path / "endpoint", arguments=("--secret", "shared")) as endpoint:
        connections = {
            "warehouse": {"kind": "postgres", "url": source_url},
            "crm": {"kind": "http", "url": endpoint.url, "secret": "shared"},
            "people": {"kind": "python", "function": "own_destination:take"},
        }
        env = {"PYTHONPATH": str(tmp_path / "modules")}
        with Stack(tmp_path / "stack", redis_url, ledger_url, connections, env) as stack:
            yield Own(stack, endpoint, tmp_path / "taken")


def test_every_row_once_though_the_uploaders_are_killed(own: Own, source_url: str) -> None:
    expected = create_customers(source_url, ROWS)
    own.endpoint.fault("post", "slow", times=-1, delay=0.1)
    # Its answer is lost: the endpoint has the rows, and Penstock does not know.
    own.endpoint.fault("post", "drop_after", after=3)
    own.endpoint.settings(rejected={"17": "blocked"}, refused=["2018"])
    options = {"directory": str(own.taken), "bad_seq": "2"}
    stack = own.stack.start("jobs", "extract", "upload.http", "upload.python", slots=2)
    job = stack.client.submit(
        {
            "name": "own",
            "source": SOURCE,
            "batch_rows": BATCH,
            "destinations": [
                {"kind": "http", "connection": "crm", "max_rows": REQUEST},
                {"kind": "python", "connection": "people", "form": "meta", "max_rows": REQUEST,
                 "options": options},
            ],
        }
    )  # fmt: skip
    wait_for(lambda: len(own.endpoint.state().get("crm", {}).get("columns", [])), every=0.02)
    wait_for(lambda: own.endpoint.count("crm") >= 1_000 and len(own.calls()) >= 4, every=0.02)
    for kind in ("upload.http", "upload.python"):
        stack[kind].kill()
    assert own.endpoint.count("crm") < ROWS, "it had ended: the test proves nothing"
    for kind in ("upload.http", "upload.python"):
        stack[kind].start()
    status = stack.wait(job)

    assert sums_are_right(status)
    assert status["state"] == "succeeded", status
    crm, people = stack.lane(status, "crm"), stack.lane(status, "people")
    # One row that the endpoint names, and one for which it refuses all that come with it.
    assert (crm["accepted"], crm["rejected"]) == (ROWS - 2, 2)
    assert {r["reason"] for r in crm["reasons"]} == {
        "blocked", "the endpoint refused the batch (HTTP 422)",
    }  # fmt: skip
    ids = sorted(int(json.loads(row)[0]) for row in own.endpoint.members("crm"))
    assert ids == [n for n in range(1, ROWS + 1) if n not in (17, 2018)]
    seen = own.endpoint.state()["crm"]
    assert seen["repeated"] >= 1
    assert seen["replaced"] == 0
    assert [(e["event"], e["accepted"]) for e in seen["ends"]] == [("closed", ROWS - 2)]

    assert people["accepted"] == expected.identifiable - 1
    assert {"cannot be taken"} < {r["reason"] for r in people["reasons"]}
    found = own.people()
    assert len(found) == len(set(found)) == people["accepted"]
    report = list(stack.client.rejected(job, "crm"))
    assert [(r["row"], r["field"]) for r in report] == [
        ("batch 0, row 17", "id"), ("batch 4, row 18", ""),
    ]  # fmt: skip
    assert "example.com" not in stack.logs()


def test_an_endpoint_that_refuses_ends_its_lane_alone(own: Own, source_url: str) -> None:
    expected = create_customers(source_url, 600)
    own.endpoint.fault("post", "status", times=-1, data={"status": 403})
    stack = own.stack.start("jobs", "extract", "upload.http", "upload.python")
    options = {"directory": str(own.taken), "bad_seq": "-1"}
    job = stack.client.submit(
        {
            "name": "own",
            "source": SOURCE,
            "batch_rows": 200,
            "destinations": [
                {"kind": "http", "connection": "crm", "encoding": "arrow"},
                {"kind": "python", "connection": "people", "form": "meta", "options": options},
            ],
        }
    )
    status = stack.wait(job)
    assert status["state"] == "partial", status
    assert sums_are_right(status)
    crm = stack.lane(status, "crm")
    assert crm["state"] == "failed"
    assert "HTTP 403" in crm["error"]
    assert crm["details"] == {"end": "the endpoint was not told"}
    assert stack.lane(status, "people")["accepted"] == expected.identifiable
    assert own.endpoint.state() == {}
