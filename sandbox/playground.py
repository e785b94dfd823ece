"""All of Penstock on one machine, with servers of its own: what `make demo` and `make dev` run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from penstock.ledger import Ledger
from sandbox.servers import (
    DataManagerSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
    Postgres,
    Process,
    Rclone,
    Redis,
    free_port,
)
from sandbox.workers import QUEUES, Beat, Flower, Worker

BUCKET = "penstock-demo"

_CONNECTIONS = """\
[warehouse]
kind = "postgres"
url = "{source}"

[ads]
kind = "google_ads"
developer_token = "sandbox"
login_customer_id = "1234567890"
endpoint = "{google}"
insecure = true

[meta]
kind = "meta"
access_token = "sandbox"
app_secret = "sandbox-secret"
graph_url = "{meta}"

[files]
kind = "s3"
endpoint_url = "{s3}"
region = "us-east-1"
access_key_id = "{key}"
secret_access_key = "{secret}"
"""

_MORE_CONNECTIONS = """
[data_manager]
kind = "data_manager"
endpoint = "{data_manager}"
insecure = true

[linkedin]
kind = "linkedin"
access_token = "sandbox"
api_url = "{linkedin}"
"""


class Playground:
    """Servers, sandboxes and workers, each a process; all of it goes with the `with` block."""

    def __init__(
        self,
        *,
        connections: Path | None = None,
        flower: bool = False,
        all_platforms: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._own_connections = connections
        self._with_flower = flower
        self._with_all_platforms = all_platforms
        self._say = say
        self._open = ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-"))
        # The database server may run as another user, and must get at its data.
        self.directory.chmod(0o755)
        self.redis = Redis(self.directory / "redis", prefer="wheel", unix_socket=not flower)
        self.postgres = Postgres(self.directory / "postgres", prefer="wheel")
        self.s3 = Rclone(self.directory / "s3")
        self.google = GoogleAdsSandbox(self.directory)
        self.data_manager = DataManagerSandbox(self.directory)
        self.meta = MetaSandbox(self.directory)
        self.linkedin = LinkedInSandbox(self.directory)
        self.flower: Flower | None = None
        self.source_url = self.postgres.database_url("customers")
        self.ledger_url = self.postgres.database_url("ledger")
        self.connections = connections or self.directory / "connections.toml"

    @property
    def env(self) -> dict[str, str]:
        return {
            "PENSTOCK_BROKER_URL": self.redis.url,
            "PENSTOCK_LEDGER_URL": self.ledger_url,
            "PENSTOCK_CONNECTIONS": str(self.connections.resolve()),
            # For a connections.toml of one's own that pairs a real source with the sandboxes.
            "PENSTOCK_SANDBOX_GOOGLE": self.google.endpoint,
            "PENSTOCK_SANDBOX_DATA_MANAGER": self.data_manager.endpoint,
            "PENSTOCK_SANDBOX_META": self.meta.url,
            "PENSTOCK_SANDBOX_LINKEDIN": self.linkedin.url,
            "PENSTOCK_SANDBOX_S3": self.s3.endpoint_url,
            # A demo's platforms are done in a moment; real ones take minutes to hours.
            "PENSTOCK_POLL_SECONDS": "1",
            "PENSTOCK_SWEEP_SECONDS": "1",
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        self._say("starting Redis, Postgres, S3 and the platforms' sandboxes")
        servers: list[Process | Postgres | Redis | Rclone] = [
            self.redis, self.postgres, self.s3, self.google, self.meta,
        ]  # fmt: skip
        if self._with_all_platforms:
            servers += [self.data_manager, self.linkedin]
        for server in servers:
            self._open.enter_context(server)
        for name in ("customers", "ledger"):
            self.postgres.create_database(name)
        self.s3.create_bucket(BUCKET)
        if self._own_connections is None:
            self.connections.write_text(
                connections_toml(self.source_url, self.google, self.meta, self.s3)
                + (self._more_connections() if self._with_all_platforms else ""),
                encoding="utf-8",
            )
        ledger = Ledger(self.ledger_url)
        ledger.migrate()
        ledger.close()
        self._say("starting workers: jobs, extract, upload (Google, Meta), export, and beat")
        logs = self.directory / "logs"
        processes: list[Process] = [
            *(Worker(what, env=self.env, directory=logs) for what in QUEUES),
            Beat(env=self.env, directory=logs),
        ]
        if self._with_flower:
            env = {**self.env, "FLOWER_UNAUTHENTICATED_API": "true"}
            self.flower = Flower(env=env, directory=logs, port=free_port())
            processes.append(self.flower)
        # Importing the SDKs is most of a worker's start: side by side it takes half as long.
        with ThreadPoolExecutor() as pool:
            for process in pool.map(lambda each: each.start(), processes):
                self._open.callback(process.close)

    def _more_connections(self) -> str:
        return _MORE_CONNECTIONS.format(
            data_manager=self.data_manager.endpoint, linkedin=self.linkedin.url
        )


def connections_toml(
    source_url: str, google: GoogleAdsSandbox, meta: MetaSandbox, s3: Rclone
) -> str:
    """A connections.toml that points at private servers."""
    return _CONNECTIONS.format(
        source=source_url,
        google=google.endpoint,
        meta=meta.url,
        s3=s3.endpoint_url,
        key=s3.access_key,
        secret=s3.secret_key,
    )
