"""Every row that a lane did not take whole is named by its key, its column and the reason; its
values are named nowhere."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from penstock.payloads import Payloads
from sandbox.servers import (
    DataManagerSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
    Redis,
)
from tests.builders import execute
from tests.harness import (
    AUDIENCE,
    CUSTOMER,
    GOOGLE,
    META,
    USER_LIST,
    Stack,
    sums_are_right,
    wait_for,
)

_number = count(1)
Row = tuple[str, str, str]

ROWS, BATCH = 600, 200
NO_MAIL = ("email", "not an e-mail address")
NOBODY = ("", "no usable identifier")
NO_CODE = ("phone", "no country code")
NO_PHONE = ("phone", "not a phone number")
REFUSED_BY_META = ("", "Meta: entry refused")

#: What is odd about a row depends on its number: nobody at all; a phone without its country; an
#: address that only the Data Manager API looks at; nothing that LinkedIn knows; a phone that is none.
PEOPLE = f"""
    insert into {{}}
    select 'K-' || lpad(n::text, 4, '0'),
           case n % 100 when 7 then 'keine-post-' || n when 33 then null
                        else 'quelle' || n || '@rejected.example' end,
           case n % 100 when 7 then null
                        when 13 then '030 8815' || lpad(n::text, 3, '0')
                        when 45 then 'unbekannt-' || n
                        else '+49 30 7719' || lpad(n::text, 3, '0') end,
           case n % 100 when 21 then 'Vorname' || n end,
           case n % 100 when 21 then 'Nachname' || n end,
           case n % 100 when 21 then 'DE' end,
           case n % 100 when 21 then 'Postfach/' || n end
    from generate_series(1, {ROWS}) as n
"""
SPOILT = 250


class Table:
    def __init__(self, url: str) -> None:
        self.name = f"rejected_{next(_number)}"
        self._url = url

    def make(self, columns: str, *statements: str) -> None:
        execute(
            self._url,
            f"create table {self.name} ({columns})",
            *(statement.replace("{}", self.name) for statement in statements),
        )

    def plain(self) -> set[str]:
        """Everything in it that is about a person, as it stands there and in normal form."""
        with psycopg.connect(self._url) as db:
            rows = db.execute(f"select to_jsonb(t) - 'code' - 'country' from {self.name} as t")
            plain = {v for (row,) in rows for v in row.values() if v is not None}
        digits = {re.sub(r"\D", "", value) for value in plain if value.startswith("+")}
        return plain | digits | {value.lower() for value in plain}

    def values(self) -> set[str]:
        """The same, and hashed as platforms get it."""
        plain = self.plain()
        # Google hashes a phone with its plus.
        return plain | {sha256(form) for value in plain for form in (value, f"+{value}")}


@pytest.fixture
def people(shared_source: str) -> Table:
    """600 with a key; of each hundred six are odd."""
    table = Table(shared_source)
    table.make(
        "code text primary key, email text, phone text, first_name text, last_name text, "
        "country text, postal_code text",
        PEOPLE,
    )
    return table


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cli(stack: Stack, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *argv], check=False, capture_output=True, text=True,
        encoding="utf-8", timeout=300,
        env=env | {"PENSTOCK_LEDGER_URL": stack.ledger_url, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


def _report(stack: Stack, job: str, lane: str | None = None) -> list[Row]:
    return sorted((r["row"], r["field"], r["reason"]) for r in stack.client.rejected(job, lane))


def _counts_are_those_of_the_outcome(stack: Stack, job: str, lane: dict[str, Any]) -> None:
    """Where all rows that were left out are kept by their keys."""
    counts = Counter({r["reason"]: r["count"] for r in lane["reasons"]})
    for told, values in lane["details"].get("unusable_values", {}).items():
        counts[told.partition(": ")[2]] += values
    report = _report(stack, job, lane["lane"])
    assert Counter(reason for _, _, reason in report) == counts
    assert lane["reported"] == len(report)


def _ledger(stack: Stack, job: str) -> str:
    """Every row of the job, in every table."""
    with psycopg.connect(stack.ledger_url) as db:
        tables = db.execute(
            "select table_name from information_schema.columns "
            "where table_schema = 'penstock' and column_name = 'job_id' order by 1"
        ).fetchall()
        return json.dumps(
            [
                db.execute(
                    f"select to_jsonb(t) from penstock.{name} as t where job_id = %s", (job,)
                ).fetchall()
                for (name,) in tables
            ]
        )


def _held(server: Redis, url: str) -> str:
    """Every value of a Redis, and the messages in it as they read."""
    with server.client(int(url.rpartition("/")[2])) as client:
        text = "\n".join(repr((key, value)) for key, value in _values(client))
    bodies = re.findall(r'"body": "([A-Za-z0-9+/=]+)"', text)
    return "\n".join([text, *(base64.b64decode(body).decode() for body in bodies)])


def _values(client: Any) -> Iterator[tuple[bytes, Any]]:
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    for key in client.scan_iter("*"):
        kind = client.type(key)
        if kind != b"none":  # it has expired meanwhile
            yield key, read[kind](key)


def _keys(*remainders: int) -> list[str]:
    return [f"K-{n:04}" for n in range(1, ROWS + 1) if n % 100 in remainders]


def _each(every: int, *left_out: int) -> list[str]:
    """Keys of each so-manieth row of each batch that is sent."""
    found = []
    for first in range(1, ROWS, BATCH):
        sent = [n for n in range(first, first + BATCH) if n % 100 not in left_out]
        found += [f"K-{n:04}" for n in sent[every - 1 :: every]]
    return found


def _local() -> list[Row]:
    """What no platform gets."""
    return [
        *((key, *why) for key in _keys(7) for why in (NO_MAIL, NOBODY)),
        *((key, *NO_CODE) for key in _keys(13)),
        *((key, *NO_PHONE) for key in _keys(45)),
    ]


def test_rows_are_named_by_key_column_and_reason(
    running: Stack,
    people: Table,
    google_sandbox: GoogleAdsSandbox,
    data_manager_sandbox: DataManagerSandbox,
    meta_sandbox: MetaSandbox,
    linkedin_sandbox: LinkedInSandbox,
    redis_server: Redis,
) -> None:
    segment = str(linkedin_sandbox.add_audience(id=str(71_000 + next(_number)))["id"])
    google_sandbox.fault("add", "partial", times=-1, data={"every": 50})
    linkedin_sandbox.fault("users", "user_status", times=-1, data={"every": 40, "status": 422})
    spoilt = f"quelle{SPOILT}@rejected.example"
    meta_sandbox.fault("users", "bad_row", times=-1, data={"value": sha256(spoilt)})
    job = running.client.submit(
        {
            "name": "rejected",
            "source": {"connection": "warehouse", "table": people.name, "key": "code"},
            "destinations": [
                GOOGLE,
                {"connection": "data_manager", "kind": "data_manager", "customer_id": CUSTOMER,
                 "user_list_id": USER_LIST, "terms_accepted": True},
                META,
                {"connection": "linkedin", "kind": "linkedin", "audience_id": segment},
            ],
            "batch_rows": BATCH,
        }
    )  # fmt: skip
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    assert sums_are_right(status)

    by_google = ("", "Google: invalid sha256 format")
    by_data_manager = ("postal_code", "Google: invalid postal code")
    by_linkedin = ("", "LinkedIn: refused with status 422")
    unknown = ("", "LinkedIn: neither an e-mail address nor a mobile ad id")
    expected: dict[str, list[Row]] = {
        "ads": [(key, *by_google) for key in _each(50, 7)],
        "data_manager": [(key, *by_data_manager) for key in _keys(21)],
        "meta": [(f"K-{SPOILT:04}", *REFUSED_BY_META)],
        "linkedin": [
            *((key, *by_linkedin) for key in _each(40, 7, 33)),
            *((key, *unknown) for key in _keys(33)),
        ],
    }
    held = {
        "ads": google_sandbox.count(USER_LIST),
        "data_manager": data_manager_sandbox.count(USER_LIST),
        "meta": meta_sandbox.count(AUDIENCE),
        "linkedin": linkedin_sandbox.count(segment),
    }
    assert [lane["lane"] for lane in status["lanes"]] == list(expected)
    for lane in status["lanes"]:
        name = lane["lane"]
        assert _report(running, job, name) == sorted(_local() + expected[name]), name
        assert lane["state"] == "rejected_some"
        assert (lane["rejected"], lane["skipped"]) == (len(expected[name]), len(_keys(7))), name
        assert held[name] == lane["accepted"]
        _counts_are_those_of_the_outcome(running, job, lane)
    # To find the one: the batch, and two halves of each that had it in it.
    halvings = running.lane(status, "meta")["details"]["requests"] - ROWS // BATCH
    assert 2 <= halvings <= 2 * (BATCH.bit_length())

    ran = _cli(running, "rejected", job)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list(csv.DictReader(io.StringIO(ran.stdout))) == list(running.client.rejected(job))
    lines = _cli(running, "rejected", job, "linkedin", "--json")
    assert [json.loads(line) for line in lines.stdout.splitlines()] == list(
        running.client.rejected(job, "linkedin")
    )

    told = {
        "report": ran.stdout + lines.stdout,
        "status": json.dumps(status),
        "ledger": _ledger(running, job),
        "logs": running.logs(),
        "redis": _held(redis_server, running.broker_url),
    }
    assert all("K-0007" in told[place] for place in ("report", "ledger"))
    assert all(job in told[place] for place in ("status", "ledger", "redis"))
    for value in people.values():
        for place, text in told.items():
            assert value not in text, place


def test_what_has_no_key_is_named_by_its_place(
    running: Stack, shared_source: str, meta_sandbox: MetaSandbox
) -> None:
    table = Table(shared_source)
    table.make(
        "n integer, email text, phone text",
        "insert into {} values (1, 'a1@place.example', null), (2, 'a2@place.example', null), "
        "(3, 'nothing', null), (4, 'a4@place.example', '030 1234567'), "
        "(5, 'a5@place.example', null)",
    )
    spoilt = sha256("a5@place.example")
    meta_sandbox.fault("users", "bad_row", times=-1, data={"value": spoilt})
    query = f"select email, phone from {table.name} order by n"
    job = running.client.submit(
        {"name": "no key", "source": {"connection": "warehouse", "query": query},
         "destinations": [META], "batch_rows": 3}
    )  # fmt: skip
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    assert _report(running, job) == [
        ("batch 0, row 3", *NOBODY),
        ("batch 0, row 3", *NO_MAIL),
        ("batch 1, row 1", *NO_CODE),
        ("batch 1, row 2", *REFUSED_BY_META),
    ]
    _counts_are_those_of_the_outcome(running, job, status["lanes"][0])


@pytest.mark.parametrize(
    ("key", "columns"),
    [("email", {}), ("login", {"email": "login"}), ("login", {}), ("phone", {})],
)
def test_a_key_that_is_a_person_is_never_shown(
    running: Stack,
    shared_source: str,
    meta_sandbox: MetaSandbox,
    key: str,
    columns: dict[str, str],
) -> None:
    """Be it by the column's name, by what the spec makes of it, or by its look."""
    table = Table(shared_source)
    email = "mail" if key == "login" else "email"
    table.make(
        f"login text unique, {email} text, phone text",
        f"insert into {{}} (login, {email}, phone) select 'w' || n || '@shown.example', "
        "'w' || n || '@shown.example', '+49 30 55' || (1000 + n) from generate_series(1, 4) as n",
        "update {} set phone = '99 551004' where login = 'w4@shown.example'",
    )
    meta_sandbox.fault("users", "bad_row", times=-1, data={"value": sha256("4930551002")})
    source = {"connection": "warehouse", "table": table.name, "key": key, "columns": columns}
    job = running.client.submit(
        {"name": "shown", "source": source, "destinations": [META], "batch_rows": 10}
    )
    status = running.wait(job)
    assert status["state"] == "succeeded", status
    report = _report(running, job)
    assert ("batch 0, row 2", *REFUSED_BY_META) in report
    assert ("batch 0, row 4", *NO_CODE) in report
    assert all(row.startswith("batch 0, row ") for row, _, _ in report)
    told = json.dumps([status, report]) + running.logs()
    for value in table.values():
        assert value not in told


def test_the_report_has_room_for_so_many_and_what_travels_is_hashed(
    stack: Stack, source_url: str, redis_server: Redis
) -> None:
    table = Table(source_url)
    table.make(
        "code text primary key, email text, phone text",
        "insert into {} select 'K-' || lpad(n::text, 4, '0'), 'kein' || n || '@kurz.example', "
        "'unbekannt-' || n from generate_series(1, 40) as n",
    )
    stack.env["PENSTOCK_REPORT_ROWS"] = "5"
    stack.start("jobs", "extract", beat=False, slots=1)
    job = stack.client.submit(
        {"name": "few", "destinations": [META, {**META, "lane": "again"}], "batch_rows": 8,
         "source": {"connection": "warehouse", "table": table.name, "key": "code"}}
    )  # fmt: skip

    # Everything is on its way now: what is in Redis is all that ever leaves the extract worker.
    wait_for(lambda: stack.client.status(job)["stage"] == "closing")
    held = _held(redis_server, stack.broker_url) + _payloads(stack, job)
    assert job in held
    assert '"K-0007"' in held
    assert sha256("kein7@kurz.example") in held
    for value in table.plain():
        assert value not in held

    stack.add("upload.meta", slots=1).start()
    status = stack.wait(job)
    assert status["state"] == "succeeded", status
    for lane in status["lanes"]:
        assert (lane["accepted"], lane["reported"]) == (40, 5)
        # The figures have all of them.
        assert lane["details"]["unusable_values"] == {"phone: not a phone number": 40}
        report = _report(stack, job, lane["lane"])
        assert len(report) == 5
        assert {(field, reason) for _, field, reason in report} == {NO_PHONE}
    ran = _cli(stack, "rejected", job, "again")
    assert len(ran.stdout.splitlines()) == 1 + 5
    assert ran.stderr.startswith("penstock: 35 more rows are counted in the outcome")
    assert _cli(stack, "rejected", job).stderr.startswith("penstock: 70 more rows")
    told = _ledger(stack, job) + stack.logs() + _held(redis_server, stack.broker_url)
    assert job in told
    for value in table.values():
        assert value not in told


def _payloads(stack: Stack, job: str) -> str:
    """The job's payloads, as they read when they are unpacked."""
    payloads = Payloads(stack.broker_url)
    text = []
    with psycopg.connect(stack.ledger_url) as db:
        batches = db.execute(
            "select epoch, seq from penstock.batch where job_id = %s", (job,)
        ).fetchall()
    for epoch, seq in batches:
        payload = payloads.take(job, epoch, seq, "meta")
        assert payload is not None
        with pa.ipc.open_stream(pa.BufferReader(payload.body)) as reader:
            rows = reader.read_all().to_pylist()
        shown = [{k: v.hex() if type(v) is bytes else v for k, v in row.items()} for row in rows]
        text.append(json.dumps([payload.about, shown]))
    payloads.close()
    return "\n".join(text)
