"""A whole Penstock for a test: real workers in processes of their own, on servers of the test's."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from penstock import Client
from penstock.settings import ClientSettings
from sandbox.servers import Process
from sandbox.workers import QUEUES, Beat, Worker

CUSTOMER, USER_LIST, AUDIENCE = "1234567890", "111", "222"

T = TypeVar("T")


def wait_for(what: Callable[[], T], timeout: float = 180, every: float = 0.1) -> T:
    """The first true value; the deadline is there only so that a broken test ends."""
    until = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(every)
    return found


@dataclass
class Stack:
    """Workers, beat and a client. Times are short, so that repairs are seen soon."""

    directory: Path
    broker_url: str
    ledger_url: str
    connections: dict[str, dict[str, Any]]
    env: dict[str, str] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "connections.toml"
        path.write_text(
            "\n".join(
                f"[{name}]\n" + "\n".join(f"{k} = {_toml(v)}" for k, v in table.items())
                for name, table in self.connections.items()
            ),
            encoding="utf-8",
        )
        self.env = {
            "PENSTOCK_BROKER_URL": self.broker_url,
            "PENSTOCK_LEDGER_URL": self.ledger_url,
            "PENSTOCK_CONNECTIONS": str(path),
            "PENSTOCK_LEASE_SECONDS": "4",
            "PENSTOCK_GRACE_SECONDS": "3",
            "PENSTOCK_SWEEP_SECONDS": "1",
            "PENSTOCK_POLL_SECONDS": "1",
            "PENSTOCK_LINGER_SECONDS": "1",
            **self.env,
        }
        self.client = Client(
            settings=ClientSettings(broker_url=self.broker_url, ledger_url=self.ledger_url)
        )
        self.client.ledger.migrate()

    def start(self, *what: str, beat: bool = True, slots: int = 0) -> Self:
        """Workers of the named kinds (all of them if none is named), and beat."""
        for kind in what or QUEUES:
            self.add(kind, slots=slots)
        if beat:
            self.processes["beat"] = Beat(env=self.env, directory=self.directory)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda p: p.start(), [p for p in self.processes.values() if not p.alive]))
        return self

    def add(self, kind: str, number: int = 1, slots: int = 0) -> Worker:
        worker = Worker(kind, env=self.env, directory=self.directory, number=number, slots=slots)
        self.processes[f"{kind}-{number}"] = worker
        return worker

    def __getitem__(self, name: str) -> Process:
        return self.processes[name if name in self.processes else f"{name}-1"]

    def wait(self, job_id: str, timeout: float = 240) -> dict[str, Any]:
        return self.client.wait(job_id, timeout)

    def lane(self, status: dict[str, Any], lane: str) -> dict[str, Any]:
        return next(x for x in status["lanes"] if x["lane"] == lane)

    def logs(self) -> str:
        return "\n".join(p.log_path.read_text(errors="replace") for p in self.processes.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        for process in reversed(self.processes.values()):
            process.kill()


SOURCE = {"connection": "warehouse", "table": "customers", "key": "id"}
GOOGLE = {"connection": "ads", "customer_id": CUSTOMER, "user_list_id": USER_LIST}
META = {"connection": "meta", "audience_id": AUDIENCE}


def to_file(bucket: str, key: str = "{job_id}.csv.gz", **more: Any) -> dict[str, Any]:
    return {"connection": "files", "bucket": bucket, "key": key, **more}


def sums_are_right(status: dict[str, Any]) -> bool:
    """Every row of every lane is counted once, and each that did not arrive has its reason."""
    return all(
        lane["rows"] == status["extracted"]
        and lane["accepted"] + lane["rejected"] + lane["skipped"] + lane["failed"] == lane["rows"]
        and sum(r["count"] for r in lane["reasons"]) == lane["rows"] - lane["accepted"]
        for lane in status["lanes"]
    )


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
