"""The command line as a process, against real servers and workers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from penstock.contract import Batch, JobSpec, LaneOutcome, Tally
from penstock.ledger import Ledger
from penstock.ledger.deliveries import Claim
from penstock.ledger.stream import StreamLease
from penstock.ledger.unsent import fail_lane
from penstock.routes import LANE_QUEUES
from sandbox.customers import create_customers
from sandbox.servers import Postgres, Rclone, Redis
from sandbox.servers.process import free_port
from tests.harness import Stack, wait_for

COMMAND = [sys.executable, "-m", "penstock.cli"]
SPEC = {
    "name": "Nightly customers",
    "source": {"connection": "warehouse", "table": "customers", "key": "id"},
    "destinations": [
        {"connection": "meta", "audience_id": "222"},
        {"connection": "files", "bucket": "exports", "key": "{job_id}.csv.gz"},
    ],
}
DEAD = "redis://127.0.0.1:1/0"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What stderr has: one sentence and nothing else."""
        assert self.err.startswith("penstock: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("penstock: ").rstrip()


def _env(**settings: str | None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    env |= {f"PENSTOCK_{name.upper()}": value for name, value in settings.items() if value}
    return env | {"PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color"}


def penstock(*argv: str, stdin: str = "", **settings: str | None) -> Ran:
    done = subprocess.run(
        [*COMMAND, *argv], check=False, input=stdin, capture_output=True, text=True, env=_env(**settings),
        timeout=300, encoding="utf-8",
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    ledger.migrate()
    yield ledger
    ledger.close()


class Played:
    """A job that the ledger's verbs move, as the workers would."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self.ledger, self.job_id, self.seq = ledger, job_id, 0
        ledger.jobs.submit(job_id, JobSpec.parse(SPEC))
        ledger.jobs.open(job_id)
        lease = ledger.stream.lease(job_id)
        assert isinstance(lease, StreamLease)
        self.lease = lease
        ledger.stream.describe(lease, ["id", "email"], 4_000, exact=False)

    def batch(self, rows: int = 1_000) -> None:
        self.ledger.stream.record(self.lease, self.seq, rows, str(self.seq), 100)
        for lane in ("meta", "files"):
            claim = self.ledger.deliveries.claim(Batch(self.job_id, self.seq, 1, lane), "test")
            if isinstance(claim, Claim):
                tally = Tally(accepted=rows - 10)
                tally.count("skipped", 10, "no usable identifier")
                self.ledger.deliveries.settle(claim, tally)
        self.seq += 1

    def fail(self, lane: str) -> None:
        with self.ledger.transaction() as db:
            fail_lane(db, self.job_id, lane, f"No more {lane}.")

    def end(self) -> None:
        if self.ledger.jobs.status(self.job_id)["stage"] == "reading":
            self.ledger.stream.end(self.lease)
        for lane in ("meta", "files"):
            closing = self.ledger.closings.claim(self.job_id, lane, "test")
            assert closing is not None
            assert not isinstance(closing, dict)
            self.ledger.closings.close(closing, LaneOutcome())
        assert self.ledger.jobs.finish(self.job_id)


# --- the ledger alone


def test_init_says_what_it_applied_and_then_that_there_is_nothing_to_do(ledger_url: str) -> None:
    before = penstock("status", ledger_url=ledger_url)
    assert before.code == 6
    assert "run `penstock init`" in before.sentence

    first = penstock("init", ledger_url=ledger_url)
    assert (first.code, first.err) == (0, "")
    assert re.fullmatch(r"(applied \d{4}_\w+\.sql\n)+", first.out)
    again = penstock("init", ledger_url=ledger_url)
    assert (again.code, again.out) == (0, "The ledger is up to date.\n")
    assert penstock("status", ledger_url=ledger_url).out == "No jobs yet.\n"


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("command", [("status",), ("watch",), ("cancel",), ("retry",)])
def test_a_job_that_is_not_there(command: tuple[str, ...], ledger_url: str) -> None:
    ran = penstock(*command, "nope", ledger_url=ledger_url, broker_url=DEAD)
    assert (ran.code, ran.out) == (5, "")
    assert ran.sentence == "There is no job 'nope'."


@pytest.mark.parametrize("argv", [("init",), ("status",), ("watch", "j"), ("cancel", "j")])
def test_a_ledger_that_is_away_is_told_of_without_its_password(argv: tuple[str, ...]) -> None:
    url = f"postgresql://someone:s3cr3t@127.0.0.1:{free_port()}/x"
    ran = penstock(*argv, ledger_url=url, broker_url=DEAD)
    assert (ran.code, ran.out) == (6, "")
    assert "Connection refused" in ran.sentence
    assert "PENSTOCK_LEDGER_URL" in ran.sentence
    assert "s3cr3t" not in ran.err


@pytest.mark.parametrize("url", ["localhost/s3cr3t", "postgresql://a:b@s3cr3t@h/x", "s3cr3t=1"])
def test_an_address_that_is_none_is_not_quoted(url: str) -> None:
    ran = penstock("status", ledger_url=url)
    assert ran.code == 2
    assert ran.sentence.startswith("PENSTOCK_LEDGER_URL is wrong")
    assert "s3cr3t" not in ran.err


def test_status_as_json_is_the_ledgers(ledger: Ledger, ledger_url: str) -> None:
    job = Played(ledger, "j")
    job.batch()
    ran = penstock("status", "j", "--json", ledger_url=ledger_url)
    assert (ran.code, ran.err) == (0, "")
    told, known = json.loads(ran.out), ledger.jobs.status("j")
    told["seconds"] = known["seconds"]
    assert told == known
    assert told["lanes"][0].keys() >= {
        "lane", "kind", "state", "rows", "accepted", "rejected", "skipped", "failed", "reasons",
        "error", "artifacts", "details",
    }  # fmt: skip

    recent = json.loads(penstock("status", "--json", ledger_url=ledger_url).out)
    assert recent == ledger.jobs.recent()


def test_status_as_a_table(ledger: Ledger, ledger_url: str) -> None:
    job = Played(ledger, "j")
    for _ in range(3):
        job.batch()
    job.fail("meta")
    job.batch()
    job.end()
    told = penstock("status", "j", ledger_url=ledger_url).out.splitlines()
    assert told[0] == "Nightly customers"
    assert "read   4,000 rows" in told
    assert "meta   meta  failed     4,000     2,970         0       30   1,000" in told
    assert "files  s3    succeeded  4,000     3,960         0       40       0" in told
    assert "  No more meta." in told
    assert "  1,000  No more meta." in told
    assert "     30  no usable identifier" in told
    [line] = penstock("status", ledger_url=ledger_url).out.splitlines()[1:]
    assert line.split()[:3] == ["j", "partial", "4,000"]
    assert line.endswith("Nightly customers")


# --- watch


@pytest.mark.parametrize(
    ("failing", "state", "code"),
    [((), "succeeded", 0), (("meta",), "partial", 3), (("meta", "files"), "failed", 1)],
)
def test_watch_exits_by_the_outcome(
    ledger: Ledger, ledger_url: str, failing: tuple[str, ...], state: str, code: int
) -> None:
    job = Played(ledger, "j")
    job.batch()
    for lane in failing:
        job.fail(lane)
    job.end()
    ran = penstock("watch", "j", ledger_url=ledger_url)
    assert (ran.code, ran.err) == (code, "")
    line, *outcome = ran.out.splitlines()
    assert outcome == penstock("status", "j", ledger_url=ledger_url).out.splitlines()
    assert f"  {state}, 1,000 rows read | meta 100%, 990 accepted" in line


def test_watch_of_a_cancelled_job(ledger: Ledger, ledger_url: str) -> None:
    ledger.jobs.submit("j", JobSpec.parse(SPEC))
    ledger.jobs.cancel("j")
    assert penstock("watch", "j", ledger_url=ledger_url).code == 4


class Watcher:
    """`penstock watch` at work, its output read as it comes."""

    def __init__(self, *argv: str, terminal: bool = False, **settings: str | None) -> None:
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [*COMMAND, "watch", *argv], env=_env(**settings) | {"COLUMNS": "100", "LINES": "40"},
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.close(theirs)
        self._read = bytearray()
        self._reader = threading.Thread(target=self._drain, args=(ours,))
        self._reader.start()

    def _drain(self, fd: int) -> None:
        while True:
            try:
                block = os.read(fd, 65536)
            except OSError:  # a terminal's way to say that nobody writes any more
                block = b""
            if not block:
                os.close(fd)
                return
            self._read += block

    @property
    def out(self) -> str:
        return bytes(self._read).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.ended()

    def ended(self) -> int:
        assert self.process.stderr
        if not self.process.stderr.closed:
            self.err = self.process.communicate(timeout=120)[1]
        self._reader.join(timeout=60)
        return self.process.returncode


def test_watch_on_a_pipe_has_a_line_per_change_and_the_last(
    ledger: Ledger, ledger_url: str
) -> None:
    job = Played(ledger, "j")
    with Watcher("j", ledger_url=ledger_url) as watcher:
        for n in range(1, 4):
            job.batch()
            wait_for(lambda n=n: f"{n},000 of ≈ 4,000 rows read" in watcher.out)
        job.end()
        assert watcher.ended() == 0
    outcome = penstock("status", "j", ledger_url=ledger_url).out
    assert watcher.out.endswith(outcome)
    lines = watcher.out.removesuffix(outcome).splitlines()
    assert len(set(lines)) == len(lines)
    assert "\x1b" not in watcher.out
    assert "meta ≈ 25%, 990 accepted, 10 skipped" in watcher.out
    assert "succeeded, 3,000 rows read" in lines[-1]


def test_watch_as_json_has_a_document_per_change(ledger: Ledger, ledger_url: str) -> None:
    job = Played(ledger, "j")
    with Watcher("j", "--json", ledger_url=ledger_url) as watcher:
        for n in range(1, 3):
            job.batch()
            wait_for(lambda n=n: f'"extracted": {n}000' in watcher.out)
        job.end()
        assert watcher.ended() == 0
    documents = [json.loads(line) for line in watcher.out.splitlines()]
    read = [document["extracted"] for document in documents]
    assert read == sorted(read)
    assert documents[-1] == ledger.jobs.status("j")


def test_watch_on_a_terminal_draws_bars_and_then_the_outcome(
    ledger: Ledger, ledger_url: str
) -> None:
    job = Played(ledger, "j")
    with Watcher("j", terminal=True, ledger_url=ledger_url) as watcher:
        job.batch()
        wait_for(lambda: "1,000 of ≈ 4,000 rows read" in watcher.out)
        wait_for(lambda: "━━━━" in watcher.out and "≈ 25%" in watcher.out)
        wait_for(lambda: "rows/s" in watcher.out)  # once there is something to tell it from
        job.fail("meta")
        wait_for(lambda: "failing" in watcher.out)
        job.end()
        assert watcher.ended() == 3
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", watcher.out)
    after = plain.rpartition("Nightly customers")[2].split("\r\n")
    assert re.fullmatch(r"state  partial after \d+:\d\d", after[2])
    assert "meta   meta  failed     1,000       990         0       10       0" in after
    assert watcher.out.rstrip().endswith("no usable identifier")
    assert "\x1b[?25h" in watcher.out  # the cursor is back


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_leaves_the_job_running_and_says_so(
    ledger: Ledger, ledger_url: str, terminal: bool
) -> None:
    job = Played(ledger, "j")
    job.batch()
    with Watcher("j", terminal=terminal, ledger_url=ledger_url) as watcher:
        wait_for(lambda: "1,000 of ≈ 4,000 rows read" in watcher.out)
        watcher.process.send_signal(signal.SIGINT)
        assert watcher.ended() == 130
    assert watcher.err.startswith("penstock: Job 'j' goes on: ")
    assert watcher.err.count("\n") == 1
    assert ledger.jobs.status("j")["state"] == "running"


def test_watch_gives_up_when_its_time_is_over(ledger: Ledger, ledger_url: str) -> None:
    Played(ledger, "j")
    ran = penstock("watch", "j", "--timeout", "0.5", ledger_url=ledger_url)
    assert ran.code == 7
    assert "had not ended" in ran.sentence


def test_a_reader_that_goes_away_is_no_error(ledger: Ledger, ledger_url: str) -> None:
    job = Played(ledger, "j")
    process = subprocess.Popen(
        [*COMMAND, "watch", "j", "--json"], env=_env(ledger_url=ledger_url),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    job.batch()
    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_ledger_that_is_away_for_a_moment_is_waited_for(
    private_postgres: Postgres,
) -> None:
    url = private_postgres.create_database("ledger")
    ledger = Ledger(url)
    ledger.migrate()
    job = Played(ledger, "j")
    with Watcher("j", ledger_url=url) as watcher:
        wait_for(lambda: "reading, 0 of" in watcher.out)
        ledger.close()
        private_postgres.restart()
        job.ledger = Ledger(url)
        job.batch()
        job.end()
        assert watcher.ended() == 0
    assert watcher.err == ""
    job.ledger.close()


# --- submit, cancel, retry


def test_submit_prints_the_id_alone(
    tmp_path: Path, redis_server: Redis, redis_url: str, ledger: Ledger, ledger_url: str
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(SPEC))
    settings = {"broker_url": redis_url, "ledger_url": ledger_url}
    ran = penstock("submit", str(path), **settings)
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"[0-9a-f]{32}\n", ran.out)
    assert ledger.jobs.status(ran.out.strip())["state"] == "submitted"

    named = penstock("submit", "-", "--id", "j", stdin=json.dumps(SPEC), **settings)
    assert (named.code, named.out) == (0, "j\n")
    assert penstock("submit", str(path), "--id", "j", **settings).out == "j\n"
    other = json.dumps(SPEC | {"name": "another"})
    refused = penstock("submit", "-", "--id", "j", stdin=other, **settings)
    assert (refused.code, refused.out) == (2, "")
    assert "different spec" in refused.sentence
    with redis_server.client(int(redis_url.rpartition("/")[2])) as client:
        assert client.llen("penstock.jobs") == 3


def test_submit_reads_toml_and_needs_no_ledger(tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        'name = "n"\n[source]\nconnection = "w"\ntable = "t"\n'
        '[[destinations]]\nconnection = "m"\naudience_id = 7\n'
    )
    ran = penstock("submit", str(path), "--id", "t", broker_url=redis_url)
    assert (ran.code, ran.out, ran.err) == (0, "t\n", "")


@pytest.mark.parametrize("silent", [False, True])
def test_a_broker_that_is_away_is_one_sentence_and_the_job_is_kept(
    ledger: Ledger, ledger_url: str, silent: bool
) -> None:
    """Refused, or taken by something that never answers."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if silent:
            mute.listen(64)
        broker = f"redis://:s3cr3t@127.0.0.1:{mute.getsockname()[1]}/0"
        spec = json.dumps(SPEC)
        settings = {"broker_url": broker, "ledger_url": ledger_url}
        ran = penstock("submit", "-", "--id", "j", "--wait", stdin=spec, **settings)
        assert (ran.code, ran.out) == (6, "")
        assert "Job 'j' is written down, but the broker does not answer" in ran.sentence
        assert ledger.jobs.status("j")["state"] == "submitted"
        alone = penstock("submit", "-", stdin=spec, broker_url=broker)
        assert (alone.code, alone.out) == (6, "")
        assert "PENSTOCK_BROKER_URL" in alone.sentence

        Played(ledger, "open").batch()
        stopped = penstock("cancel", "open", **settings)
        assert stopped.code == 6
        assert "is marked as cancelled" in stopped.sentence
        assert ledger.jobs.status("open")["stage"] == "cancelling"

        ledger.jobs.cancel("j")
        again = penstock("retry", "j", **settings)
        assert (again.code, again.out) == (6, "")
        assert "Job 'j.retry1' is written down" in again.sentence
        assert "s3cr3t" not in ran.err + alone.err + stopped.err + again.err


def test_cancel_and_retry(redis_url: str, ledger: Ledger, ledger_url: str) -> None:
    settings = {"broker_url": redis_url, "ledger_url": ledger_url}
    ledger.jobs.submit("j", JobSpec.parse(SPEC))
    early = penstock("retry", "j", **settings)
    assert early.code == 2
    assert "has not ended yet" in early.sentence
    assert penstock("cancel", "j", **settings) == Ran(0, "", "")
    late = penstock("cancel", "j", **settings)
    assert late.code == 2
    assert "has ended already" in late.sentence
    assert penstock("retry", "j", **settings) == Ran(0, "j.retry1\n", "")
    waited = penstock("retry", "j", "--wait", "--timeout", "0.5", **settings)
    assert (waited.code, waited.out) == (7, "j.retry1\n")
    assert "0 rows read" in waited.err


# --- doctor


def _found(ran: Ran) -> dict[str, dict[str, Any]]:
    assert ran.err == ""
    return {finding["what"]: finding for finding in json.loads(ran.out)["findings"]}


def test_doctor_finds_what_is_away(ledger_url: str) -> None:
    ran = penstock("doctor", "--json", broker_url=DEAD, ledger_url=ledger_url)
    assert ran.code == 6
    found = _found(ran)
    assert found.keys() == {"broker", "ledger"}
    assert "Connection refused" in found["broker"]["said"]
    assert "PENSTOCK_BROKER_URL" in found["broker"]["mend"]
    assert "penstock init" in found["ledger"]["said"]

    told = penstock("doctor", broker_url=DEAD)
    assert told.code == 6
    assert "PENSTOCK_LEDGER_URL is not set" in told.out


@pytest.mark.usefixtures("ledger")
def test_doctor_finds_queues_that_nobody_serves(redis_url: str, ledger_url: str) -> None:
    settings = {"broker_url": redis_url, "ledger_url": ledger_url}
    penstock("submit", "-", stdin=json.dumps(SPEC), **settings)
    ran = penstock("doctor", "--json", "--timeout", "1", "--without", "meta", **settings)
    assert ran.code == 1
    found = _found(ran)
    assert found["broker"]["ok"]
    assert re.match(r"(Redis|Valkey) \d+\.\d+", found["broker"]["said"])
    assert found["ledger"]["ok"]
    unserved = {what for what, finding in found.items() if not finding["ok"]}
    assert unserved == {
        "queue penstock.jobs", "queue penstock.extract", "queue penstock.upload.google_ads",
        "queue penstock.export",
    }  # fmt: skip
    assert found["queue penstock.jobs"]["said"] == "No worker, 1 message waiting."
    assert "services.jobs.app" in found["queue penstock.jobs"]["mend"]
    assert "--without google_ads" in found["queue penstock.upload.google_ads"]["mend"]


def test_doctor_finds_an_eviction_policy(private_redis: Redis, ledger_url: str) -> None:
    with private_redis.client() as client:
        client.config_set("maxmemory-policy", "volatile-lru")
    ran = penstock(
        "doctor", "--json", "--timeout", "1", broker_url=private_redis.url, ledger_url=ledger_url
    )
    found = _found(ran)
    assert found["broker"]["ok"]
    assert not found["broker eviction"]["ok"]
    assert "volatile-lru" in found["broker eviction"]["said"]
    assert "noeviction" in found["broker eviction"]["mend"]


@pytest.mark.usefixtures("ledger")
def test_doctor_finds_cluster_mode(tmp_path: Path, ledger_url: str) -> None:
    server = Redis(tmp_path / "redis")
    server.command += ["--cluster-enabled", "yes"]
    server.command[server.command.index("--databases") + 1] = "1"
    with server:
        ran = penstock("doctor", "--json", broker_url=server.url, ledger_url=ledger_url)
    assert ran.code == 1
    found = _found(ran)
    assert not found["broker cluster"]["ok"]
    assert found.keys() == {"broker", "broker cluster", "ledger"}


# --- with workers


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: Redis,
    postgres_server: Postgres,
    s3_server: Rclone,
) -> Iterator[Stack]:
    source = postgres_server.create_database("cli_source")
    create_customers(source, 3_000)
    s3_server.create_bucket("cli")
    connections = {
        "warehouse": {"kind": "postgres", "url": source},
        "files": {
            "kind": "s3",
            "endpoint_url": s3_server.endpoint_url,
            "region": "us-east-1",
            "access_key_id": s3_server.access_key,
            "secret_access_key": s3_server.secret_key,
        },
    }
    with Stack(
        tmp_path_factory.mktemp("cli"),
        redis_server.database_url(63),
        postgres_server.create_database("cli_ledger"),
        connections,
    ) as stack:
        yield stack.start("jobs", "extract", "export")


@pytest.fixture
def run(running: Stack) -> Callable[..., Ran]:
    settings = {"broker_url": running.broker_url, "ledger_url": running.ledger_url}
    return lambda *argv, stdin="": penstock(*argv, stdin=stdin, **settings)


def _to_file(key: str, bucket: str = "cli") -> str:
    destination = {"connection": "files", "bucket": bucket, "key": key}
    return json.dumps(SPEC | {"destinations": [destination], "batch_rows": 500})


def test_submit_and_wait(running: Stack, run: Callable[..., Ran]) -> None:
    ran = run("submit", "-", "--id", "whole", "--wait", stdin=_to_file("{job_id}.csv.gz"))
    assert (ran.code, ran.out) == (0, "whole\n"), ran.err
    assert "succeeded, 3,000 rows read | files 100%, 3,000 accepted" in ran.err
    status = run("status", "whole").out
    assert ran.err.endswith(status)
    [artifact] = running.client.status("whole")["lanes"][0]["artifacts"]
    assert f"  {artifact['url']}\n" in status
    assert "3,000 rows, link until " in status


def test_submit_and_wait_for_a_job_that_fails_and_retry_it(
    running: Stack, run: Callable[..., Ran], s3_server: Rclone
) -> None:
    ran = run("submit", "-", "--id", "lost", "--wait", stdin=_to_file("x", bucket="not-there"))
    assert (ran.code, ran.out) == (1, "lost\n"), ran.err
    assert ran.err.endswith(run("status", "lost").out)
    assert running.client.status("lost")["lanes"][0]["error"] in run("status", "lost").out
    s3_server.create_bucket("not-there")
    again = run("retry", "lost", "--wait")
    assert (again.code, again.out) == (0, "lost.retry1\n"), again.err


def test_doctor_is_content(run: Callable[..., Ran]) -> None:
    ran = run(
        "doctor", "--timeout", "120", "--without", "meta", "--without", "google_ads", "--json"
    )
    found = _found(ran)
    assert ran.code == 0, ran.out
    assert json.loads(ran.out)["ok"] is True
    assert {what.partition(" ")[2] for what in found if what.startswith("connection")} == {
        "warehouse (postgres)", "files (s3)",
    }  # fmt: skip
    assert found["queue penstock.export"]["said"].startswith("1 worker")
    told = run("doctor", "--timeout", "120", "--without", "meta", "--without", "google_ads")
    assert told.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == ["ok"] * len(found)


def test_doctor_finds_a_connection_that_does_not_work(
    tmp_path: Path, redis_url: str, ledger_url: str
) -> None:
    dead = f"postgresql://someone:s3cr3t@127.0.0.1:{free_port()}/x"
    connections = {"warehouse": {"kind": "postgres", "url": dead}}
    with Stack(tmp_path / "stack", redis_url, ledger_url, connections) as stack:
        stack.start("jobs", "extract", beat=False)
        # Nobody is waited for who is not there.
        without = [part for kind in LANE_QUEUES for part in ("--without", kind)]
        ran = penstock(
            "doctor", "--timeout", "120", *without, broker_url=redis_url, ledger_url=ledger_url
        )
        assert ran.code == 1
        lines = ran.out.splitlines()
        [n] = [n for n, line in enumerate(lines) if "connection warehouse (postgres)" in line]
        assert lines[n].startswith("WRONG")
        assert "Mend [warehouse] in connections.toml." in lines[n + 1]
        assert "s3cr3t" not in ran.out

        stack["extract"].kill()
        wait_for(lambda: not stack["extract"].alive)
        gone = penstock(
            "doctor", "--timeout", "1", "--json", broker_url=redis_url, ledger_url=ledger_url
        )
        assert not _found(gone)["queue penstock.extract"]["ok"]


def test_doctor_gives_up_on_a_check_that_does_not_end(
    tmp_path: Path, redis_url: str, ledger_url: str
) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        url = f"postgresql://someone@127.0.0.1:{mute.getsockname()[1]}/x"
        connections = {"warehouse": {"kind": "postgres", "url": url}}
        with Stack(tmp_path / "stack", redis_url, ledger_url, connections) as stack:
            stack.start("extract", beat=False)
            ran = penstock(
                "doctor", "--timeout", "5", "--json", broker_url=redis_url, ledger_url=ledger_url
            )
            finding = _found(ran)["checks of penstock.extract"]
            assert not finding["ok"]
            assert "No answer within 5 s" in finding["said"]
