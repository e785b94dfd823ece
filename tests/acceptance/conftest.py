"""Most tests share one running Penstock: its workers take ten seconds to start. A test that starts
its own, stops some, or kills them, takes `stack`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sandbox.customers import Expected, create_customers
from sandbox.servers import (
    DataManagerSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
    Postgres,
    Rclone,
    Redis,
)
from tests.harness import Stack

_number = count(1)

Table = Callable[[int], tuple[dict[str, Any], Expected]]


def _connections(
    source_url: str,
    google: GoogleAdsSandbox,
    data_manager: DataManagerSandbox,
    meta: MetaSandbox,
    linkedin: LinkedInSandbox,
    s3: Rclone,
) -> dict[str, dict[str, Any]]:
    return {
        "warehouse": {"kind": "postgres", "url": source_url},
        "ads": {
            "kind": "google_ads",
            "developer_token": "sandbox",
            "endpoint": google.endpoint,
            "insecure": True,
        },
        "meta": {
            "kind": "meta",
            "access_token": "sandbox",
            "app_secret": "sandbox-secret",
            "graph_url": meta.url,
        },
        "data_manager": {
            "kind": "data_manager",
            "endpoint": data_manager.endpoint,
            "insecure": True,
        },
        "linkedin": {
            "kind": "linkedin",
            "access_token": "sandbox",
            "api_url": linkedin.url,
        },
        "files": {
            "kind": "s3",
            "endpoint_url": s3.endpoint_url,
            "region": "us-east-1",
            "access_key_id": s3.access_key,
            "secret_access_key": s3.secret_key,
        },
    }


@pytest.fixture
def connections(
    source_url: str,
    google_sandbox: GoogleAdsSandbox,
    data_manager_sandbox: DataManagerSandbox,
    meta_sandbox: MetaSandbox,
    linkedin_sandbox: LinkedInSandbox,
    s3_server: Rclone,
) -> dict[str, dict[str, Any]]:
    return _connections(
        source_url, google_sandbox, data_manager_sandbox, meta_sandbox, linkedin_sandbox, s3_server
    )


@pytest.fixture
def stack(
    tmp_path: Path, redis_url: str, ledger_url: str, connections: dict[str, dict[str, Any]]
) -> Iterator[Stack]:
    """Not started: a test says which workers it wants."""
    with Stack(tmp_path / "stack", redis_url, ledger_url, connections) as stack:
        yield stack


@pytest.fixture(scope="session")
def shared_source(postgres_server: Postgres) -> str:
    return postgres_server.create_database("shared_source")


@pytest.fixture(scope="session")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: Redis,
    postgres_server: Postgres,
    shared_source: str,
    google_sandbox: GoogleAdsSandbox,
    data_manager_sandbox: DataManagerSandbox,
    meta_sandbox: MetaSandbox,
    linkedin_sandbox: LinkedInSandbox,
    s3_server: Rclone,
) -> Iterator[Stack]:
    """All workers and beat, shared: never stop or kill them."""
    with Stack(
        tmp_path_factory.mktemp("running"),
        redis_server.database_url(0),
        postgres_server.create_database("shared_ledger"),
        _connections(
            shared_source,
            google_sandbox,
            data_manager_sandbox,
            meta_sandbox,
            linkedin_sandbox,
            s3_server,
        ),
    ) as stack:
        yield stack.start()


@pytest.fixture
def customers(shared_source: str) -> Table:
    """Makes a table of the running Penstock's source; the spec's source, and the right figures."""

    def make(rows: int) -> tuple[dict[str, Any], Expected]:
        table = f"customers_{next(_number)}"
        expected = create_customers(shared_source, rows, table)
        return {"connection": "warehouse", "table": table, "key": "id"}, expected

    return make
