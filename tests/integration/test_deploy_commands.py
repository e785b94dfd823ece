"""The commands of deploy/ run as they stand, with the settings of env.example, and stop well."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from penstock import routes
from penstock.ledger import Ledger
from sandbox.servers import Process, free_port
from tests.deployment import DEPLOY, ROOT, env_example, own_services, service_command, targets
from tests.harness import wait_for

BIN = Path(sys.executable).parent
WORKERS = [name for name in own_services() if service_command(name)[3:4] == ["worker"]]
LOGIN = "someone:a-password"


@pytest.fixture
def env(redis_url: str, ledger_url: str) -> dict[str, str]:
    """What .env says once it is copied, with this test's servers."""
    return {
        **{name: v.value for name, v in env_example().items() if v.active},
        "PENSTOCK_BROKER_URL": redis_url,
        "PENSTOCK_LEDGER_URL": ledger_url,
        "PENSTOCK_CONNECTIONS": str(DEPLOY / "connections.example.toml"),
        "FLOWER_BASIC_AUTH": LOGIN,
        "REMAP_SIGTERM": "SIGQUIT",
    }


@pytest.fixture
def tables(ledger_url: str) -> Iterator[None]:
    ledger = Ledger(ledger_url)
    ledger.migrate()
    yield
    ledger.close()


def installed(command: list[str]) -> list[str]:
    return [str(BIN / command[0]), *command[1:]]


def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": str(BIN), **env},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def healthy(env: dict[str, str]) -> tuple[int, str]:
    done = run([sys.executable, str(DEPLOY / "healthy.py")], env)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.strip()


def worker(name: str, env: dict[str, str], directory: Path) -> Process:
    process = Process(
        installed(service_command(name)),
        log_path=directory / f"{name}.log",
        ready=lambda: " ready." in process.output(),
        env=env,
        cwd=ROOT,
        start_timeout=180,
    )
    return process


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_starts_answers_and_stops(name: str, env: dict[str, str], tmp_path: Path) -> None:
    with worker(name, env, tmp_path) as process:
        assert healthy(env) == (0, "the worker answers")
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
        # By REMAP_SIGTERM: a warm shutdown would wait for its tasks as long as they take.
        assert "Cold shutdown" in process.output()
        assert "Traceback" not in process.output()


@pytest.mark.usefixtures("tables")
def test_beat_sends_the_sweep_writes_nothing_and_stops(
    env: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    # Away from the tree, so that a file that beat keeps would be seen: the image is read-only.
    directory = tmp_path / "empty"
    directory.mkdir()
    beat = Process(
        installed(service_command("beat")),
        log_path=tmp_path / "beat.log",
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=directory,
    )
    with beat, Redis.from_url(redis_url) as client:
        wait_for(lambda: client.llen(routes.QUEUES[routes.SWEEP]))
        assert not list(directory.iterdir())
        beat.send_signal(signal.SIGTERM)
        assert beat.wait(180) == 0


@pytest.mark.usefixtures("tables")
def test_flower_asks_for_the_password_and_stops(env: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    command = [part.replace("5555", str(port)) for part in service_command("flower")]
    assert command != service_command("flower")
    flower = Process(
        installed(command),
        log_path=tmp_path / "flower.log",
        ready=lambda: "Visit me at" in flower.output(),
        env=env,
        cwd=ROOT,
        start_timeout=180,
    )
    with flower:
        check = json.loads(targets()["flower"].all("HEALTHCHECK")[-1].split("CMD ", 1)[1])
        here = [part.replace("5555", str(port)) for part in check[1:]]
        assert run([sys.executable, *here], {}).returncode == 0
        page = urllib.request.Request(f"http://127.0.0.1:{port}/")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(page, timeout=60)
        assert refused.value.code == 401
        refused.value.close()
        page.add_header("Authorization", "Basic " + base64.b64encode(LOGIN.encode()).decode())
        with urllib.request.urlopen(page, timeout=60) as answer:
            assert answer.status == 200
        flower.send_signal(signal.SIGTERM)
        assert flower.wait(180) == 0
        assert run([sys.executable, *here], {}).returncode != 0


def test_init_makes_the_tables_with_the_ledgers_address_alone(
    env: dict[str, str], ledger_url: str
) -> None:
    alone = {"PENSTOCK_LEDGER_URL": env["PENSTOCK_LEDGER_URL"]}
    for _ in range(2):
        done = run(installed(service_command("init")), alone)
        assert done.returncode == 0, done.stderr
    ledger = Ledger(ledger_url)
    ledger.check()
    ledger.close()


@pytest.mark.usefixtures("tables")
def test_a_worker_that_is_stuck_is_not_healthy(env: dict[str, str], tmp_path: Path) -> None:
    with worker("jobs", env, tmp_path) as process:
        process.pause()
        assert healthy(env) == (1, "the worker does not answer")
        process.resume()
        assert healthy(env) == (0, "the worker answers")


@pytest.mark.usefixtures("tables")
def test_no_worker_is_blamed_for_its_servers(env: dict[str, str]) -> None:
    assert healthy(env)[0] == 1
    away = f"127.0.0.1:{free_port()}"
    code, said = healthy({**env, "PENSTOCK_BROKER_URL": f"redis://{away}/0"})
    assert (code, said.split(":")[0]) == (0, "Redis cannot be reached")
    code, said = healthy({**env, "PENSTOCK_LEDGER_URL": f"postgresql://penstock@{away}/ledger"})
    assert (code, said.split(":")[0]) == (0, "the ledger is not ready")


def test_a_ledger_without_tables_is_one_that_workers_wait_for(env: dict[str, str]) -> None:
    code, said = healthy(env)
    assert (code, said.split(":")[0]) == (0, "the ledger is not ready")


def test_a_check_without_settings_says_what_is_missing() -> None:
    assert healthy({}) == (1, "PENSTOCK_BROKER_URL is not set (nor PENSTOCK_BROKER_URL_FILE).")
