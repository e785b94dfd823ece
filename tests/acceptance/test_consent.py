"""Who said no is not advertised to: each row's own consent, on every platform, with whole jobs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest

from sandbox.servers import DataManagerSandbox, GoogleAdsSandbox, MetaSandbox
from tests.acceptance.test_modes import DATA_MANAGER, People
from tests.harness import AUDIENCE, CUSTOMER, GOOGLE, META, USER_LIST, Stack, sums_are_right

ROWS = 600
#: By n % 3; so that every batch has all of them.
GRANTED, DENIED, SILENT = 0, 1, 2
_number = count(1)

Run = Callable[..., dict[str, Any]]
AnySandbox = GoogleAdsSandbox | DataManagerSandbox | MetaSandbox


def said(*what: int) -> list[int]:
    return [n for n in range(1, ROWS + 1) if n % 3 in what]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def google_members(numbers: Iterable[int]) -> set[str]:
    return {
        f"email:{sha(f'p{n}@example.com')}|phone:{sha(f'+4930{1_000_000 + n}')}" for n in numbers
    }


def meta_members(numbers: Iterable[int]) -> set[str]:
    return {
        f"EMAIL:{sha(f'p{n}@example.com')}|PHONE:{sha(f'4930{1_000_000 + n}')}" for n in numbers
    }


@pytest.fixture
def people(shared_source: str) -> People:
    people = People(shared_source)
    people("alter table {} add consent text, add ad_user_data text, add ad_personalization text")
    people.fill(1, ROWS)
    return people


@pytest.fixture
def asked(people: People) -> People:
    """A third said yes, a third said no, and a third nothing."""
    people("update {} set consent = 'granted' where id % 3 = 0")
    people("update {} set consent = 'Denied' where id % 3 = 1")
    people("update {} set consent = ' ' where id % 3 = 2 and id % 2 = 0")
    return people


@pytest.fixture
def run(running: Stack, people: People) -> Run:
    name = f"consent {next(_number)}"

    def submit(*destinations: dict[str, Any], **changes: Any) -> dict[str, Any]:
        job = running.client.submit(
            {"name": name, "source": people.source, "destinations": list(destinations),
             "batch_rows": 250, **changes}
        )  # fmt: skip
        status = running.wait(job)
        assert sums_are_right(status)
        return status

    return submit


def reasons(lane: dict[str, Any]) -> dict[str, int]:
    return {told["reason"]: told["count"] for told in lane["reasons"]}


def consents_of(sandbox: GoogleAdsSandbox) -> set[tuple[str, str]]:
    """(ad_user_data, ad_personalization) of the jobs that have members. How often a member was
    named is no matter of consent: a batch may come twice.
    """
    filled = [job for job in sandbox.state()["jobs"] if job["operations"]]
    consents = [(j["consent"]["ad_user_data"], j["consent"]["ad_personalization"]) for j in filled]
    assert len(set(consents)) == len(consents), "two jobs of one consent"
    return set(consents)


@pytest.mark.usefixtures("asked")
def test_google_gets_a_job_for_each_consent_and_nobody_who_denied_it(
    running: Stack, run: Run, google_sandbox: GoogleAdsSandbox
) -> None:
    status = run(GOOGLE)
    [lane] = status["lanes"]
    assert (status["state"], lane["state"]) == ("succeeded", "succeeded"), status
    assert consents_of(google_sandbox) == {
        ("GRANTED", "GRANTED"),
        ("UNSPECIFIED", "UNSPECIFIED"),
    }
    assert set(google_sandbox.members(USER_LIST)) == google_members(said(GRANTED, SILENT))
    assert reasons(lane) == {"consent denied": 200}
    refused = {int(each["row"]) for each in running.client.rejected(status["job_id"])}
    assert refused == set(said(DENIED))
    assert {job["does"] for job in lane["details"]["jobs"]} == {
        "add",
        "add, ad_user_data granted, ad_personalization granted",
    }


@pytest.mark.usefixtures("asked")
def test_each_of_google_s_jobs_has_the_members_of_its_consent(
    run: Run, google_sandbox: GoogleAdsSandbox
) -> None:
    google_sandbox.fault("run", "job_failed")
    [lane] = run(GOOGLE)["lanes"]
    assert "Of Google's 2 jobs 1 succeeded" in lane["error"]
    [failed] = [job for job in google_sandbox.state()["jobs"] if job["status"] == "FAILED"]
    assert failed["consent"]["ad_user_data"] == "UNSPECIFIED"
    assert set(google_sandbox.members(USER_LIST)) == google_members(said(GRANTED))


def test_each_purpose_is_asked_for_by_itself(
    run: Run, people: People, google_sandbox: GoogleAdsSandbox
) -> None:
    """A purpose's own column goes before `consent`, and that before the destination's constant."""
    people("update {} set ad_user_data = 'granted' where id % 3 = 0")
    people("update {} set consent = 'granted', ad_personalization = 'denied' where id % 3 = 1")
    status = run({**GOOGLE, "ad_personalization": "granted"})
    assert consents_of(google_sandbox) == {("GRANTED", "GRANTED"), ("UNSPECIFIED", "GRANTED")}
    assert set(google_sandbox.members(USER_LIST)) == google_members(said(0, 2))
    assert reasons(status["lanes"][0]) == {"consent denied": 200}


def test_a_destination_s_denial_speaks_for_who_said_nothing(
    run: Run, asked: People, google_sandbox: GoogleAdsSandbox
) -> None:
    asked("update {} set consent = null where id % 3 = 1")
    run({**GOOGLE, "ad_user_data": "denied"})
    assert consents_of(google_sandbox) == {("GRANTED", "GRANTED")}
    assert set(google_sandbox.members(USER_LIST)) == google_members(said(GRANTED))


@pytest.mark.usefixtures("asked")
def test_meta_which_asks_for_no_consent_gets_nobody_who_denied_it(
    run: Run, meta_sandbox: MetaSandbox
) -> None:
    [lane] = run(META)["lanes"]
    assert lane["state"] == "succeeded"
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(said(GRANTED, SILENT))
    assert (lane["skipped"], reasons(lane)) == (200, {"consent denied": 200})


@pytest.mark.usefixtures("asked")
def test_the_data_manager_is_told_each_member_s_consent(
    run: Run, data_manager_sandbox: DataManagerSandbox
) -> None:
    [lane] = run(DATA_MANAGER)["lanes"]
    told = {said for r in data_manager_sandbox.state()["requests"] for said in r["consents"]}
    silent = "STATUS_UNSPECIFIED/STATUS_UNSPECIFIED"
    # Nobody who denies it is named there at all.
    assert told == {"GRANTED/GRANTED", silent}
    expected = google_members(said(GRANTED, SILENT))
    assert set(data_manager_sandbox.members(USER_LIST)) == expected
    assert (lane["state"], lane["accepted"], lane["skipped"]) == ("succeeded", 400, 200)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("value", [None, "granted"])
def test_where_consent_is_required_who_did_not_grant_it_is_left_out_everywhere(
    value: str | None,
    run: Run,
    google_sandbox: GoogleAdsSandbox,
    data_manager_sandbox: DataManagerSandbox,
    meta_sandbox: MetaSandbox,
) -> None:
    consent = {"required": True} | ({"value": value} if value else {})
    status = run(GOOGLE, DATA_MANAGER, META, consent=consent)
    # The job's own word stands for who said nothing, and never for who said no.
    sent = said(GRANTED, SILENT) if value else said(GRANTED)
    for lane in status["lanes"]:
        assert lane["state"] == "succeeded", lane
        assert (lane["accepted"], lane["skipped"]) == (len(sent), ROWS - len(sent))
    assert set(google_sandbox.members(USER_LIST)) == google_members(sent)
    assert set(data_manager_sandbox.members(USER_LIST)) == google_members(sent)
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(sent)
    assert consents_of(google_sandbox) == {("GRANTED", "GRANTED")}
    for request in data_manager_sandbox.state()["requests"]:
        assert set(request["consents"]) == {"GRANTED/GRANTED"}


@pytest.mark.usefixtures("asked")
def test_a_row_whose_consent_cannot_be_read_is_left_out(
    run: Run, people: People, google_sandbox: GoogleAdsSandbox, meta_sandbox: MetaSandbox
) -> None:
    people("update {} set consent = 'perhaps' where id = 3")
    status = run(GOOGLE, META)
    for lane in status["lanes"]:
        assert reasons(lane) == {"consent denied": 200, "consent: not readable": 1}
    sent = set(said(GRANTED, SILENT)) - {3}
    assert set(google_sandbox.members(USER_LIST)) == google_members(sent)
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(sent)


def test_who_takes_consent_back_leaves_the_mirrored_audience(
    run: Run,
    people: People,
    google_sandbox: GoogleAdsSandbox,
    data_manager_sandbox: DataManagerSandbox,
    meta_sandbox: MetaSandbox,
) -> None:
    people("update {} set consent = 'granted'")
    lanes = [{**where, "mode": "mirror"} for where in (GOOGLE, DATA_MANAGER, META)]
    assert run(*lanes)["state"] == "succeeded"
    assert google_sandbox.count(USER_LIST) == meta_sandbox.count(AUDIENCE) == ROWS

    people("update {} set consent = 'denied' where id % 3 = 1")
    status = run(*lanes)
    assert status["state"] == "succeeded", status
    for lane in status["lanes"]:
        assert (lane["accepted"], lane["details"]["removed"]) == (0, 200)
    left = said(0, 2)
    assert set(google_sandbox.members(USER_LIST)) == google_members(left)
    assert set(data_manager_sandbox.members(USER_LIST)) == google_members(left)
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(left)


@pytest.mark.usefixtures("asked")
def test_nobody_s_consent_is_needed_to_be_taken_out(
    run: Run, people: People, google_sandbox: GoogleAdsSandbox, meta_sandbox: MetaSandbox
) -> None:
    people("update {} set consent = 'granted'")
    run(GOOGLE, META)
    people("update {} set consent = 'denied' where id <= 200")
    people("delete from {} where id > 300")
    lanes = [{**where, "mode": "remove"} for where in (GOOGLE, META)]
    status = run(*lanes, consent={"required": True})
    assert [lane["accepted"] for lane in status["lanes"]] == [300, 300]
    left = range(301, ROWS + 1)
    assert set(google_sandbox.members(USER_LIST)) == google_members(left)
    assert set(meta_sandbox.members(AUDIENCE)) == meta_members(left)


@pytest.mark.usefixtures("asked")
def test_one_job_reaches_several_accounts_each_through_its_own_manager(
    run: Run, google_sandbox: GoogleAdsSandbox, data_manager_sandbox: DataManagerSandbox
) -> None:
    managed, manager, stranger, managed_list = "2220000001", "9990000001", "9990000002", "771"
    for sandbox in (google_sandbox, data_manager_sandbox):
        sandbox.add_audience(customer_id=managed, user_list_id=managed_list, manager_id=manager)
    through = {"customer_id": managed, "user_list_id": managed_list, "login_customer_id": manager}
    status = run(
        {**GOOGLE, "lane": "own"},
        {**GOOGLE, **through, "lane": "managed"},
        {**GOOGLE, **through, "lane": "no_way_in", "login_customer_id": stranger},
        {**DATA_MANAGER, **through, "lane": "data_manager"},
    )
    lanes = {lane["lane"]: lane for lane in status["lanes"]}
    assert status["state"] == "partial", status
    assert {name for name, lane in lanes.items() if lane["state"] == "failed"} == {"no_way_in"}
    assert "login_customer_id" in lanes["no_way_in"]["error"]
    for name in ("own", "managed"):
        assert lanes[name]["accepted"] == 400
    ran = Counter(
        j["customer_id"] for j in google_sandbox.state()["jobs"] if j["started"] is not None
    )
    assert ran == {CUSTOMER: 2, managed: 2}
    expected = google_members(said(GRANTED, SILENT))
    assert set(google_sandbox.members(USER_LIST)) == expected
    assert set(google_sandbox.members(managed_list)) == expected
    assert set(data_manager_sandbox.members(managed_list)) == expected
    assert data_manager_sandbox.count(USER_LIST) == 0
