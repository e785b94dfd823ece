"""What Celery costs by itself: messages that do nothing, with our settings."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from penstock.broker import make_app
from sandbox.servers import Process
from sandbox.workers import PROJECT

MESSAGES = 2_000
app = make_app(os.environ.get("PENSTOCK_BENCH_BROKER", "redis://127.0.0.1:1/0"), "bench")
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    task_send_sent_event=True,
    worker_pool="threads",
)


@app.task(name="penstock.bench.noop")
def noop(_: dict[str, object]) -> None:
    pass


def cpu_per_message(directory: Path, broker_url: str) -> float:
    """CPU seconds of sender and worker for one message."""
    from bench.rig import cpu_of  # noqa: PLC0415 - the worker that imports this module needs no rig

    env = {"PENSTOCK_BENCH_BROKER": broker_url}
    command = [
        *(sys.executable, "-m", "celery", "-A", "bench.noop", "worker", "-Q", "bench", "-c", "4"),
        *("--without-gossip", "--without-mingle", "-E", "-l", "INFO"),
    ]
    sender = make_app(broker_url, "bench-sender")
    worker = Process(command, log_path=directory / "noop.log", env=env, cwd=PROJECT)
    worker.ready = lambda: " ready." in worker.output()
    with worker:
        start = cpu_of(worker.pid) + time.process_time()
        for number in range(MESSAGES):
            sender.send_task("penstock.bench.noop", args=[{"seq": number}], queue="bench")
        with sender.connection_for_read() as connection:
            channel = connection.default_channel
            while channel._size("bench") or channel.client.hlen("unacked"):  # noqa: SLF001
                time.sleep(0.05)
        return (cpu_of(worker.pid) + time.process_time() - start) / MESSAGES
