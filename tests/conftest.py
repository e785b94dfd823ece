"""Real servers for the tests. Where one can't be found the test fails: nothing is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sandbox.servers import (
    DataManagerSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
    Moto,
    Postgres,
    Rclone,
    Redis,
)
from sandbox.servers.redis import DATABASES
from tests.builders import Books, books, database

_PLATFORMS = ("google_sandbox", "data_manager_sandbox", "meta_sandbox", "linkedin_sandbox")
_number = count(1)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Shared: never restart, kill or fill it; that is what `private_redis` is for."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Shared: never restart or kill it; that is what `private_postgres` is for."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    with Rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def google_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleAdsSandbox]:
    """Reset before each test that asks for it; audiences and settings stay."""
    with GoogleAdsSandbox(tmp_path_factory.mktemp("google")) as server:
        yield server


@pytest.fixture(scope="session")
def meta_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MetaSandbox]:
    """Reset before each test that asks for it; audiences and settings stay."""
    with MetaSandbox(tmp_path_factory.mktemp("meta")) as server:
        yield server


@pytest.fixture(scope="session")
def data_manager_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataManagerSandbox]:
    """Reset before each test that asks for it; audiences and settings stay."""
    with DataManagerSandbox(tmp_path_factory.mktemp("data_manager")) as server:
        yield server


@pytest.fixture(scope="session")
def linkedin_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedInSandbox]:
    """Reset before each test that asks for it; audiences and settings stay."""
    with LinkedInSandbox(tmp_path_factory.mktemp("linkedin")) as server:
        yield server


@pytest.fixture(autouse=True)
def _reset_platforms(request: pytest.FixtureRequest) -> None:
    for name in _PLATFORMS:
        if name in request.fixturenames:
            request.getfixturevalue(name).reset()


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[Redis]:
    """For a test that kills, restarts, fills or stalls it."""
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def private_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """For a test that kills, restarts or stalls it."""
    with Postgres(tmp_path / "postgres") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """An empty numbered database, not 0, which tests share. The numbers go round, so that what an earlier test left running
    writes somewhere else."""
    number = 1 + next(_number) % (DATABASES - 1)
    with redis_server.client(number) as client:
        client.flushdb()
    return redis_server.database_url(number)


@pytest.fixture
def ledger_url(postgres_server: Postgres) -> Iterator[str]:
    """An empty database."""
    yield from _database(postgres_server, "ledger")


@pytest.fixture
def source_url(postgres_server: Postgres) -> Iterator[str]:
    """An empty database, another than the ledger's."""
    yield from _database(postgres_server, "source")


@pytest.fixture
def bucket(s3_server: Rclone) -> str:
    """The name of an empty bucket of `s3_server`."""
    return s3_server.create_bucket(f"bucket-{next(_number)}")


def _database(server: Postgres, purpose: str) -> Iterator[str]:
    name = f"{purpose}_{next(_number)}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture(scope="module")
def shared_url(postgres_server: Postgres) -> Iterator[str]:
    """A database that the tests of one module share."""
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def book(shared_url: str) -> Iterator[Books]:
    """An empty ledger in it."""
    with books(shared_url) as found:
        yield found
