"""The servers and workers that the benches measure, and how they are measured."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from penstock import Client
from penstock.ledger import Ledger
from penstock.settings import ClientSettings
from sandbox.customers import create_customers
from sandbox.playground import connections_toml
from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Postgres, Process, Rclone, Redis
from sandbox.servers.family import descendants
from sandbox.workers import Beat, Worker

_TICKS = os.sysconf("SC_CLK_TCK")
BUCKET = "bench"
GOOGLE = {"connection": "ads", "customer_id": "1234567890", "user_list_id": "111"}
META = {"connection": "meta", "audience_id": "222"}
FILE = {"connection": "files", "bucket": BUCKET, "key": "{job_id}.csv.gz"}


class Rig:
    """Servers of the bench's own. A source table stays over several measurements."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
        self.directory.chmod(0o755)
        self._open = ExitStack()
        # Behind the servers: a million members leave a gigabyte.
        self._open.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._databases = 0

    def __enter__(self) -> Self:
        self.postgres = self._open.enter_context(Postgres(self.directory / "postgres"))
        self.s3 = self._open.enter_context(Rclone(self.directory / "s3"))
        self.s3.create_bucket(BUCKET)
        self.source_url = self.postgres.create_database("source")
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def customers(self, rows: int) -> dict[str, Any]:
        create_customers(self.source_url, rows)
        return {"connection": "warehouse", "table": "customers", "key": "id"}

    @contextmanager
    def workers(self, *kinds: str, platforms: bool = False) -> Iterator[Run]:
        """One worker each, on a Redis and a ledger of their own."""
        self._databases += 1
        here = self.directory / f"run-{self._databases}"
        with ExitStack() as stack:
            redis = stack.enter_context(Redis(here / "redis"))
            servers: dict[str, Process] = {"redis": redis}
            google = GoogleAdsSandbox(here)
            meta = MetaSandbox(here)
            if platforms:
                servers |= {"sandbox google": google, "sandbox meta": meta}
                stack.enter_context(google)
                stack.enter_context(meta)
            ledger_url = self.postgres.create_database(f"ledger_{self._databases}")
            path = here / "connections.toml"
            path.write_text(connections_toml(self.source_url, google, meta, self.s3))
            env = {
                "PENSTOCK_BROKER_URL": redis.url,
                "PENSTOCK_LEDGER_URL": ledger_url,
                "PENSTOCK_CONNECTIONS": str(path),
                "PENSTOCK_POLL_SECONDS": "1",
                "PENSTOCK_SWEEP_SECONDS": "1",
            }
            ledger = Ledger(ledger_url)
            ledger.migrate()
            ledger.close()
            processes: dict[str, Process] = {
                kind: stack.enter_context(Worker(kind, env=env, directory=here)) for kind in kinds
            }
            processes["beat"] = stack.enter_context(Beat(env=env, directory=here))
            client = stack.enter_context(
                Client(settings=ClientSettings(broker_url=redis.url, ledger_url=ledger_url))
            )
            yield Run(client, redis, processes, servers)


@dataclass
class Run:
    client: Client
    redis: Redis
    processes: dict[str, Process]
    servers: dict[str, Process]
    messages: int = field(default=0)

    def job(self, **spec: Any) -> tuple[dict[str, Any], float]:
        """Run one job; its status and its seconds from submit to end."""
        started = time.perf_counter()
        job_id = self.client.submit({"name": "bench", **spec})
        status: dict[str, Any] = {}
        for status in self.client.watch(job_id, every=0.05):  # noqa: B007 - the last one counts
            pass
        seconds = time.perf_counter() - started
        if status["state"] != "succeeded":
            raise SystemExit(f"the job ended as {status['state']}: {status}")
        return status, seconds

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each process and its children since it started."""
        return {name: cpu_of(process.pid) for name, process in self.processes.items()}

    def peaks(self) -> dict[str, float]:
        """The largest resident size in MB that any process of a kind ever had."""
        return {
            name: max(map(_peak, [process.pid, *descendants(process.pid)]))
            for name, process in self.processes.items()
        }


def cpu_of(pid: int) -> float:
    total = 0.0
    for each in {pid, *descendants(pid)}:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        # With those of its children that have ended, such as a database's backends.
        total += sum(map(int, fields[11:15])) / _TICKS
    return total


def _peak(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM")), 0.0)
