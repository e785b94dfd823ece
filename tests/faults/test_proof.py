"""The proof for the design: kill -9 every few seconds, Redis emptied once, and still exact."""

from __future__ import annotations

import csv
import io
import random
import time
import urllib.request
from pathlib import Path
from typing import Any

from sandbox.customers import create_customers
from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Redis
from tests.harness import AUDIENCE, GOOGLE, META, SOURCE, USER_LIST, Stack, sums_are_right, to_file

BATCHES, BATCH_ROWS = 500, 100
SEED = 20261121


def test_three_lanes_500_batches_kills_and_an_emptied_redis(
    tmp_path: Path,
    private_redis: Redis,
    ledger_url: str,
    source_url: str,
    connections: dict[str, dict[str, Any]],
    bucket: str,
    google_sandbox: GoogleAdsSandbox,
    meta_sandbox: MetaSandbox,
) -> None:
    expected = create_customers(source_url, BATCHES * BATCH_ROWS)
    chance = random.Random(SEED)
    # So that the job lasts for many kills on a quick machine too.
    google_sandbox.fault("add", "slow", times=-1, delay=0.08)
    with Stack(tmp_path / "stack", private_redis.url, ledger_url, connections) as stack:
        stack.start()
        # A second worker of each kind, so that something goes on while the other is down.
        for kind in ("extract", "upload.google_ads", "upload.meta", "export"):
            stack.add(kind, 2).start()
        job = stack.client.submit(
            {
                "name": "proof",
                "source": SOURCE,
                "destinations": [GOOGLE, META, to_file(bucket, compression="none")],
                "batch_rows": BATCH_ROWS,
                "window": 40,
            }
        )
        workers = [name for name in stack.processes if name != "beat"]
        kills, flushed, status = 0, False, stack.client.status(job)
        until = time.monotonic() + 400
        while status["state"] in ("submitted", "running"):
            assert time.monotonic() < until, (SEED, kills, status)
            time.sleep(2)
            victim = stack[chance.choice(workers)]
            victim.kill()
            kills += 1
            if not flushed and status["extracted"] > expected.rows / 3:
                private_redis.flush()
                flushed = True
            victim.start()
            status = stack.client.status(job)
        print(f"seed {SEED}: {kills} kills, Redis emptied: {flushed}")

        assert status["state"] == "succeeded", (SEED, status)
        assert kills >= 5
        assert flushed
        assert status["extracted"] == expected.rows
        assert sums_are_right(status)
        for lane in ("ads", "meta"):
            assert stack.lane(status, lane)["accepted"] == expected.identifiable
        assert google_sandbox.count(USER_LIST) == expected.identifiable
        assert meta_sandbox.count(AUDIENCE) == expected.identifiable
        [artifact] = stack.lane(status, "files")["artifacts"]
        with urllib.request.urlopen(artifact["url"], timeout=60) as answer:
            text = answer.read().decode()
        ids = [int(row[0]) for row in list(csv.reader(io.StringIO(text, newline="")))[1:]]
        assert ids == list(range(1, expected.rows + 1))
        with stack.client.ledger.transaction() as db:
            settled = db.execute(
                "select lane, count(*) as n from penstock.delivery where state = 'settled' "
                "group by lane order by lane"
            ).fetchall()
            parts = db.execute("select max(part) as n from penstock.delivery").fetchone()
        assert [row["n"] for row in settled] == [BATCHES] * 3
        assert parts is not None
        assert parts["n"] >= 2
        assert (
            stack.logs().count(f"job {job} ended") <= 1
        )  # a kill may eat the line, never double it
        assert "@example" not in stack.logs()
        with private_redis.client() as client:
            assert list(client.scan_iter("penstock:payload:*")) == []
