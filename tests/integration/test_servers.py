"""Each private server starts, answers, comes back, stops, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import redis
from botocore.exceptions import ClientError

from sandbox.customers import create_customers, expected
from sandbox.servers import (
    GoogleAdsSandbox,
    MetaSandbox,
    Moto,
    Postgres,
    Process,
    Rclone,
    Redis,
    ServerError,
    free_port,
)
from sandbox.servers.programs import choose

PROJECT = Path(__file__).parents[2]
PATIENCE = 60.0


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# --- Process


def test_a_process_is_ready_when_it_says_so_and_logs_what_it_prints(tmp_path):
    mark = tmp_path / "mark"
    script = f"import pathlib, time; print('hello', flush=True); pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
    command = [sys.executable, "-c", script]
    with Process(command, log_path=tmp_path / "log", ready=mark.exists) as process:
        assert process.alive
        assert os.getsid(process.pid) == process.pid
        assert process.output() == "hello\n"
        mark.unlink()
        first = process.pid
        process.restart()
        assert process.pid != first
        assert process.output() == "hello\n"
        assert process.log_path.read_text() == "hello\nhello\n"
    assert not process.alive
    assert process.exit_code == -signal.SIGTERM
    assert not running(process.pid)


def test_what_ends_before_it_is_ready_says_why(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('the reason')"]
    process = Process(command, log_path=tmp_path / "log", ready=lambda: False)
    with pytest.raises(ServerError, match="the reason"):
        process.start()
    assert process.exit_code == 1


def test_what_is_never_ready_is_not_left_running(tmp_path):
    process = Process(
        ["sleep", "600"], log_path=tmp_path / "log", ready=lambda: False, start_timeout=0.2
    )
    with pytest.raises(ServerError, match="not ready in time"):
        process.start()
    assert not running(process.pid)


def test_a_program_that_does_not_exist(tmp_path):
    with pytest.raises(ServerError, match="no program"):
        Process(["no-such-program"], log_path=tmp_path / "log").start()


def test_stop_kills_what_ignores_it_and_the_grandchildren_with_it(tmp_path):
    script = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True);"
        "time.sleep(600)"
    )
    process = Process([sys.executable, "-c", script], log_path=tmp_path / "log")
    process.ready = lambda: process.output().endswith("\n")
    process.start()
    grandchild = int(process.output())
    process.stop(grace=0.2)
    assert process.exit_code == -signal.SIGKILL
    assert not running(grandchild)


def test_a_paused_process_can_be_stopped(tmp_path):
    process = Process(["sleep", "600"], log_path=tmp_path / "log").start()
    process.pause()
    state = Path(f"/proc/{process.pid}/stat")
    until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "it is not stopped")
    process.stop()
    assert process.exit_code == -signal.SIGTERM


def test_it_survives_the_thread_that_started_it(tmp_path):
    process = Process(["sleep", "600"], log_path=tmp_path / "log")
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert process.alive
    process.close()


@pytest.mark.parametrize("how", ["kill -9", "exit", "exit while paused"])
def test_nothing_outlives_the_parent(tmp_path, how):
    script = f"""
import os, pathlib, signal, sys
from sandbox.servers import Process
process = Process(["sleep", "600"], log_path=pathlib.Path({str(tmp_path / "log")!r})).start()
print(process.pid, flush=True)
match {how!r}:
    case "kill -9": os.kill(os.getpid(), signal.SIGKILL)
    case "exit while paused": process.pause()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    pid = int(done.stdout)
    until(lambda: not running(pid), "the child outlives its parent")


def test_the_preferred_program_wins_and_a_missing_one_is_told():
    here, there = Path("here"), Path("there")
    assert choose(here, there, prefer="system", missing="") == here
    assert choose(here, there, prefer="wheel", missing="") == there
    assert choose(None, there, prefer="system", missing="") == there
    assert choose(here, None, prefer="wheel", missing="") == here
    with pytest.raises(FileNotFoundError, match="install it"):
        choose(None, None, prefer="system", missing="install it")


def test_free_ports_can_be_bound_and_are_below_those_of_outgoing_connections():
    assert all(15_000 <= free_port() < 32_000 for _ in range(20))


# --- Redis


@pytest.mark.parametrize("unix_socket", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("prefer", ["system", "wheel"])
def test_redis_answers_and_comes_back_with_or_without_its_data(tmp_path, prefer, unix_socket):
    with Redis(tmp_path / "redis", prefer=prefer, unix_socket=unix_socket) as server:
        assert ("site-packages" in server.command[0]) == (prefer == "wheel")
        assert server.url.startswith("redis+socket:///" if unix_socket else "redis://127.0.0.1:")
        url = server.url
        with server.client() as client:
            client.set("key", "value")
            server.restart()
            assert client.get("key") == b"value"
            server.restart(keep=False)
            assert client.get("key") is None
        assert server.url == url
    assert not running(server.pid)


def test_a_killed_redis_has_lost_everything_even_what_an_earlier_restart_kept(private_redis):
    with private_redis.client() as client:
        client.set("key", "value")
        private_redis.restart(keep=True)
        private_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        with pytest.raises(ServerError, match="lost its data"):
            private_redis.restart(keep=True)
        private_redis.start()
        assert client.get("key") is None


@pytest.mark.parametrize("prefer", ["system", "wheel"])
def test_an_append_only_file_survives_a_kill(tmp_path, prefer):
    with Redis(tmp_path / "redis", prefer=prefer, aof=True) as server, server.client() as client:
        client.set("key", "value")
        server.kill()
        server.restart()
        assert client.get("key") == b"value"
        server.restart(keep=False)
        assert client.get("key") is None


def test_a_full_redis_refuses(tmp_path):
    with Redis(tmp_path / "redis", maxmemory="4mb") as server, server.client() as client:
        client.set("key", "value")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("big", bytes(8_000_000))
        assert client.get("key") == b"value"


def test_a_socket_path_that_is_too_long_is_made_short(tmp_path):
    directory = tmp_path / ("long" * 30)
    with Redis(directory, unix_socket=True) as server, server.client() as client:
        assert client.ping()
        made = server.socket_path.parent
        assert made != directory
    assert not made.exists()


def test_flush_empties_every_database(private_redis):
    with private_redis.client(0) as zero, private_redis.client(5) as five:
        zero.set("key", "value")
        five.set("key", "value")
        private_redis.flush()
        assert zero.get("key") is five.get("key") is None


# --- Postgres


@pytest.mark.parametrize("prefer", ["system", "wheel"])
def test_postgres_answers_and_keeps_what_was_committed(tmp_path, prefer):
    with Postgres(tmp_path / "postgres", prefer=prefer) as server:
        assert ("site-packages" in server.command[0]) == (prefer == "wheel")
        url = server.create_database("shop")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE sums (n int)")
        for number, come_back in enumerate(
            [
                server.restart,
                lambda: server.restart("immediate"),
                lambda: (server.kill(), server.start()),
            ]
        ):
            with psycopg.connect(url) as connection:
                connection.execute("INSERT INTO sums VALUES (%s)", [number])
            come_back()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT array_agg(n) FROM sums").fetchone() == ([0, 1, 2],)
        processes = [server.pid, *children(server.pid)]
        assert len(processes) > 1
    assert not any(map(running, processes))


def test_postgres_is_not_root_and_listens_on_its_socket_too(private_postgres):
    assert Path(f"/proc/{private_postgres.pid}").stat().st_uid != 0
    where = private_postgres.socket_directory
    with psycopg.connect(
        host=str(where), port=private_postgres.port, user="penstock", dbname="postgres"
    ) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_paused_postgres_answers_again_when_it_goes_on(private_postgres):
    with psycopg.connect(private_postgres.url) as connection:
        connection.execute("SELECT 1")
        private_postgres.pause()
        answers = []

        def ask() -> None:
            answers.append(connection.execute("SELECT 2").fetchone())

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(0.5)
        assert answers == []
        private_postgres.resume()
        thread.join(PATIENCE)
        assert answers == [(2,)]


def test_rows_do_not_reach_the_log(private_postgres):
    with psycopg.connect(private_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE people (email text PRIMARY KEY)")
        connection.execute("INSERT INTO people VALUES ('someone@example.com')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO people VALUES ('someone@example.com')")
    log = private_postgres.log_path.read_text()
    assert "unique constraint" in log
    assert "someone" not in log


# --- S3


@pytest.mark.parametrize("kind", [Rclone, Moto])
def test_s3_answers_and_comes_back(tmp_path, kind):
    with kind(tmp_path / "s3") as server:
        client = server.client()
        server.create_bucket("first")
        client.put_object(Bucket="first", Key="a/b", Body=b"hello")
        assert client.get_object(Bucket="first", Key="a/b")["Body"].read() == b"hello"
        server.restart()
        kept = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        assert kept == ({"first"} if kind is Rclone else set())
        client.close()
        processes = [server.pid, *children(server.pid)]
    assert not any(map(running, processes))


def test_rclone_refuses_a_wrong_key(s3_server, bucket):
    s3_server.access_key, right = "somebody", s3_server.access_key
    client = s3_server.client()
    s3_server.access_key = right
    with pytest.raises(ClientError):
        client.list_objects_v2(Bucket=bucket)
    client.close()


# --- the platforms


@pytest.mark.parametrize("kind", [GoogleAdsSandbox, MetaSandbox])
def test_a_platform_answers_on_its_control_port_and_comes_back_on_the_same(tmp_path, kind):
    with kind(tmp_path / "platform") as server:
        ports = server.port, server.control_url
        assert server.calls() == {}
        assert isinstance(server.state(), dict)
        server.restart()
        assert (server.port, server.control_url) == ports
        assert server.calls() == {}
        with pytest.raises(ServerError, match="404"):
            server.members("there/is no such audience")
        server.stop()
        assert server.exit_code == 0
    assert not running(server.pid)


@pytest.mark.parametrize(
    ("name", "audience"),
    [
        ("google_sandbox", {"customer_id": "1234567890", "user_list_id": "4711"}),
        ("meta_sandbox", {"id": "4711"}),
    ],
)
def test_an_audience_can_be_added_and_faults_planned(request, name, audience):
    server = request.getfixturevalue(name)
    server.add_audience(**audience, name="made by a test")
    assert server.members("4711") == []
    assert server.count("4711") == 0
    server.fault("*", "slow", times=2, after=1, delay=0.1)
    (planned,) = server.faults()
    assert (planned["method"], planned["times"], planned["after"]) == ("*", 2, 1)
    server.clear()
    assert server.faults() == []


# --- fixtures and customers


def test_the_fixtures_are_empty_and_apart(redis_server, redis_url, ledger_url, source_url):
    assert ledger_url != source_url
    for url in (ledger_url, source_url):
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT count(*) FROM pg_stat_user_tables").fetchone()
            assert found == (0,)
    with redis_server.client(int(redis_url.rpartition("/")[2])) as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("clean", [False, True], ids=["odd", "clean"])
def test_customers_are_as_expected(source_url, clean):
    rows = 20_750
    told = create_customers(source_url, rows, "public.people", clean)
    assert told == expected(rows, clean=clean)
    with psycopg.connect(source_url) as connection:
        found = connection.execute(
            r"""
            SELECT count(*), min(id), max(id), count(DISTINCT lower(btrim(email))),
                count(*) FILTER (WHERE email !~ '@'
                    AND (phone IS NULL OR phone !~ '\d') AND last_name IS NULL),
                count(*) FILTER (WHERE phone IS NULL OR phone !~ '\d'),
                count(*) FILTER (WHERE email !~ '@'),
                count(*) FILTER (WHERE notes ~ '\n')
            FROM people
            """
        ).fetchone()
        phones = connection.execute(
            r"SELECT count(*), count(DISTINCT phone) FROM people WHERE phone ~ '^\+\d'"
        ).fetchone()
    none, phoneless = told.unidentifiable, told.without_phone
    assert found == (rows, 1, rows, rows, none, phoneless, none, 0 if clean else rows // 50)
    assert phones == (rows - phoneless, rows - phoneless)
    assert (none, phoneless) == ((0, 0) if clean else (20, 62))


def test_customers_are_the_same_every_time(source_url):
    query = "SELECT md5(string_agg(customers::text, '' ORDER BY id)) FROM customers"
    found = set()
    for _ in range(2):
        create_customers(source_url, 2000)
        with psycopg.connect(source_url) as connection:
            found.add(connection.execute(query).fetchone())
    assert len(found) == 1
