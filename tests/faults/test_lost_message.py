"""The message that Redis' transport loses on kill -9 in spite of late acknowledgement, provoked
every time: the worker pops it from the list, and dies before it can note down that it has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sandbox.customers import create_customers
from sandbox.proxy import Proxy
from sandbox.servers import MetaSandbox, Redis
from sandbox.workers import Beat, Worker
from tests.harness import AUDIENCE, META, SOURCE, Stack, sums_are_right, wait_for

QUEUE = "penstock.upload.meta"


def test_the_sweep_brings_a_lost_message_back(
    tmp_path: Path,
    private_redis: Redis,
    ledger_url: str,
    source_url: str,
    connections: dict[str, dict[str, Any]],
    meta_sandbox: MetaSandbox,
) -> None:
    expected = create_customers(source_url, 300)
    with (
        Stack(tmp_path / "stack", private_redis.url, ledger_url, connections) as stack,
        Proxy(f"127.0.0.1:{private_redis.port}") as proxy,
        private_redis.client() as client,
    ):
        stack.start("jobs", "extract", beat=False)
        job = stack.client.submit(
            {"name": "lost", "source": SOURCE, "destinations": [META], "batch_rows": 300}
        )
        wait_for(lambda: stack.client.status(job)["extracted"] == 300)
        [message] = wait_for(lambda: _of_batches(client.lrange(QUEUE, 0, -1)))
        # Held back for a moment, so that it arrives just when the worker's line is dead one way.
        assert client.lrem(QUEUE, 1, message) == 1
        through = stack.env | {"PENSTOCK_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0"}
        with Worker("upload.meta", env=through, directory=tmp_path, number=9) as doomed:
            wait_for(lambda: client.llen(QUEUE) == 0 and client.hlen("unacked") == 0)
            wait_for(lambda: _popped_through_a_dead_line(client, proxy, message))
            doomed.kill()
            # What it may have said meanwhile is lost with it, as when its host goes down.
            proxy.reset()
            proxy.release()
        held = client.lrange(QUEUE, 0, -1) + client.hvals("unacked")
        assert _of_batches(held) == [], "the message is not lost: the test proves nothing"

        # A healthy worker alone does not find it, for it is nowhere.
        stack.add("upload.meta").start()
        assert stack.client.status(job)["lanes"][0]["accepted"] == 0
        stack.processes["beat"] = Beat(env=stack.env, directory=tmp_path).start()
        status = stack.wait(job)
        assert status["state"] == "succeeded", status
        assert sums_are_right(status)
        assert meta_sandbox.count(AUDIENCE) == expected.identifiable


def _of_batches(messages: list[bytes]) -> list[bytes]:
    return [m for m in messages if b"meta.send" in m]


def _popped_through_a_dead_line(client: Any, proxy: Proxy, message: bytes) -> bool:
    """The worker waits in BRPOP, a second at a time; what it says after that does not arrive."""
    if not any(c["cmd"] == "brpop" and "b" in c["flags"] for c in client.client_list()):
        return False
    proxy.stall("to_server")
    client.lpush(QUEUE, message)
    if client.lrem(QUEUE, 1, message) == 0:
        return True
    proxy.release()
    return False
