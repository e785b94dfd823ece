"""What a Google Ads lane does with its jobs: modes, consents, lists of all types, dry runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pyarrow as pa
import pytest

from penstock.connections import GoogleAdsConnection
from penstock.contract import GoogleAds, LaneOutcome
from sandbox.servers import GoogleAdsSandbox
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable, Verdict
from services.upload.platform import Checked, Context, LaneEnd, Lot, Sent
from services.upload.platforms.google_ads import GoogleAdsPlatform
from services.upload.platforms.google_ads_jobs import LONGEST_RUN_SECONDS
from services.upload.platforms.google_ads_request import add_request

CUSTOMER = "1234567890"
LIST = f"customers/{CUSTOMER}/userLists/111"
PATIENCE = 60
GOOD = LaneEnd(accepted=1, error=None, cancelled=False)
ADD, REMOVE, REPLACE = Lot("add"), Lot("remove"), Lot("replace")
IPHONE = "EA7583CD-A667-48BC-B806-42ECB2B48606"
#: 3 * ad_user_data + ad_personalization.
BOTH_GRANTED, DATA_GRANTED, DATA_DENIED = 4, 3, 7
_number = count(1)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def emails(*names: str) -> pa.RecordBatch:
    column = pa.array(map(sha, names), pa.binary(32))
    return pa.RecordBatch.from_pydict({"email": column})


def keys(*names: str) -> set[str]:
    return {f"email:{sha(name).hex()}" for name in names}


def platform(sandbox: GoogleAdsSandbox, **destination: Any) -> GoogleAdsPlatform:
    connection = GoogleAdsConnection(
        kind="google_ads", developer_token="token", endpoint=sandbox.endpoint, insecure=True
    )
    wanted = {"connection": "ads", "customer_id": CUSTOMER, **destination}
    if "audience" not in wanted:
        wanted.setdefault("user_list_id", "111")
    return GoogleAdsPlatform(connection, GoogleAds.model_validate(wanted), Context(0.05))


def send(lane: GoogleAdsPlatform, memo: dict[str, Any], lot: Lot, rows: pa.RecordBatch) -> Sent:
    """One chunk, with the memo kept as the lane's ledger keeps it."""
    memo |= {key: value for key, value in lane.prepare(memo, lot).items() if key not in memo}
    sent = lane.sender(memo, rows.num_rows, lot).send(rows, last=True)
    memo |= sent.keep
    return sent


def look(lane: GoogleAdsPlatform, memo: dict[str, Any], end: LaneEnd = GOOD) -> LaneOutcome | Wait:
    while isinstance(found := lane.close(memo, end), Checked):
        memo |= found.keep
    return found


def close(lane: GoogleAdsPlatform, memo: dict[str, Any], end: LaneEnd = GOOD) -> LaneOutcome:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look(lane, memo, end)
        if isinstance(found, LaneOutcome):
            return found
        time.sleep(found.seconds)
    raise AssertionError("the jobs did not end")


def upload(sandbox: GoogleAdsSandbox, *names: str, **destination: Any) -> None:
    lane, memo = platform(sandbox, **destination), {}
    send(lane, memo, ADD, emails(*names))
    assert close(lane, memo).error is None


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    return caught.value


def jobs(sandbox: GoogleAdsSandbox) -> list[dict[str, Any]]:
    return list(sandbox.state()["jobs"])


def started(sandbox: GoogleAdsSandbox) -> list[str | None]:
    """What the jobs that were started do, in that order."""
    ran = [job for job in jobs(sandbox) if job["started"] is not None]
    return [job["verb"] for job in sorted(ran, key=lambda job: job["started"])]


@pytest.fixture
def sandbox(google_sandbox: GoogleAdsSandbox) -> Iterator[GoogleAdsSandbox]:
    before = google_sandbox.settings()["processing"]
    google_sandbox.settings(processing=0.1)
    yield google_sandbox
    google_sandbox.settings(processing=before)


# Removing


def test_members_are_removed(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "a", "b", "c")
    lane, memo = platform(sandbox, mode="remove", ad_user_data="granted"), {}
    assert send(lane, memo, REMOVE, emails("a", "b", "stranger")).accepted == 3
    assert close(lane, memo).error is None
    assert set(sandbox.members("111")) == keys("c")
    # A removal needs no consent.
    assert set(jobs(sandbox)[-1]["consent"].values()) == {"UNSPECIFIED"}


def test_who_denied_consent_can_be_removed_and_in_the_same_job(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "a", "b", "c")
    lane, memo = platform(sandbox, mode="remove"), {}
    assert send(lane, memo, Lot("remove", DATA_DENIED), emails("a")).accepted == 1
    assert send(lane, memo, Lot("remove", BOTH_GRANTED), emails("b")).accepted == 1
    close(lane, memo)
    assert set(sandbox.members("111")) == keys("c")
    assert len(jobs(sandbox)) == 2


# Replacing


def test_the_list_becomes_exactly_the_source(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "old", "both")
    lane, memo = platform(sandbox, mode="replace"), {}
    for name in ("both", "new"):
        send(lane, memo, REPLACE, emails(name))
    outcome = close(lane, memo)
    assert outcome.error is None
    assert outcome.details["job"] == memo["job replace"]
    assert set(sandbox.members("111")) == keys("both", "new")


def test_a_list_that_is_replaced_serves_until_the_job_has_run(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "old")
    sandbox.settings(processing=3600)
    lane, memo = platform(sandbox, mode="replace"), {}
    send(lane, memo, REPLACE, emails("new"))
    assert set(sandbox.members("111")) == keys("old")
    assert isinstance(look(lane, memo), Wait)
    assert jobs(sandbox)[-1]["status"] == "RUNNING"
    assert set(sandbox.members("111")) == keys("old")


def test_the_removal_of_all_comes_first_and_once_whatever_is_repeated(
    sandbox: GoogleAdsSandbox,
) -> None:
    upload(sandbox, "old")
    lane = platform(sandbox, mode="replace")
    # The answer to the removal is lost: nobody remembers that job, and the next one has its own.
    sandbox.fault("add", "drop_after")
    assert isinstance(refused(lambda: lane.prepare({}, REPLACE)), Retryable)
    first, second = lane.prepare({}, REPLACE), lane.prepare({}, REPLACE)
    memo = second | first
    sender = lane.sender(memo, 2, REPLACE)
    sandbox.fault("add", "drop_after", times=2)
    for _ in range(2):
        assert isinstance(refused(lambda: sender.send(emails("a", "b"), last=True)), Retryable)
    memo |= sender.send(emails("a", "b"), last=True).keep
    # Sent again after a kill, by a worker that knows nothing of the marks.
    assert send(lane, dict(first), REPLACE, emails("a", "b")).accepted == 2
    assert close(lane, memo).error is None
    assert set(sandbox.members("111")) == keys("a", "b")
    assert "INVALID_OPERATION_ORDER" not in str(sandbox.calls())
    assert [job["removes_all"] for job in jobs(sandbox)[1:]] == [True] * 3
    assert started(sandbox) == ["create", "create"]


def test_only_the_job_that_runs_first_removes_all(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    names = {DATA_GRANTED: "first", BOTH_GRANTED: "second", 0: "third"}
    for consent, name in names.items():
        send(lane, memo, Lot("replace", consent), emails(name))
    replacing = jobs(sandbox)[1:]
    assert [job["removes_all"] for job in replacing] == [True, False, False]
    assert [job["consent"]["ad_personalization"] for job in replacing] == [
        "UNSPECIFIED", "GRANTED", "UNSPECIFIED"
    ]  # fmt: skip
    sandbox.settings(processing=3600)
    assert isinstance(look(lane, memo), Wait)
    # The others wait for the end of the one that clears.
    assert [job["status"] for job in jobs(sandbox)[1:]] == ["RUNNING", "PENDING", "PENDING"]


def test_all_consents_are_in_the_list_when_the_last_job_has_run(
    sandbox: GoogleAdsSandbox,
) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    for consent, name in {DATA_GRANTED: "first", BOTH_GRANTED: "second"}.items():
        send(lane, memo, Lot("replace", consent), emails(name))
    outcome = close(lane, memo)
    assert outcome.error is None
    assert set(sandbox.members("111")) == keys("first", "second")
    assert [(told["does"], told["status"]) for told in outcome.details["jobs"]] == [
        ("replace, ad_user_data granted", "success"),
        ("replace, ad_user_data granted, ad_personalization granted", "success"),
    ]


def test_a_clearing_job_without_a_member_of_its_own_still_runs(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    sandbox.fault("add", "partial", after=1, data={"every": 1})
    assert send(lane, memo, Lot("replace", DATA_GRANTED), emails("bad")).accepted == 0
    assert send(lane, memo, REPLACE, emails("good")).accepted == 1
    assert close(lane, memo).error is None
    assert set(sandbox.members("111")) == keys("good")


@pytest.mark.parametrize("prepared", [False, True], ids=["no rows", "all refused"])
def test_a_replacement_by_nobody_leaves_the_list_as_it_is(
    sandbox: GoogleAdsSandbox, prepared: bool
) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    if prepared:
        sandbox.fault("add", "partial", after=1, data={"every": 1})
        send(lane, memo, REPLACE, emails("bad"))
    outcome = close(lane, memo, LaneEnd(accepted=0, error=None, cancelled=False))
    assert outcome.error == "Google took no member, so the list was left as it was."
    assert set(sandbox.members("111")) == keys("old")


@pytest.mark.parametrize(
    ("end", "lost_to"),
    [
        (LaneEnd(accepted=1, error="It broke.", cancelled=False), "failed"),
        (LaneEnd(accepted=1, error=None, cancelled=True), "skipped"),
    ],
)
def test_a_replacement_that_broke_off_leaves_the_list_as_it_is(
    sandbox: GoogleAdsSandbox, end: LaneEnd, lost_to: str
) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    send(lane, memo, REPLACE, emails("new"))
    outcome = close(lane, memo, end)
    assert (outcome.lost_to, outcome.error) == (lost_to, None)
    assert started(sandbox) == ["create"]
    assert set(sandbox.members("111")) == keys("old")


def test_where_the_clearing_job_fails_nothing_else_runs(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    for lot in (REPLACE, Lot("replace", BOTH_GRANTED)):
        send(lane, memo, lot, emails("new"))
    sandbox.fault("run", "job_failed", data={"failure_reason": "INSUFFICIENT_MATCHED_TRANSACTIONS"})
    outcome = close(lane, memo)
    assert outcome.error == (
        "Of Google's 2 jobs 0 succeeded and 1 failed: replace: insufficient matched transactions."
    )
    assert outcome.lost_to == "failed"
    assert [told["status"] for told in outcome.details["jobs"]] == ["failed", "pending"]
    assert set(sandbox.members("111")) == keys("old")


def test_a_later_job_that_fails_is_named_with_what_the_list_holds_now(
    sandbox: GoogleAdsSandbox,
) -> None:
    upload(sandbox, "old")
    lane, memo = platform(sandbox, mode="replace"), {}
    for lot, name in ((REPLACE, "in"), (Lot("replace", BOTH_GRANTED), "out")):
        send(lane, memo, lot, emails(name))
    sandbox.fault("run", "job_failed", after=1)
    outcome = close(lane, memo)
    assert outcome.error == (
        "Of Google's 2 jobs 1 succeeded and 1 failed: replace, ad_user_data granted, "
        "ad_personalization granted: insufficient transactions. The list now has the members of "
        "those that succeeded alone."
    )
    assert outcome.lost_to == "failed"
    assert set(sandbox.members("111")) == keys("in")


def test_a_cancel_between_two_jobs_of_a_replacement_stops_nothing(
    sandbox: GoogleAdsSandbox,
) -> None:
    lane, memo = platform(sandbox, mode="replace"), {}
    for lot, name in ((REPLACE, "a"), (Lot("replace", BOTH_GRANTED), "b")):
        send(lane, memo, lot, emails(name))
    assert isinstance(look(lane, memo), Wait)
    outcome = close(lane, memo, LaneEnd(accepted=2, error=None, cancelled=True))
    assert outcome.lost_to is None
    assert set(sandbox.members("111")) == keys("a", "b")


# A mirror


def test_a_mirror_removes_before_it_adds(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "stays", "goes")
    lane, memo = platform(sandbox, mode="mirror"), {}
    send(lane, memo, ADD, emails("new"))
    send(lane, memo, REMOVE, emails("goes"))
    outcome = close(lane, memo, LaneEnd(accepted=1, error=None, cancelled=False, removed=1))
    assert outcome.error is None
    assert set(sandbox.members("111")) == keys("stays", "new")
    assert started(sandbox) == ["create", "remove", "create"]
    assert [told["does"] for told in outcome.details["jobs"]] == ["remove", "add"]


def test_a_mirror_that_only_removes(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "stays", "goes")
    lane, memo = platform(sandbox, mode="mirror"), {}
    send(lane, memo, REMOVE, emails("goes"))
    end = LaneEnd(accepted=0, error=None, cancelled=False, removed=1)
    assert close(lane, memo, end).error is None
    assert set(sandbox.members("111")) == keys("stays")
    assert isinstance(refused(lambda: lane.close({}, end)), Fatal)


def test_where_the_removals_fail_the_adds_are_not_run(sandbox: GoogleAdsSandbox) -> None:
    upload(sandbox, "stays", "goes")
    lane, memo = platform(sandbox, mode="mirror"), {}
    send(lane, memo, ADD, emails("new"))
    send(lane, memo, REMOVE, emails("goes"))
    sandbox.fault("run", "job_failed")
    outcome = close(lane, memo)
    assert outcome.lost_to == "failed"
    assert set(sandbox.members("111")) == keys("stays", "goes")


# Consent


def test_rows_of_another_consent_go_to_a_job_of_their_own(sandbox: GoogleAdsSandbox) -> None:
    lane = platform(sandbox, ad_user_data="granted")
    memo: dict[str, Any] = {}
    send(lane, memo, Lot("add", 0), emails("nothing said"))
    send(lane, memo, Lot("add", DATA_GRANTED), emails("the same"))
    send(lane, memo, Lot("add", 1), emails("more"))
    outcome = close(lane, memo)
    assert [(job["consent"], job["operations"]) for job in jobs(sandbox)] == [
        ({"ad_user_data": "GRANTED", "ad_personalization": "UNSPECIFIED"}, 2),
        ({"ad_user_data": "GRANTED", "ad_personalization": "GRANTED"}, 1),
    ]
    assert sandbox.count("111") == 3
    assert len(outcome.details["jobs"]) == 2


@pytest.mark.parametrize("consent", [2, 5, 6, 7, 8])
def test_who_denied_consent_is_not_sent(sandbox: GoogleAdsSandbox, consent: int) -> None:
    lane, memo = platform(sandbox, ad_user_data="granted", ad_personalization="granted"), {}
    sent = send(lane, memo, Lot("add", consent), emails("a", "b"))
    why = "consent denied"
    assert sent == Sent(0, {why: 2}, rows={0: ("", why), 1: ("", why)})
    assert sandbox.calls() == {}
    assert close(lane, memo, LaneEnd(0, None, cancelled=False)) == LaneOutcome()


def test_a_row_that_agrees_goes_before_a_destination_that_does_not(
    sandbox: GoogleAdsSandbox,
) -> None:
    lane, memo = platform(sandbox, ad_user_data="denied"), {}
    assert send(lane, memo, ADD, emails("a")).accepted == 0
    assert send(lane, memo, Lot("add", DATA_GRANTED), emails("b")).accepted == 1
    close(lane, memo)
    assert set(sandbox.members("111")) == keys("b")


# The end


def test_a_job_that_google_never_ends_is_given_up(sandbox: GoogleAdsSandbox) -> None:
    sandbox.settings(processing=3600)
    lane, memo = platform(sandbox), {}
    send(lane, memo, ADD, emails("a"))
    assert isinstance(look(lane, memo), Wait)
    memo["running since 0"] -= LONGEST_RUN_SECONDS - 60
    assert isinstance(look(lane, memo), Wait)
    memo["running since 0"] -= 61
    outcome = look(lane, memo)
    assert isinstance(outcome, LaneOutcome)
    assert outcome.lost_to == "failed"
    assert "after 48 hours" in str(outcome.error)
    assert outcome.details["job"] == memo["job add"]


def test_googles_warnings_are_told_once_each(sandbox: GoogleAdsSandbox) -> None:
    lane, memo = platform(sandbox), {}
    for error in ("INVALID_COUNTRY_CODE", "INVALID_COUNTRY_CODE", "INVALID_ENCODING"):
        sandbox.fault("add", "warn", data={"error": error})
        assert send(lane, memo, ADD, emails("a", "b")).accepted == 2
    outcome = close(lane, memo)
    assert outcome.details["warnings"] == ["invalid country code", "invalid encoding"]
    assert outcome.details["match_rate_range"] == "less than 20 %"


# Lists


def test_a_list_is_created_where_none_has_the_name(sandbox: GoogleAdsSandbox) -> None:
    name = f"Created {next(_number)}"
    wanted = {"audience": name, "create": True, "description": "Ours", "membership_days": 30}
    first = platform(sandbox, **wanted).prepare({}, ADD)["list"]
    # Again after a kill: found.
    assert platform(sandbox, **wanted).prepare({}, ADD)["list"] == first
    lists = sandbox.state()["customers"][CUSTOMER]
    assert [one for one in lists.values() if one["name"] == name] == [
        {"name": name, "key_type": "CONTACT_INFO", "life_span": 30, "description": "Ours",
         "app_id": "", "count": 0}
    ]  # fmt: skip
    assert sandbox.calls()["mutate"]["ok"] == 1


def test_a_created_list_keeps_members_as_long_as_google_allows(sandbox: GoogleAdsSandbox) -> None:
    name = f"Created {next(_number)}"
    made = platform(sandbox, audience=name, create=True).prepare({}, ADD)["list"]
    lists = sandbox.state()["customers"][CUSTOMER]
    assert lists[made.rsplit("/", 1)[1]]["life_span"] == 540


def test_jobs_that_create_a_list_at_once_create_one(sandbox: GoogleAdsSandbox) -> None:
    name = f"Created {next(_number)}"
    lanes = [platform(sandbox, audience=name, create=True) for _ in range(8)]
    # So that all of them look before the first one creates.
    sandbox.fault("mutate", "slow", times=8, delay=0.3)
    with ThreadPoolExecutor(8) as pool:
        memos = list(pool.map(lambda lane: lane.prepare({}, ADD), lanes))
    assert len({memo["list"] for memo in memos}) == 1
    lists = sandbox.state()["customers"][CUSTOMER].values()
    assert sum(one["name"] == name for one in lists) == 1


def test_a_list_that_google_will_not_create(sandbox: GoogleAdsSandbox) -> None:
    name = f"Created {next(_number)}"
    lane = platform(sandbox, audience=name, create=True)
    for fault, kind in (("transient", Retryable), ("not_allowlisted", Fatal)):
        sandbox.fault("mutate", fault)
        assert isinstance(refused(lambda: lane.prepare({}, ADD)), kind)
    app = platform(
        sandbox, audience=name, create=True, list_type="mobile_advertising_id", app_id="7"
    )
    object.__setattr__(app._destination, "app_id", None)
    verdict = refused(lambda: app.prepare({}, ADD))
    assert type(verdict) is Fatal
    assert str(verdict) == "Google Ads refused to create the user list: app id not set."


def test_a_list_of_another_type_is_named(sandbox: GoogleAdsSandbox) -> None:
    verdict = refused(lambda: platform(sandbox, list_type="crm_id").prepare({}, ADD))
    assert isinstance(verdict, Fatal)
    assert str(verdict) == (
        "The user list 111 holds members by contact info, and the destination's `list_type` is "
        "'crm_id'."
    )
    assert jobs(sandbox) == []


@pytest.mark.parametrize(
    ("list_type", "column", "values", "key"),
    [
        ("crm_id", "external_id", ["id 7", "id 8"], "external_id:id 7"),
        ("mobile_advertising_id", "mobile_ad_id", [IPHONE, "no such"], f"mobile_ad_id:{IPHONE}"),
    ],
)
def test_lists_of_ids(
    sandbox: GoogleAdsSandbox, list_type: str, column: str, values: list[str], key: str
) -> None:
    name = f"Created {next(_number)}"
    wanted = {"audience": name, "create": True, "list_type": list_type}
    if list_type == "mobile_advertising_id":
        wanted["app_id"] = "com.example"
    lane, memo = platform(sandbox, **wanted), {}
    rows = pa.RecordBatch.from_pydict({column: [*values, None], "row": pa.array([0, 1, 2])})
    assert add_request("job", rows).ByteSize() < 3 * lane.row_bytes(rows.schema.names)
    sent = send(lane, memo, ADD, rows)
    bad = {2: ("", "Google: missing user identifier")}
    if list_type == "mobile_advertising_id":
        bad[1] = (column, "Google: invalid mobile id format")
    assert sent.rows == bad
    close(lane, memo)
    list_id = memo["list"].rsplit("/", 1)[1]
    assert key in sandbox.members(list_id)
    assert sandbox.count(list_id) == sent.accepted == 3 - len(bad)

    leaving, memo = platform(sandbox, **wanted | {"create": False}, mode="remove"), {}
    send(leaving, memo, REMOVE, rows.slice(0, 1))
    close(leaving, memo)
    assert key not in sandbox.members(list_id)


def test_accounts_behind_other_managers_in_one_worker(sandbox: GoogleAdsSandbox) -> None:
    for customer, manager in (("3333333331", "9999999991"), ("3333333332", "9999999992")):
        made = sandbox.add_audience(customer_id=customer, manager_id=manager)
        wanted = {"customer_id": customer, "user_list_id": made["user_list_id"]}
        lane, memo = platform(sandbox, **wanted, login_customer_id=manager), {}
        assert lane.account == f"google_ads/{customer}"
        send(lane, memo, ADD, emails("a"))
        assert close(lane, memo).error is None
        assert sandbox.count(made["user_list_id"]) == 1
        verdict = refused(lambda wanted=wanted: platform(sandbox, **wanted).prepare({}, ADD))
        assert "login_customer_id" in str(verdict)


# Dry runs


def test_a_dry_run_finds_the_list_and_changes_nothing(sandbox: GoogleAdsSandbox) -> None:
    before = sandbox.state()
    lane = platform(sandbox, mode="replace")
    assert lane.look() == {"audience": "Newsletter (id 111)"}
    assert lane.validate(emails("a"), REPLACE) is None
    name = f"Created {next(_number)}"
    assert platform(sandbox, audience=name, create=True).look() == {"audience": "would be created"}
    assert sandbox.state() == before


def test_a_dry_run_meets_googles_refusals(sandbox: GoogleAdsSandbox) -> None:
    assert isinstance(refused(platform(sandbox, user_list_id="999").look), Fatal)
    for fault, told in (("terms", "Goals > Conversions"), ("not_allowlisted", '"data_manager"')):
        sandbox.fault("create", fault)
        assert told in str(refused(platform(sandbox).look))
    name = f"Created {next(_number)}"
    sandbox.fault("mutate", "not_allowlisted")
    assert isinstance(refused(platform(sandbox, audience=name, create=True).look), Fatal)
