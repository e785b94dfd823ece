"""Suppression and erasures in the ledger, and the command that fills the list."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from penstock import person
from penstock.contract import JobSpec
from penstock.contract import Source as SourceSpec
from penstock.erase import erase, removals
from penstock.errors import SpecError
from penstock.ledger.erasures import Sent
from penstock.ledger.suppression import PAGE, look_up
from sandbox.servers import Postgres
from services.extract.source import SourceRefused
from services.extract.sources.erasure import ErasureSource
from tests.builders import FILES, GOOGLE, META, Books, books, database, execute, spec

EMAIL, PHONE = "ann@example.com", "+49 30 1234567"


@pytest.fixture(scope="module")
def url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def found(url: str) -> Iterator[Books]:
    with books(url) as found:
        execute(url, "truncate penstock.suppressed, penstock.erasure cascade")
        yield found


def _digest(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


# --- the list


def test_who_is_on_the_list_is_known_and_nobody_else(found: Books) -> None:
    suppression = found.ledger.suppression
    assert not suppression.any()
    assert suppression.known([_digest(1)]) == set()
    assert suppression.add([_digest(1), _digest(2), _digest(1)]) == 2
    assert suppression.any()
    assert suppression.known([_digest(n) for n in (1, 1, 3)]) == {_digest(1)}
    assert suppression.add([_digest(2), _digest(3)]) == 1
    assert suppression.remove([_digest(1), _digest(4)]) == 1
    assert suppression.known([_digest(n) for n in range(5)]) == {_digest(2), _digest(3)}


def test_more_than_a_page_at_once(found: Books) -> None:
    suppression = found.ledger.suppression
    everyone = [_digest(n) for n in range(2 * PAGE + 3)]
    random.Random(7).shuffle(everyone)
    listed = everyone[: PAGE + 5]
    # Never all in memory: what is given may be a file.
    assert suppression.add(iter(listed)) == len(listed)
    assert suppression.known(everyone) == set(listed)
    assert suppression.remove(iter(everyone)) == len(listed)
    assert not suppression.any()


def test_to_look_for_people_never_reads_the_whole_list(found: Books) -> None:
    found.ledger.suppression.add(_digest(n) for n in range(50_000))
    execute(found.url, "analyze penstock.suppressed")
    with found.ledger.transaction() as db:
        assert len(look_up(db, [_digest(n) for n in range(-PAGE // 2, PAGE // 2)])) == PAGE // 2
        scans = db.execute(
            "select seq_scan, idx_scan from pg_stat_xact_user_tables where relname = 'suppressed'"
        ).fetchone()
    assert scans is not None
    assert scans["seq_scan"] == 0
    assert scans["idx_scan"] > 0


# --- an erasure


def they_found_their_audiences(found: Books, job: str) -> None:
    """What the first batch of each lane leaves, and its end."""
    with found.ledger.transaction() as db:
        db.execute(
            "update penstock.lane as l set details = jsonb_build_object("
            "'audience', coalesce(d ->> 'audience_id', '77'), "
            "'list', 'customers/1/userLists/' || coalesce(d ->> 'user_list_id', '77')) "
            "from penstock.job as j, jsonb_array_elements(j.spec -> 'destinations') "
            "with ordinality as each (d, place) "
            "where j.job_id = l.job_id and l.job_id = %s and l.idx = place - 1",
            (job,),
        )


def test_an_erasure_suppresses_and_submits_what_removes(found: Books) -> None:
    found.open(GOOGLE, META, FILES)
    they_found_their_audiences(found, "job-1")
    erased = erase(found.ledger, [EMAIL, "Bob.B+x@gmail.com"], [PHONE])
    assert erased.identifiers == 3
    [(job_id, lanes)] = erased.jobs.items()
    assert job_id == f"erase-{erased.erasure_id}"
    assert {lane: (d.kind, d.mode) for lane, d in lanes.items()} == {
        "google": ("google_ads", "remove"),
        "meta": ("meta", "remove"),
    }
    digests = {v for p in person.of_all([EMAIL, "bobb@gmail.com"], [PHONE]) for v in p.values()}
    assert found.ledger.suppression.known(list(digests)) == digests
    # Meta keeps the dots and the suffix: its digest of the second is another.
    own = person.of_email("bob.b+x@gmail.com")["meta:email"]
    assert found.ledger.suppression.known([own]) == {own}

    row = found.job(job_id)
    assert (row["state"], row["name"]) == ("submitted", "erasure")
    assert row["spec"]["source"]["erasure"] == erased.erasure_id
    assert erased.running == ["job-1"]
    stored = found.one(
        "select (select to_jsonb(e) from penstock.erasure as e) as erasure, "
        "(select jsonb_agg(p) from penstock.erasure_person as p) as people, "
        "(select jsonb_agg(j) from penstock.job as j) as jobs"
    )
    assert "ann" not in str(stored)
    assert "1234567" not in str(stored["people"])


def test_nothing_sent_is_an_erasure_too(found: Books) -> None:
    erased = erase(found.ledger, [EMAIL], [])
    assert (erased.jobs, erased.running, erased.beyond) == ({}, [], [])
    assert found.ledger.erasures.people(erased.erasure_id) == 1
    assert found.ledger.suppression.any()
    again = erase(found.ledger, [EMAIL], [])
    assert again.erasure_id != erased.erasure_id


@pytest.mark.parametrize(
    ("emails", "phones", "told"),
    [
        ([EMAIL, "ann at home"], [], "What is given as e-mail address 2 is not one."),
        ([], ["030 1234567"], "What is given as phone 1 is not a phone number with its country"),
        ([], [], "Whom to erase is not said"),
    ],
)
def test_a_mistake_is_told_without_the_value_and_nothing_is_written(
    found: Books, emails: list[str], phones: list[str], told: str
) -> None:
    with pytest.raises(SpecError) as caught:
        erase(found.ledger, emails, phones)
    assert str(caught.value).startswith(told)
    assert "home" not in str(caught.value)
    assert not found.ledger.suppression.any()


def test_an_erasure_whose_jobs_cannot_be_made_is_none_at_all(found: Books) -> None:
    def no(_id: str, _sent: Sent) -> list[Any]:
        raise SpecError("No.")

    with pytest.raises(SpecError):
        found.ledger.erasures.record([person.of_email(EMAIL)], no)
    assert not found.ledger.suppression.any()
    assert found.one("select count(*) as n from penstock.erasure") == {"n": 0}


def test_of_other_jobs_only_those_count_that_could_send(found: Books) -> None:
    other = {**META, "audience_id": "333"}
    found.ledger.jobs.submit("dry", spec(other, dry_run=True))
    found.ledger.jobs.refuse("refused", "x", {"destinations": [{**META, "kind": "meta"}]}, "No.")
    found.ledger.jobs.submit("files", spec(FILES))
    assert erase(found.ledger, [EMAIL], []).jobs == {}
    found.open(META, job_id="job")
    # Its lane has not found an audience yet, so nobody was sent.
    assert erase(found.ledger, [EMAIL], []).jobs == {}
    they_found_their_audiences(found, "job")
    found.ledger.jobs.cancel("job")
    for _ in range(2):
        [lanes] = erase(found.ledger, [EMAIL], []).jobs.values()
        assert [d.audience_id for d in lanes.values()] == ["222"]


def test_an_audience_that_was_named_is_known_by_the_id_it_was_found_under(found: Books) -> None:
    """Somebody may have given it another name since, or its name to another."""
    meta = {"connection": "meta", "account_id": "1000", "audience": "People", "create": True}
    google = {"connection": "google", "customer_id": GOOGLE["customer_id"], "audience": "People"}
    linkedin = {"kind": "linkedin", "connection": "in", "account_id": "7", "audience": "People"}
    found.open(META, meta | {"lane": "named"}, job_id="runs")  # the second of two
    found.open(google, linkedin | {"create": True, "description": "Those."}, job_id="ended")
    found.open(meta | {"audience": "Nobody"}, google | {"audience": "Nobody"}, job_id="never")
    found.ledger.jobs.submit("waits", spec(meta | {"audience": "Later"}))
    with found.ledger.transaction() as db:
        for job, lane, column, known in (
            ("runs", "meta", "memo", {"audience": "222"}),
            ("runs", "named", "memo", {"audience": "777"}),
            # As they are left of a lane that has ended.
            ("ended", "google", "details", {"list": "customers/1234567890/userLists/555"}),
            ("ended", "in", "details", {"audience": "888", "removed": 3}),
        ):
            done = db.execute(
                f"update penstock.lane set {column} = %s where job_id = %s and lane = %s",
                (Jsonb(known), job, lane),
            )
            assert done.rowcount == 1

    given: list[Sent] = []

    def plan(_id: str, sent: Sent) -> list[JobSpec]:
        given.append(sent)
        return []

    found.ledger.erasures.record([person.of_email(EMAIL)], plan)
    told = ("kind", "customer_id", "user_list_id", "account_id", "audience_id", "audience",
            "create", "description")  # fmt: skip
    assert sorted(
        ({k: d[k] for k in told if d.get(k)} for d in given[0].destinations), key=str
    ) == [
        {"kind": "google_ads", "customer_id": GOOGLE["customer_id"], "user_list_id": "555"},
        {"kind": "linkedin", "account_id": "7", "audience_id": "888"},
        {"kind": "meta", "account_id": "1000", "audience_id": "777"},
        {"kind": "meta", "audience_id": "222"},
    ]
    removed = [
        d for lanes in erase(found.ledger, [EMAIL], []).jobs.values() for d in lanes.values()
    ]
    assert {getattr(d, "audience", None) for d in removed} == {None}


def test_each_audience_once_and_by_its_newest_way() -> None:
    google = {"kind": "google_ads", **GOOGLE, "mode": "replace"}
    meta = {"kind": "meta", "connection": "meta"}
    made, beyond = removals(
        [
            {**google, "login_customer_id": "5555555555", "ad_user_data": "granted"},
            {**google, "login_customer_id": "6666666666"},
            {**google, "connection": "google2"},
            {**google, "user_list_id": "112", "list_type": "crm_id"},
            {"kind": "data_manager", **GOOGLE, "terms_accepted": True},
            {**meta, "account_id": "1000", "audience": "People", "create": True},
            {**meta, "account_id": "1001", "audience": "People"},
            {**meta, "account_id": "1001", "audience_id": "7"},
            {**meta, "audience_id": "7", "account_id": None},
            {**meta, "account_id": "1000", "everywhere": True, "mode": "remove"},
            {"kind": "linkedin", "connection": "in", "audience_id": "9", "mode": "mirror"},
            {"kind": "http", "connection": "mine", "form": "meta"},
            {"kind": "s3", **FILES},
        ]
    )
    assert {d.mode for d in made} == {"remove"}
    assert [
        (
            d.kind,
            d.connection,
            getattr(d, "login_customer_id", None) or getattr(d, "account_id", None),
        )
        for d in made
    ] == [
        ("google_ads", "google", "5555555555"),
        ("google_ads", "google2", None),
        ("data_manager", "google", None),
        ("meta", "meta", "1000"),
        ("meta", "meta", "1001"),
        ("meta", "meta", "1001"),
        ("linkedin", "in", None),
        ("meta", "meta", "1000"),
        ("meta", "meta", "1001"),
    ]
    assert [getattr(d, "everywhere", False) for d in made] == [False] * 7 + [True] * 2
    assert [(d["user_list_id"], d["list_type"]) for d in beyond] == [("112", "crm_id")]


def test_more_audiences_than_a_job_has_lanes(found: Books) -> None:
    for n in range(0, 120, 40):
        found.open(*({**META, "audience_id": str(n + i)} for i in range(40)), job_id=f"job-{n}")
        they_found_their_audiences(found, f"job-{n}")
    jobs = erase(found.ledger, [EMAIL], []).jobs
    assert [len(lanes) for lanes in jobs.values()] == [50, 50, 20]
    assert len({d.audience_id for lanes in jobs.values() for d in lanes.values()}) == 120
    assert {found.job(job_id)["state"] for job_id in jobs} == {"submitted"}


# --- an erasure as a source


def test_the_source_gives_each_platform_its_own_digests(found: Books) -> None:
    erased = erase(found.ledger, ["a.b@gmail.com", EMAIL], [PHONE])
    source = ErasureSource(
        found.ledger, SourceSpec(connection="ledger", erasure=erased.erasure_id, key="place")
    )
    described = source.describe(total=True)
    assert described.columns == ("place", *person.KNOWN_BY)
    assert (described.total, described.total_is_exact) == (3, True)
    with source.open(("google:email", "meta:email", "google:phone", "place"), None) as reader:
        first, second = reader.read(2), reader.read(2)
        assert reader.read(2) is None
    assert first is not None
    assert second is not None
    assert (first.rows, first.last_key, second.rows, second.last_key) == (2, "2", 1, "3")
    assert (
        first.columns == source.selected == ("place", "google:email", "meta:email", "google:phone")
    )
    wanted = {"g": "google:email", "m": "meta:email", "p": "google:phone"}
    assert first.text(wanted).to_pylist() == [
        {
            "g": _digest("ab@gmail.com").hex(),
            "m": _digest("a.b@gmail.com").hex(),
            "p": None,
        },
        {"g": _digest(EMAIL).hex(), "m": _digest(EMAIL).hex(), "p": None},
    ]
    assert second.text(wanted).to_pylist() == [
        {"g": None, "m": None, "p": _digest("+49301234567").hex()}
    ]
    # A lost batch is read again by its range.
    with source.open((), "1", "2") as reader:
        again = reader.read(100)
    assert again is not None
    assert (again.rows, again.last_key) == (1, "2")


def test_an_erasure_that_is_not_there_is_refused(found: Books) -> None:
    source = ErasureSource(found.ledger, SourceSpec(connection="ledger", erasure="none"))
    with pytest.raises(SourceRefused, match="no erasure 'none'"):
        source.describe(total=True)


# --- the command


def _suppress(url: str, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", "suppress", *argv], check=False, text=True,
        capture_output=True, env={"PENSTOCK_LEDGER_URL": url, "PYTHONIOENCODING": "utf-8"},
        input=stdin,
    )  # fmt: skip


def test_the_command_suppresses_a_file_and_says_which_lines_it_could_not(
    found: Books, tmp_path: Path
) -> None:
    path = tmp_path / "people.txt"
    path.write_text(
        f"{EMAIL}\n\nsecret person\n{PHONE}\n{_digest('x').hex()}\n030 1234567\n", encoding="utf-8"
    )
    ran = _suppress(found.url, "--email", "bob@example.com", "--file", str(path))
    assert ran.stdout == "Read 4 identifiers; 5 digests are newly suppressed.\n"
    assert ran.returncode == 3
    assert ran.stderr.startswith("penstock: 2 lines were left out")
    assert ran.stderr.endswith(": line 3, 6.\n")
    assert "secret" not in ran.stderr
    wanted = [*person.of_email(EMAIL).values(), *person.of_phone(PHONE).values(), _digest("x")]
    assert found.ledger.suppression.known(wanted) == set(wanted)

    ran = _suppress(found.url, "--remove", "--file", "-", stdin=f"{EMAIL}\nnew@example.com\n")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "Read 2 identifiers; 1 digests are suppressed no longer.\n"
    assert found.ledger.suppression.known(wanted) == set(wanted) - {_digest(EMAIL)}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ((), "Whom to suppress is not said"),
        (("--email", "secret"), "What is given as e-mail address 1 is not one."),
        (("--file", "/nowhere/people.txt"), "/nowhere/people.txt cannot be read"),
    ],
)
def test_the_command_refuses_what_is_wrong(found: Books, argv: tuple[str, ...], told: str) -> None:
    ran = _suppress(found.url, *argv)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"penstock: {told}")
    assert "secret" not in ran.stderr
    assert not found.ledger.suppression.any()
