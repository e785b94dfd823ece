"""`make dev`: the demo's servers and workers with Flower, until Ctrl-C; for a first real list."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import threading
from pathlib import Path

from rich.console import Console

from penstock import Client, JobSpec, PenstockError
from penstock.connections import Connections
from penstock.settings import ClientSettings
from sandbox.customers import create_customers
from sandbox.playground import BUCKET, Playground

_JOB = f"""\
name = "newsletter"

[source]
connection = "warehouse"
table = "customers"
key = "id"

[[destinations]]
connection = "ads"
customer_id = "1234567890"
user_list_id = "111"

[[destinations]]
connection = "meta"
audience_id = "222"

[[destinations]]
connection = "files"
bucket = "{BUCKET}"
key = "exports/{{job_id}}.csv.gz"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make dev", description=__doc__)
    parser.add_argument("--connections", type=Path, help="your own connections.toml")
    parser.add_argument("--job", type=Path, help="a job.toml to submit at the start")
    parser.add_argument("--rows", type=int, default=50_000, help="made-up customers to try with")
    args = parser.parse_args()
    console = Console(highlight=False)
    try:
        # What is wrong with the user's own files is said before anything is started.
        if args.connections:
            Connections.load(args.connections)
        spec = JobSpec.load(args.job) if args.job else None
        _stay(console, args, spec)
    except PenstockError as exc:
        console.print("[red]penstock:[/red]", end=" ")
        # As it is: what stands in brackets is a table's name.
        console.print(str(exc), markup=False)
        return 2
    return 0


def _stay(console: Console, args: argparse.Namespace, spec: JobSpec | None) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Playground(
        connections=args.connections, flower=True, all_platforms=True, say=console.print
    ) as ground:
        run = Path(".run")
        run.mkdir(exist_ok=True)
        job = args.job or Path("job.toml")
        if args.connections is None:
            create_customers(ground.source_url, args.rows)
            if args.job is None:
                job = run / "job.toml"
                job.write_text(_JOB, encoding="utf-8")
        env = run / "env"
        env.write_text(
            "".join(f"export {name}='{value}'\n" for name, value in ground.env.items()),
            encoding="utf-8",
        )
        try:
            _tell(console, ground, env, job)
            if spec is not None:
                _submit(console, ground, spec)
            while not ended.wait(1):
                pass
            console.print("\nstopping")
        finally:
            shutil.rmtree(run)


def _submit(console: Console, ground: Playground, spec: JobSpec) -> None:
    settings = ClientSettings(
        broker_url=ground.redis.url, ledger_url=ground.ledger_url, connections=ground.connections
    )
    with Client(settings=settings) as client:
        try:
            job_id = client.submit(spec)
        except PenstockError as exc:
            console.print(f"[red]The job is not submitted:[/red] {exc}")
            return
    console.print(f"submitted as [bold]{job_id}[/bold]; follow it: penstock watch {job_id}\n")


def _tell(console: Console, ground: Playground, env: Path, job: Path) -> None:
    flower = ground.flower.url if ground.flower else ""
    console.print(
        f"""
[bold]Penstock is running.[/bold] Ctrl-C stops it and removes what it made.

  Flower        {flower}
  broker        {ground.redis.url}
  ledger        {ground.ledger_url}
  connections   {ground.connections}
  S3            {ground.s3.endpoint_url}
  Stand-ins, what they know, and where to ask what they hold:
  Google Ads    customer 1234567890, list 111      {ground.google.control_url}/members/111
  Data Manager  customer 1234567890, list 111      {ground.data_manager.control_url}/members/111
  Meta          account 1000, audience 222         {ground.meta.control_url}/members/222
  LinkedIn      account 1000, audience 222         {ground.linkedin.control_url}/members/222
  logs          {ground.directory / "logs"}

In another terminal:

  . .venv/bin/activate && . {env}
  penstock doctor
  penstock submit {job} --wait
""",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
