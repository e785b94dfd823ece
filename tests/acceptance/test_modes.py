"""Add, remove, replace and mirror, on every platform that has them, with whole jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from sandbox.servers import (
    DataManagerSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
)
from tests.harness import CUSTOMER, GOOGLE, META, USER_LIST, Stack, sums_are_right

_number = count(1)
Sandbox = GoogleAdsSandbox | DataManagerSandbox | MetaSandbox | LinkedInSandbox

DATA_MANAGER = {
    "connection": "data_manager",
    "kind": "data_manager",
    "customer_id": CUSTOMER,
    "user_list_id": USER_LIST,
    "terms_accepted": True,
}


class People:
    """A table whose people a test changes between its jobs."""

    def __init__(self, url: str) -> None:
        self.table = f"people_{next(_number)}"
        self._url = url
        self("create table {} (id integer primary key, email text, phone text)")

    def __call__(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as db:
            db.execute(statement.replace("{}", self.table))

    def fill(self, first: int, last: int) -> None:
        self(
            "insert into {} select n, 'p' || n || '@example.com', '+4930' || (1000000 + n) "
            f"from generate_series({first}, {last}) as n"
        )

    @property
    def source(self) -> dict[str, Any]:
        return {"connection": "warehouse", "table": self.table, "key": "id"}


@pytest.fixture
def people(shared_source: str) -> People:
    return People(shared_source)


@pytest.fixture
def run(running: Stack, people: People) -> Callable[..., dict[str, Any]]:
    name = f"modes {next(_number)}"

    def submit(destination: dict[str, Any], **changes: Any) -> dict[str, Any]:
        job = running.client.submit(
            {"name": name, "source": people.source, "destinations": [destination],
             "batch_rows": 300, **changes}
        )  # fmt: skip
        status = running.wait(job)
        assert sums_are_right(status)
        return status

    return submit


@pytest.fixture(params=["google_ads", "data_manager", "meta", "linkedin"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Sandbox, dict[str, Any], str]]:
    """A platform's sandbox, a destination there, and the audience's id on its control port."""
    match request.param:
        case "google_ads":
            yield request.getfixturevalue("google_sandbox"), GOOGLE, USER_LIST
        case "data_manager":
            yield request.getfixturevalue("data_manager_sandbox"), DATA_MANAGER, USER_LIST
        case "meta":
            yield request.getfixturevalue("meta_sandbox"), META, "222"
        case _:
            sandbox: LinkedInSandbox = request.getfixturevalue("linkedin_sandbox")
            audience = str(sandbox.add_audience(id=f"{next(_number) + 5000}")["id"])
            yield (
                sandbox,
                {"connection": "linkedin", "kind": "linkedin", "audience_id": audience},
                (audience),
            )


def test_who_is_added_can_be_removed(
    place: tuple[Sandbox, dict[str, Any], str], run: Callable[..., dict[str, Any]], people: People
) -> None:
    sandbox, destination, audience = place
    people.fill(1, 900)
    assert run(destination)["state"] == "succeeded"
    assert sandbox.count(audience) == 900
    people("delete from {} where id > 400")
    status = run({**destination, "mode": "remove"})
    assert status["state"] == "succeeded", status
    assert status["lanes"][0]["accepted"] == 400
    assert sandbox.count(audience) == 500


def test_a_mirror_sends_the_difference(
    place: tuple[Sandbox, dict[str, Any], str], run: Callable[..., dict[str, Any]], people: People
) -> None:
    sandbox, destination, audience = place
    mirror = {**destination, "mode": "mirror"}
    people.fill(1, 1_000)
    status = run(mirror)
    assert status["state"] == "succeeded", status
    assert sandbox.count(audience) == 1_000
    before = set(sandbox.members(audience))

    people("delete from {} where id <= 10")
    people.fill(1_001, 1_010)
    [dry] = run(mirror, dry_run=True)["lanes"]
    assert (dry["accepted"], dry["details"]["identifiers_it_would_take_out"]) == (10, 20)
    assert set(sandbox.members(audience)) == before
    status = run(mirror)
    [lane] = status["lanes"]
    assert status["state"] == "succeeded", status
    assert lane["accepted"] == 10
    assert lane["reasons"] == [{"reason": "unchanged since the last run", "count": 990}]
    assert lane["details"]["removed"] == 10
    after = set(sandbox.members(audience))
    assert (len(after), len(after & before)) == (1_000, 990)

    # Nothing has changed: nothing is sent.
    status = run(mirror)
    assert (status["state"], status["lanes"][0]["accepted"]) == ("succeeded", 0)
    assert set(sandbox.members(audience)) == after

    status = run(mirror, full=True)
    assert (status["state"], status["lanes"][0]["accepted"]) == ("succeeded", 1_000)
    assert set(sandbox.members(audience)) == after


def test_a_mirror_of_many_sends_two_operations_for_each_that_is_replaced(
    run: Callable[..., dict[str, Any]], people: People, meta_sandbox: MetaSandbox
) -> None:
    """One in a hundred; `python -m bench mirror` does the same with a million."""
    mirror = {**META, "mode": "mirror"}
    people.fill(1, 100_000)
    assert run(mirror, batch_rows=20_000)["lanes"][0]["accepted"] == 100_000
    people("delete from {} where id % 100 = 0")
    people.fill(100_001, 101_000)
    [lane] = run(mirror, batch_rows=20_000)["lanes"]
    assert lane["accepted"] + lane["details"]["removed"] == 2_000
    assert meta_sandbox.count("222") == 100_000


def test_a_mirror_keeps_who_has_only_changed(
    place: tuple[Sandbox, dict[str, Any], str], run: Callable[..., dict[str, Any]], people: People
) -> None:
    sandbox, destination, audience = place
    mirror = {**destination, "mode": "mirror", "max_removed_percent": 100}
    people.fill(1, 20)
    run(mirror)
    # One gets another phone, one loses it, one gets another address.
    people("update {} set phone = '+4930999999' where id = 1")
    people("update {} set phone = null where id = 2")
    people("update {} set email = 'new@example.com' where id = 3")
    assert run(mirror)["state"] == "succeeded"
    assert sandbox.count(audience) == 20
    people("delete from {} where id <= 3")
    assert run(mirror)["state"] == "succeeded"
    assert sandbox.count(audience) == 17


def test_a_mirror_does_not_empty_an_audience_by_mistake(
    place: tuple[Sandbox, dict[str, Any], str], run: Callable[..., dict[str, Any]], people: People
) -> None:
    sandbox, destination, audience = place
    mirror = {**destination, "mode": "mirror"}
    people.fill(1, 100)
    run(mirror)
    people("delete from {} where id > 30")
    status = run(mirror)
    assert status["state"] == "failed"
    assert "max_removed_percent" in status["lanes"][0]["error"]
    assert sandbox.count(audience) == 100
    assert run({**mirror, "max_removed_percent": 80})["state"] == "succeeded"
    assert sandbox.count(audience) == 30


def test_a_failed_mirror_is_no_state(
    run: Callable[..., dict[str, Any]], people: People, meta_sandbox: MetaSandbox
) -> None:
    mirror = {**META, "mode": "mirror"}
    people.fill(1, 900)
    meta_sandbox.fault("users", "permission", after=2, times=-1)
    assert run(mirror)["state"] == "failed"
    meta_sandbox.clear()
    status = run(mirror)
    assert (status["state"], status["lanes"][0]["accepted"]) == ("succeeded", 900)
    assert meta_sandbox.count("222") == 900


@pytest.mark.parametrize("kind", ["google_ads", "meta"])
def test_a_replaced_audience_is_exactly_the_source(
    kind: str,
    run: Callable[..., dict[str, Any]],
    people: People,
    google_sandbox: GoogleAdsSandbox,
    meta_sandbox: MetaSandbox,
) -> None:
    sandbox, destination, audience = (
        (google_sandbox, GOOGLE, USER_LIST) if kind == "google_ads" else (meta_sandbox, META, "222")
    )
    people.fill(1, 500)
    run(destination)
    people("delete from {}")
    people.fill(400, 1_299)
    status = run({**destination, "mode": "replace"})
    assert status["state"] == "succeeded", status
    assert status["lanes"][0]["accepted"] == 900
    assert sandbox.count(audience) == 900

    # A source without a row does not empty it.
    people("delete from {}")
    status = run({**destination, "mode": "replace"})
    assert status["state"] == "failed"
    assert sandbox.count(audience) == 900


def test_an_audience_is_created_once(
    run: Callable[..., dict[str, Any]], people: People, meta_sandbox: MetaSandbox
) -> None:
    people.fill(1, 2_000)
    name = f"made {next(_number)}"
    made = {"connection": "meta", "audience": name, "account_id": "1000", "create": True}
    status = run(made, batch_rows=100)
    assert status["state"] == "succeeded", status
    assert run(made)["state"] == "succeeded"
    [audience] = [id_ for id_, a in meta_sandbox.state()["audiences"].items() if a["name"] == name]
    assert meta_sandbox.count(audience) == 2_000
