"""`make demo`: 200,000 made-up customers to Google, Meta and a file, on servers of its own."""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import sys
import time
import urllib.request
from typing import Any

from rich.console import Console

from penstock import Client
from penstock.command import watch
from penstock.settings import ClientSettings
from sandbox.customers import Expected, create_customers
from sandbox.playground import BUCKET, Playground

JOB = {
    "name": "newsletter",
    "source": {"connection": "warehouse", "table": "customers", "key": "id"},
    "destinations": [
        {"connection": "ads", "customer_id": "1234567890", "user_list_id": "111"},
        {"connection": "meta", "audience_id": "222"},
        {"connection": "files", "bucket": BUCKET, "key": "exports/{job_id}.csv.gz"},
    ],
    "batch_rows": 5_000,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    console = Console()
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f}s[/dim]  {text}")

    with Playground(say=say) as ground:
        say(f"making {args.rows:,} customers in Postgres")
        expected = create_customers(ground.source_url, args.rows)
        settings = ClientSettings(
            broker_url=ground.redis.url,
            ledger_url=ground.ledger_url,
            connections=ground.connections,
        )
        with Client(settings=settings) as client:
            job = client.submit(JOB, job_id="demo")
            say(f"submitted job [bold]{job}[/bold]: one source, three lanes\n")
            follow = watch.live if sys.stdout.isatty() else watch.lines
            state = follow(client.watch(job, every=0.25), sys.stdout)
            status = client.status(job)
        wrong = list(_checked(console, ground, status, expected))
        say("stopping and removing everything this started")
    for problem in wrong:
        console.print(f"[red]wrong:[/red] {problem}")
    say("done" if state == "succeeded" and not wrong else f"the job ended as {state}")
    return 0 if state == "succeeded" and not wrong else 1


def _checked(
    console: Console, ground: Playground, status: dict[str, Any], expected: Expected
) -> Any:
    """Ask the platforms and the store what they hold, and yield what is not as it should be."""
    console.print()
    for name, count in (("Google", ground.google.count("111")), ("Meta", ground.meta.count("222"))):
        console.print(f"{name}'s sandbox holds [bold]{count:,}[/bold] members")
        if count != expected.identifiable:
            yield f"{name} should hold {expected.identifiable:,}"
    artifacts = [a for lane in status["lanes"] for a in lane["artifacts"]]
    if not artifacts:
        yield f"there is no file: {json.dumps(status)}"
        return
    [artifact] = artifacts
    with urllib.request.urlopen(artifact["url"], timeout=60) as answer:
        data = answer.read()
    table = csv.reader(
        io.TextIOWrapper(gzip.GzipFile(fileobj=io.BytesIO(data)), "utf-8", newline="")
    )
    rows = sum(1 for _ in table) - 1
    console.print(
        f"The link gave [bold]{len(data):,}[/bold] bytes, [bold]{rows:,}[/bold] rows and a header"
    )
    if rows != expected.rows:
        yield f"the file should have {expected.rows:,} rows"
    if hashlib.sha256(data).hexdigest() != artifact["sha256"]:
        yield "the file's SHA-256 is not the outcome's"


if __name__ == "__main__":
    sys.exit(main())
