"""A preview, by a real extract worker: what would be sent is shown, and nothing else happens."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import person
from penstock.errors import PayloadKeyError, PenstockError, SpecError, WaitTimeoutError
from penstock.preview import EXPIRE_SECONDS, Previews
from sandbox.servers import Postgres, Redis
from tests.builders import execute
from tests.harness import Stack

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(scope="module")
def shop(postgres_server: Postgres) -> Iterator[str]:
    url = postgres_server.create_database("preview_source")
    execute(
        url,
        "create table people (id int primary key, email text, phone text, country text, "
        "consent text)",
        "insert into people values (1, 'Ann.B+x@gmail.com', '+49 30 1234567', 'DE', 'granted'), "
        "(2, 'secret-nonsense', null, 'DE', 'granted'), (3, 'c@example.com', 'secret', 'DE', null)",
        "insert into people select n, 'p' || n || '@example.com', null, 'DE', 'denied' "
        "from generate_series(4, 50) as n",
    )
    yield url
    postgres_server.drop_database("preview_source")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Not the shared one, where tests take turns and would hear this module's worker."""
    with Redis(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    broker: Redis,
    postgres_server: Postgres,
    shop: str,
) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("preview"),
        broker.database_url(0),
        postgres_server.create_database("preview_ledger"),
        {
            "shop": {"kind": "postgres", "url": shop},
            "away": {"kind": "postgres", "url": "postgresql://penstock@127.0.0.1:1/away"},
        },
        {"PENSTOCK_PAYLOAD_KEY": KEY},
    ) as stack:
        yield stack.start("extract", beat=False)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PAYLOAD_KEY", KEY)


def _spec(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Nightly",
        "source": {"connection": "shop", "table": "people", "key": "id"},
        "destinations": [
            {"connection": "ads", "customer_id": "1234567890", "user_list_id": "1"},
            {"connection": "meta", "audience_id": "2"},
            {"connection": "files", "bucket": "exports", "key": "k.csv"},
        ],
        **changes,
    }


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lane(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(lane for lane in found["lanes"] if lane["lane"] == name)


def _members(lane: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(lane["columns"], member, strict=True)) for member in lane["members"]]


def test_each_lane_shows_what_it_would_send(running: Stack, broker: Redis) -> None:
    found = running.client.preview(_spec(), rows=3)
    assert (found["name"], found["rows"]) == ("Nightly", 3)

    ads = _lane(found, "ads")
    assert (ads["kind"], ads["mode"], ads["skipped"]) == ("google_ads", "add", 1)
    first, last = _members(ads)
    assert first["email"] == _sha("annb@gmail.com")
    assert first["phone"] == _sha("+49301234567")
    assert (first["row"], first["row_key"]) == (0, "1")
    assert first["consent"] == "granted, granted"
    assert (last["row"], last["email"], last["phone"]) == (2, _sha("c@example.com"), None)

    meta = _lane(found, "meta")
    assert _members(meta)[0]["email"] == _sha("ann.b+x@gmail.com")
    assert _members(meta)[0]["country"] == _sha("de")
    left_out = {(row, field) for row, field, _ in meta["left_out"]}
    assert {(1, ""), (1, "email"), (2, "phone")} <= left_out

    files = _lane(found, "files")
    assert files["columns"] == ["id", "email", "phone", "country", "consent"]
    assert files["rows"] == 3
    assert "members" not in files

    assert "secret" not in json.dumps(found)
    assert "gmail" not in json.dumps(found) + running.logs()
    with broker.client(0) as client:
        assert list(client.scan_iter("*preview*")) == []  # it was taken
    with running.client.ledger.transaction() as db:
        assert db.execute("select count(*) as n from penstock.job").fetchone() == {"n": 0}


def test_who_is_suppressed_is_left_out_but_can_still_be_removed(running: Stack) -> None:
    digests = list(person.of_email("c@example.com").values())
    meta = {"connection": "meta", "audience_id": "2"}
    spec = _spec(destinations=[meta, {**meta, "mode": "remove", "lane": "out"}])
    running.client.ledger.suppression.add(digests)
    try:
        found = running.client.preview(spec, rows=3)
    finally:
        running.client.ledger.suppression.remove(digests)
    assert [m["row"] for m in _members(_lane(found, "meta"))] == [0]
    assert [2, "", "suppressed"] in _lane(found, "meta")["left_out"]
    assert [m["row"] for m in _members(_lane(found, "out"))] == [0, 2]


def test_who_denied_consent_is_left_out_but_can_still_be_removed(running: Stack) -> None:
    ads = {"connection": "ads", "customer_id": "1234567890", "user_list_id": "1"}
    spec = _spec(destinations=[ads, {**ads, "mode": "remove", "lane": "out"}])
    found = running.client.preview(spec, rows=5)
    lane = _lane(found, "ads")
    assert [m["row"] for m in _members(lane)] == [0, 2]
    assert [why for why in lane["left_out"] if why[0] > 2] == [
        [3, "", "consent denied"], [4, "", "consent denied"],
    ]  # fmt: skip
    assert lane["skipped"] == 3
    assert [m["row"] for m in _members(_lane(found, "out"))] == [0, 2, 3, 4]


def test_no_rows_are_a_preview_too(running: Stack) -> None:
    source = {"connection": "shop", "query": "select * from people where id < 0"}
    found = running.client.preview(_spec(source=source))
    assert found["rows"] == 0
    assert _lane(found, "ads")["members"] == []
    assert _lane(found, "files")["rows"] == 0


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"connection": "shop", "table": "nobody"}, "nobody"),
        ({"connection": "shop", "query": "select id from people"}, "none of the columns"),
        ({"connection": "away", "table": "people"}, "'away' does not answer"),
        ({"connection": "elsewhere", "table": "people"}, "There is no connection 'elsewhere'"),
        # Nobody's to write but `penstock erase`'s.
        ({"connection": "ledger", "erasure": "none"}, "an erasure takes destinations of"),
    ],
)
def test_what_cannot_be_read_is_told_of(running: Stack, source: dict[str, Any], told: str) -> None:
    with pytest.raises(PenstockError, match=told):
        running.client.preview(_spec(source=source))


@pytest.mark.parametrize("rows", [0, 1_001])
def test_a_preview_is_small(running: Stack, rows: int) -> None:
    with pytest.raises(SpecError, match="1 to 1,000 rows"):
        running.client.preview(_spec(), rows=rows)


def test_without_the_workers_key_it_does_not_open(
    running: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (base64.b64encode(bytes(32)).decode(), None):
        if key is None:
            monkeypatch.delenv("PENSTOCK_PAYLOAD_KEY")
        else:
            monkeypatch.setenv("PENSTOCK_PAYLOAD_KEY", key)
        with pytest.raises(PayloadKeyError, match="PENSTOCK_PAYLOAD_KEY must be what"):
            running.client.preview(_spec(), rows=1)


def test_where_nobody_answers_it_says_so(tmp_path: Path, redis_url: str, ledger_url: str) -> None:
    with (
        Stack(tmp_path / "alone", redis_url, ledger_url, {}) as stack,
        pytest.raises(WaitTimeoutError, match="No extract worker answered"),
    ):
        stack.client.preview(_spec(), timeout=0.3)


def test_what_is_left_is_sealed_and_goes_by_itself(redis_server: Redis, redis_url: str) -> None:
    previews = Previews(redis_url, KEY)
    previews.leave("preview-1", {"name": "secret"})
    with redis_server.client(int(redis_url.rpartition("/")[2])) as client:
        [name] = client.scan_iter("*")
        assert 0 < client.ttl(name) <= EXPIRE_SECONDS
        assert b"secret" not in client.get(name)
    assert previews.collect("preview-2") is None
    assert previews.collect("preview-1") == {"name": "secret"}
    assert previews.collect("preview-1") is None
    previews.close()


def test_the_command_draws_a_table_for_each_lane(running: Stack, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(_spec()), encoding="utf-8")

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        return subprocess.run(
            [sys.executable, "-m", "penstock.cli", "preview", str(path), *argv],
            env=env | {"PYTHONIOENCODING": "utf-8", "PENSTOCK_PAYLOAD_KEY": KEY,
                       "PENSTOCK_BROKER_URL": running.broker_url},
            check=False, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip

    ran = run("--rows", "3")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0] == "Nightly  the first 3 rows"
    assert "ads  google_ads add" in lines
    assert f"{_sha('annb@gmail.com')[:12]}…" in ran.stdout
    assert "  row 2 is left out: no usable identifier" in lines
    assert any(line.startswith("  row 3, phone: ") for line in lines)
    assert "  3 rows of 5 columns:" in lines
    assert "secret" not in ran.stdout
    assert json.loads(run("--json", "--rows", "1").stdout)["rows"] == 1
