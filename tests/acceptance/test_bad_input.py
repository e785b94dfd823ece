"""What is wrong gets one clear sentence, ends the job or the lane, and leaves nothing half done."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import JobExistsError
from sandbox.customers import create_customers
from sandbox.servers import GoogleAdsSandbox, MetaSandbox
from tests.harness import AUDIENCE, GOOGLE, META, SOURCE, USER_LIST, Stack, sums_are_right, to_file

QUERY: dict[str, Any] = {"connection": "warehouse"}


@pytest.fixture(scope="module")
def table(shared_source: str) -> dict[str, Any]:
    create_customers(shared_source, 1_500)
    return SOURCE


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        (QUERY | {"table": "custommers"}, 'relation "custommers" does not exist'),
        (QUERY | {"query": "select * from customers where emial = 'x'"}, '"emial" does not exist'),
        (QUERY | {"query": "select * fro customers"}, "syntax error"),
        (
            QUERY | {"query": "with d as (delete from customers returning *) select * from d"},
            "WITH",
        ),
        (QUERY | {"table": "customers", "key": "idd"}, "did you mean 'id'"),
        (QUERY | {"table": "customers", "columns": {"email": "mail"}}, "no column 'mail'"),
        (QUERY | {"query": "select id, notes from customers"}, "none of the columns that Meta"),
        (QUERY | {"table": "customers", "key": "country"}, "is not unique"),
        (QUERY | {"query": "select email::int as email from customers"}, "22P02"),
        (
            QUERY | {"query": "select * from customers where id < %(n)s", "params": {"m": 1}},
            "missing: n",
        ),
    ],
)
def test_a_source_that_cannot_be_read(
    running: Stack,
    source: dict[str, Any],
    said: str,
    bucket: str,
    s3_server: Any,
) -> None:
    job = running.client.submit(
        {
            "name": "bad",
            "source": source,
            "destinations": [META, to_file(bucket)],
            "batch_rows": 300,
        }
    )
    status = running.wait(job)
    assert status["state"] == "failed"
    assert said in status["error"]
    assert "\n" not in status["error"].strip()
    assert "@example" not in str(status) + running.logs()
    for lane in status["lanes"]:
        assert (lane["state"], lane["error"]) == ("failed", status["error"])
        assert lane["artifacts"] == []
    with_client = s3_server.client()
    try:
        assert with_client.list_objects_v2(Bucket=bucket).get("KeyCount", 0) == 0
    finally:
        with_client.close()


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("destination", "said"),
    [
        (GOOGLE | {"user_list_id": "999"}, "999"),
        (META | {"audience_id": "999"}, "999"),
        (to_file("no-such-bucket-here"), "no-such-bucket-here"),
    ],
)
def test_a_destination_that_is_not_there_fails_alone(
    running: Stack,
    destination: dict[str, Any],
    said: str,
    meta_sandbox: MetaSandbox,
) -> None:
    job = running.client.submit(
        {
            "name": "half",
            "source": SOURCE,
            "destinations": [{**META, "lane": "good"}, {**destination, "lane": "bad"}],
            "batch_rows": 300,
        }
    )
    status = running.wait(job)
    assert status["state"] == "partial", status
    assert sums_are_right(status)
    bad, good = running.lane(status, "bad"), running.lane(status, "good")
    assert bad["state"] == "failed"
    assert said in bad["error"]
    assert bad["failed"] + bad["skipped"] == bad["rows"] == 1_500
    assert good["state"] == "succeeded"
    assert meta_sandbox.count(AUDIENCE) == good["accepted"]


def test_wrong_credentials(
    stack: Stack, source_url: str, connections: dict[str, Any], bucket: str
) -> None:
    create_customers(source_url, 10)
    connections["meta"] |= {"access_token": "bad"}
    connections["files"] |= {"secret_access_key": "wrong-secret"}
    connections["warehouse2"] = {"kind": "postgres", "url": "postgresql://penstock@127.0.0.1:1/x"}
    with Stack(
        stack.directory / "wrong",
        stack.broker_url,
        stack.ledger_url,
        connections,
        env={"PENSTOCK_SOURCE_TRIES": "2"},
    ) as own:
        own.start()
        both = own.client.submit(
            {"name": "wrong", "source": SOURCE, "destinations": [META, to_file(bucket)]}
        )
        dead = own.client.submit(
            {
                "name": "dead",
                "source": SOURCE | {"connection": "warehouse2"},
                "destinations": [META],
            }
        )
        status = own.wait(both)
        assert status["state"] == "failed"
        assert "token" in own.lane(status, "meta")["error"]
        assert "signature" in own.lane(status, "files")["error"].lower() or (
            "secret" in own.lane(status, "files")["error"].lower()
        )
        assert "wrong-secret" not in str(status) + own.logs()
        assert "does not answer" in own.wait(dead)["error"]


def test_an_unknown_connection_is_named(running: Stack) -> None:
    job = running.client.submit(
        {
            "name": "typo",
            "source": SOURCE | {"connection": "warehose"},
            "destinations": [META],
        }
    )
    status = running.wait(job)
    assert status["state"] == "failed"
    assert "did you mean 'warehouse'" in status["error"]


@pytest.mark.usefixtures("table")
def test_an_id_of_another_job_is_refused(running: Stack, google_sandbox: GoogleAdsSandbox) -> None:
    spec = {"name": "a", "source": SOURCE, "destinations": [GOOGLE]}
    running.client.submit(spec, "taken")
    with pytest.raises(JobExistsError, match="different spec"):
        running.client.submit({**spec, "batch_rows": 7}, "taken")
    assert running.wait("taken")["state"] == "succeeded"
    assert google_sandbox.count(USER_LIST) == 1_500 - 1
