"""A person is erased: out of every audience, kept out of them, and nowhere named."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import psycopg

from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Redis
from tests.builders import execute
from tests.harness import AUDIENCE, GOOGLE, META, USER_LIST, Stack, sums_are_right

ACCOUNT = "1000"
ANN = ("Ann.Bee+news@gmail.com", "+49 (0)30 1234567")
FORGOTTEN = "445"


def _erase(stack: Stack, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", "erase", *argv], check=False,
        capture_output=True, text=True, encoding="utf-8", timeout=300,
        env=env | {"PYTHONIOENCODING": "utf-8", "PENSTOCK_BROKER_URL": stack.broker_url,
                   "PENSTOCK_LEDGER_URL": stack.ledger_url},
    )  # fmt: skip


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _all_of(ledger_url: str) -> str:
    """Every row of the ledger, as text."""
    with psycopg.connect(ledger_url) as db:
        tables = db.execute(
            "select table_name from information_schema.tables where table_schema = 'penstock'"
        ).fetchall()
        rows = [db.execute(f"select to_jsonb(t) from penstock.{t} as t").fetchall() for (t,) in tables]  # fmt: skip
    return json.dumps(rows)


def test_a_person_leaves_every_audience_and_does_not_come_back(
    stack: Stack,
    source_url: str,
    google_sandbox: GoogleAdsSandbox,
    meta_sandbox: MetaSandbox,
    redis_server: Redis,
) -> None:
    execute(
        source_url,
        "create table customers (id int primary key, email text, phone text)",
        f"insert into customers values (1, '{ANN[0]}', '+49301234567'), "
        "(2, null, '+49 30 1234567'), (3, 'bob@example.com', null)",
    )
    meta_sandbox.add_audience(id=FORGOTTEN, name="Forgotten")
    stack.start("jobs", "extract", "upload.google_ads", "upload.meta", slots=1)
    meta = {**META, "account_id": ACCOUNT}
    spec = {
        "name": "all",
        "source": {"connection": "warehouse", "table": "customers", "key": "id"},
        "destinations": [GOOGLE, meta, {**META, "audience_id": FORGOTTEN, "lane": "forgotten"}],
    }
    before = stack.wait(stack.client.submit(spec, "before"))
    assert before["state"] == "succeeded", before
    assert [google_sandbox.count(USER_LIST), meta_sandbox.count(AUDIENCE)] == [3, 3]
    assert meta_sandbox.count(FORGOTTEN) == 3

    # The ledger knows nothing of the one audience any more: Meta takes people out of it all the same.
    spec["destinations"] = [GOOGLE, meta]
    with psycopg.connect(stack.ledger_url, autocommit=True) as db:
        db.execute("delete from penstock.job")
    assert stack.wait(stack.client.submit(spec, "known"))["state"] == "succeeded"

    ran = _erase(stack, "--email", ANN[0], "--phone", ANN[1], "--wait")
    assert ran.returncode == 0, ran.stderr
    job = ran.stdout.strip()
    assert job.startswith("erase-")
    plan = ran.stderr.splitlines()
    assert (
        plan[0] == f"Erasure {job.removeprefix('erase-')}: 2 identifiers, suppressed from now on."
    )
    assert plan[1:5] == [
        f"Job {job} removes them from:",
        f"  meta: meta, audience {AUDIENCE} of account {ACCOUNT}",
        f"  ads: google_ads, audience {USER_LIST} of account {GOOGLE['customer_id']}",
        f"  meta-2: meta, every audience of account {ACCOUNT}",
    ]
    status = stack.client.status(job)
    assert (status["name"], status["state"], status["extracted"]) == ("erasure", "succeeded", 2)
    assert [lane["accepted"] for lane in status["lanes"]] == [2, 2, 2]
    assert sums_are_right(status)

    bob = _sha("bob@example.com")
    held = {
        USER_LIST: google_sandbox.members(USER_LIST),
        **{audience: meta_sandbox.members(audience) for audience in (AUDIENCE, FORGOTTEN)},
    }
    for audience, members in held.items():
        assert len(members) == 1, audience
        assert bob in members[0]

    # The source has the person still.
    after = stack.wait(stack.client.submit(spec, "after"))
    assert after["state"] == "succeeded", after
    for lane in after["lanes"]:
        assert (lane["accepted"], lane["skipped"]) == (1, 2)
        assert lane["reasons"] == [{"reason": "suppressed", "count": 2}]
    assert [google_sandbox.count(USER_LIST), meta_sandbox.count(AUDIENCE)] == [1, 1]

    with redis_server.client(int(stack.broker_url.rpartition("/")[2])) as client:
        kept = repr([(key, client.dump(key)) for key in client.scan_iter("*")])
    told = kept + _all_of(stack.ledger_url) + stack.logs() + ran.stdout + ran.stderr
    for trace in ("ann.bee", "annbee", "Ann.Bee", "30 1234567", "301234567"):
        assert trace not in told


def test_where_nothing_was_sent_the_person_is_suppressed_alone(stack: Stack) -> None:
    ran = _erase(stack, "--email", ANN[0])
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "1 identifier, suppressed from now on." in ran.stderr
    assert "No audience was ever sent to" in ran.stderr
    digests = [bytes.fromhex(_sha(form)) for form in ("annbee@gmail.com", "ann.bee+news@gmail.com")]
    assert stack.client.ledger.suppression.known(digests) == set(digests)
    assert stack.client.recent() == []


def test_a_mistake_is_told_without_the_value(stack: Stack) -> None:
    ran = _erase(stack, "--phone", "030 1234567")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("penstock: What is given as phone 1 is not a phone number")
    assert "1234567" not in ran.stderr
    assert not stack.client.ledger.suppression.any()
