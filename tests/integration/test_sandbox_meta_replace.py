"""What the Meta sandbox does with `usersreplace` and with data processing options, by the SDK."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

from sandbox.servers import MetaSandbox

TOO_LARGE, BUSY, NO_FIRST, TIMED_OUT, OVER = 1870144, 1870145, 1870147, 1870158, 1870159


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def emails(*names: str) -> dict[str, Any]:
    return {"schema": ["EMAIL"], "data": [[sha(name)] for name in names]}


def keys(*names: str) -> set[str]:
    return {f"EMAIL:{sha(name)}" for name in names}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[MetaSandbox]:
    """With two members in its audience."""
    with MetaSandbox(tmp_path) as server:
        audience(server).create_user(params={"payload": emails("old", "both")})
        yield server


def graph(server: MetaSandbox) -> FacebookAdsApi:
    session = FacebookSession(app_secret="sandbox-secret", access_token="token", timeout=30)
    session.GRAPH = server.url
    return FacebookAdsApi(session)


def audience(server: MetaSandbox, audience_id: str = "222") -> CustomAudience:
    return CustomAudience(audience_id, api=graph(server))


def replace(
    server: MetaSandbox, payload: dict[str, Any], seq: int, *, session: int = 7, last: bool = False
) -> dict[str, Any]:
    mark = {"session_id": session, "batch_seq": seq, "last_batch_flag": last}
    params = {"payload": payload, "session": mark}
    return audience(server).create_users_replace(params=params).export_all_data()


def subcode(
    server: MetaSandbox, payload: dict[str, Any], seq: int, *, session: int = 7
) -> int | None:
    with pytest.raises(FacebookRequestError) as raised:
        replace(server, payload, seq, session=session)
    assert raised.value.api_error_code() == 2650
    return raised.value.api_error_subcode()


def status_of(server: MetaSandbox) -> int:
    return int(audience(server).api_get(fields=["operation_status"])["operation_status"]["code"])


def test_the_members_change_with_the_last_batch(sandbox: MetaSandbox) -> None:
    assert replace(sandbox, emails("both", "a"), 1)["num_received"] == 2
    assert status_of(sandbox) == 414
    assert replace(sandbox, emails("b"), 3)["num_received"] == 3
    # Any but the first may come again: members are a set, and the counts are not.
    assert replace(sandbox, emails("b"), 3)["num_received"] == 4
    assert set(sandbox.members("222")) == keys("old", "both")
    answer = replace(sandbox, emails("c"), 2, last=True)
    assert (answer["audience_id"], answer["session_id"]) == ("222", "7")
    assert set(sandbox.members("222")) == keys("both", "a", "b", "c")
    assert status_of(sandbox) == 200
    (listed,) = sandbox.state()["replacements"]
    assert (listed["batches"], listed["state"]) == ([1, 2, 3], "finished")


def test_each_rule_has_its_subcode(sandbox: MetaSandbox) -> None:
    assert subcode(sandbox, emails("a"), 2) == NO_FIRST
    replace(sandbox, emails("a"), 1)
    assert subcode(sandbox, emails("b"), 1, session=8) == BUSY
    assert subcode(sandbox, emails("b"), 2, session=8) == BUSY
    assert subcode(sandbox, {"schema": ["PHONE"], "data": [[sha("1")]]}, 2) is None
    replace(sandbox, emails("c"), 2, last=True)
    for seq in (1, 3):
        assert subcode(sandbox, emails("d"), seq) == OVER
    sandbox.settings(replace_most_members=2)
    assert subcode(sandbox, emails("a"), 1, session=9) == TOO_LARGE
    assert set(sandbox.members("222")) == keys("a", "c")


def test_a_second_batch_1_begins_anew(sandbox: MetaSandbox) -> None:
    replace(sandbox, emails("a"), 1)
    replace(sandbox, emails("b"), 2)
    assert replace(sandbox, emails("c"), 1)["num_received"] == 1
    replace(sandbox, emails("d"), 2, last=True)
    assert set(sandbox.members("222")) == keys("c", "d")


def test_what_has_come_when_time_is_up_is_the_audience(sandbox: MetaSandbox) -> None:
    replace(sandbox, emails("a", "b"), 1)
    sandbox.settings(replace_minutes=0)
    assert subcode(sandbox, emails("c"), 2) == TIMED_OUT
    assert set(sandbox.members("222")) == keys("a", "b")
    assert status_of(sandbox) == 415
    sandbox.settings(replace_minutes=90)
    assert subcode(sandbox, emails("c"), 1) == TIMED_OUT
    replace(sandbox, emails("c"), 1, session=8, last=True)
    assert set(sandbox.members("222")) == keys("c")


def test_nothing_else_is_taken_meanwhile(sandbox: MetaSandbox) -> None:
    replace(sandbox, emails("a"), 1)
    users = audience(sandbox)
    for call in (users.create_user, users.delete_users):
        with pytest.raises(FacebookRequestError) as raised:
            call(params={"payload": emails("old")})
        error = raised.value
        assert (error.api_error_code(), error.api_error_subcode()) == (2650, BUSY)
    assert set(sandbox.members("222")) == keys("old", "both")


def test_a_session_is_needed_and_is_nobody_elses(sandbox: MetaSandbox) -> None:
    users = audience(sandbox)
    with pytest.raises(FacebookRequestError) as raised:
        users.create_users_replace(params={"payload": emails("a")})
    assert raised.value.api_error_code() == 100
    users.create_user(params={"payload": emails("a"), "session": {"session_id": 7, "batch_seq": 1}})
    assert subcode(sandbox, emails("b"), 1) is None
    assert sandbox.state()["replacements"] == []


def test_a_person_is_taken_out_of_every_audience_of_the_account(sandbox: MetaSandbox) -> None:
    sandbox.add_audience(id="501")
    sandbox.add_audience(id="502", account_id="2000")
    for other in ("501", "502"):
        audience(sandbox, other).create_user(params={"payload": emails("old", "other")})
    replace(sandbox, emails("old", "new"), 1)
    account = AdAccount("act_1000", api=graph(sandbox))
    account.delete_users_of_any_audience(params={"payload": emails("old")})
    assert set(sandbox.members("222")) == keys("both")
    assert set(sandbox.members("501")) == keys("other")
    assert set(sandbox.members("502")) == keys("old", "other")
    replace(sandbox, emails("newer"), 2, last=True)
    assert set(sandbox.members("222")) == keys("new", "newer")


def test_data_processing_options_go_with_each_row(sandbox: MetaSandbox) -> None:
    def send(*options: Any, **columns: Any) -> None:
        names = [f"DATA_PROCESSING_OPTIONS{name}" for name in ("", "_COUNTRY", "_STATE")]
        schema = ["EMAIL", *names[: len(options)], *columns]
        row = [sha("a"), *options, *columns.values()]
        audience(sandbox).create_user(params={"payload": {"schema": schema, "data": [row]}})

    def limited() -> int:
        return int(sandbox.state()["audiences"]["222"]["limited"])

    send(["LDU"])
    assert limited() == 1
    send([])
    assert limited() == 0
    send(["LDU"], 0, 0)
    send(["LDU"], 1, 1000)
    assert limited() == 1
    assert sandbox.count("222") == 3
    for wrong in ((["CCPA"],), ("LDU",), (["LDU"], 9, 0), (["LDU"], 1, 5)):
        with pytest.raises(FacebookRequestError) as raised:
            send(*wrong)
        assert raised.value.api_error_code() == 100
    payload = {"schema": ["DATA_PROCESSING_OPTIONS"], "data": [[["LDU"]]]}
    with pytest.raises(FacebookRequestError):
        audience(sandbox).create_user(params={"payload": payload})
