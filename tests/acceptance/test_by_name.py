"""Apps that do not have the package enqueue by the task's name; operators look on with Flower."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from penstock.errors import UnknownJobError
from sandbox.customers import create_customers
from sandbox.servers import free_port
from sandbox.workers import Flower
from tests.harness import META, SOURCE, Stack, to_file, wait_for


@pytest.fixture
def flower(stack: Stack) -> Iterator[Flower]:
    env = {**stack.env, "FLOWER_UNAUTHENTICATED_API": "true"}
    with Flower(env=env, directory=stack.directory, port=free_port()) as flower:
        yield flower


def _ask(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _known(stack: Stack, job_id: str) -> bool:
    try:
        stack.client.status(job_id)
    except UnknownJobError:
        return False
    return True


def test_any_celery_app_can_enqueue(stack: Stack, source_url: str, bucket: str) -> None:
    create_customers(source_url, 2_000)
    stack.start("jobs", "extract", "export")
    other = Celery("another-app", broker=stack.broker_url)
    spec = {
        "job_id": "by-name",
        "name": "by name",
        "source": SOURCE,
        "destinations": [to_file(bucket)],
        "colour": "blue",
    }
    sent = other.send_task("penstock.jobs.open", args=[spec], queue="penstock.jobs")
    unnamed = {k: v for k, v in spec.items() if k != "job_id"}
    sent = other.send_task("penstock.jobs.open", args=[unnamed], queue="penstock.jobs")
    wait_for(lambda: _known(stack, "by-name") and _known(stack, sent.id))
    status = stack.wait("by-name")
    assert status["state"] == "succeeded"
    assert status["warnings"] == ["The unknown key colour was ignored."]
    assert stack.wait(sent.id)["state"] == "succeeded"
    other.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"destinations": []}, "destinations"),
        ({"v": 99}, "version 99"),
        ({"name": "a\0b"}, "name: its text must not hold a NUL character"),
        ({"source": {"connection": "warehouse", "query": "drop table customers"}}, "SELECT"),
    ],
)
def test_a_bad_document_is_recorded_with_its_reason(
    stack: Stack, change: dict[str, Any], said: str
) -> None:
    stack.start("jobs", beat=False)
    other = Celery("another-app", broker=stack.broker_url)
    spec = {"job_id": "bad", "name": "bad", "source": SOURCE, "destinations": [META], **change}
    other.send_task("penstock.jobs.open", args=[spec], queue="penstock.jobs")
    wait_for(lambda: _known(stack, "bad"))
    status = stack.wait("bad")
    assert status["state"] == "failed"
    assert said in status["error"]
    other.close()


def test_flower_enqueues_and_shows_ids_alone(
    stack: Stack, source_url: str, bucket: str, flower: Flower
) -> None:
    create_customers(source_url, 3_000)
    # The server trusts everybody, so that any password will do.
    stack.env["PENSTOCK_LEDGER_URL"] = stack.ledger_url.replace("@", ":secret-password@")
    stack.start()
    wait_for(lambda: len(_ask(f"{flower.url}/api/workers?refresh=1")) == 5, every=1)
    spec = {
        "job_id": "from-flower",
        "name": "from flower",
        "source": {
            "connection": "warehouse",
            "query": "select * from customers where email <> %(not)s",
            "params": {"not": "somebody@private.example"},
            "key": "id",
        },
        "destinations": [META, to_file(bucket)],
        "batch_rows": 500,
    }
    _ask(f"{flower.url}/api/task/send-task/penstock.jobs.open", {"args": [spec]})
    wait_for(lambda: _known(stack, "from-flower"))
    assert stack.wait("from-flower")["state"] == "succeeded"

    def all_there() -> dict[str, Any] | None:
        tasks = _ask(f"{flower.url}/api/tasks?limit=1000")
        names = {task["name"] for task in tasks.values()}
        wanted = {
            "penstock.extract.run",
            "penstock.upload.meta.send",
            "penstock.export.write",
            "penstock.jobs.finalize",
        }
        return tasks if wanted <= names else None

    shown = json.dumps(wait_for(all_there, every=1))
    assert "(from-flower, meta, 0)" in shown
    for page in ("", "/tasks", "/workers", "/metrics"):
        with urllib.request.urlopen(flower.url + page, timeout=60) as answer:
            shown += answer.read().decode()
    shown += json.dumps(_ask(f"{flower.url}/api/workers?refresh=1"))
    assert "task_acks_late" in shown  # the workers' configuration is among it
    for secret in ("@example", "somebody@private", "secret-password", "warehouse"):
        assert secret not in shown, secret
