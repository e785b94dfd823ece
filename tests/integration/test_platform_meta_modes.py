"""Meta's ways to take members out and to replace them, and its audiences by name."""

from __future__ import annotations

import hashlib
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from penstock.connections import MetaConnection
from penstock.contract import LaneOutcome, Meta
from sandbox.servers import MetaSandbox
from services.runtime.verdicts import Fatal, Retryable, Verdict
from services.upload.platform import LaneEnd, Lot, Sender, Sent
from services.upload.platforms.meta import MetaPlatform
from tests.harness import wait_for

AUDIENCE = "222"
ACCOUNT = "1000"
ADD, REMOVE, REPLACE = Lot("add"), Lot("remove"), Lot("replace")
DONE = LaneEnd(accepted=1, error=None, cancelled=False)
DIGEST = pa.binary(32)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def emails(*names: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"email": pa.array([sha(name) for name in names], DIGEST)})


def keys(*names: str) -> set[str]:
    return {f"EMAIL:{sha(name).hex()}" for name in names}


def platform(server: MetaSandbox, **destination: Any) -> MetaPlatform:
    if not destination.keys() & {"audience", "everywhere"}:
        destination.setdefault("audience_id", AUDIENCE)
    connection = MetaConnection.model_validate(
        {"kind": "meta", "access_token": "token-of-the-tests", "graph_url": server.url}
    )
    return MetaPlatform(connection, Meta.model_validate({"connection": "ads", **destination}))


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert "token-of-the-tests" not in text
    assert caught.value.reason.endswith(".")
    return caught.value


class Replacing:
    """A lane's memo as the ledger keeps it, and its senders, each as another worker would have."""

    def __init__(self, server: MetaSandbox, **destination: Any) -> None:
        self.server = server
        self.destination = {"mode": "replace", **destination}
        self.memo: dict[str, Any] = {}

    @property
    def platform(self) -> MetaPlatform:
        return platform(self.server, **self.destination)

    def sender(self) -> Sender:
        lane = self.platform
        # What is there already stays.
        self.memo = lane.prepare(self.memo, REPLACE) | self.memo
        return lane.sender(self.memo, 1, REPLACE)

    def send(self, chunk: pa.RecordBatch, sender: Sender | None = None) -> Sent:
        sent = (sender or self.sender()).send(chunk, last=True)
        self.memo |= sent.keep
        return sent

    def close(self, end: LaneEnd = DONE) -> LaneOutcome:
        return self.platform.close(self.memo, end)

    @property
    def listed(self) -> dict[str, Any]:
        return next(
            one
            for one in self.server.state()["replacements"]
            if one["id"] == self.memo["replace_session"]
        )


@pytest.fixture
def sandbox(meta_sandbox: MetaSandbox) -> MetaSandbox:
    """With two members in its audience."""
    platform(meta_sandbox).sender({"audience": AUDIENCE}, 2, ADD).send(
        emails("old", "both"), last=True
    )
    return meta_sandbox


@pytest.fixture
def own_sandbox(tmp_path: Path) -> Iterator[MetaSandbox]:
    """For a test that changes settings or adds audiences: they outlive a reset."""
    with MetaSandbox(tmp_path) as server:
        yield server


# --- removing


def test_members_are_removed_through_a_body_however_many(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox, mode="remove")
    memo = lane.prepare({}, REMOVE)
    many = emails("both", *(f"stranger {number}" for number in range(9_999)))
    sent = lane.sender(memo, 10_000, REMOVE).send(many, last=True)
    assert (sent.accepted, sent.rejected) == (10_000, {})
    assert set(sandbox.members(AUDIENCE)) == keys("old")
    assert sandbox.calls()["users_remove"] == {"ok": 1, "err": 0, "errors": {}}
    assert lane.close(memo, DONE) == LaneOutcome(details=memo)


def test_a_mirror_adds_and_removes_in_one_audience(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox, mode="mirror")
    memo = lane.prepare({}, ADD)
    lane.sender(memo, 1, ADD).send(emails("new"), last=True)
    assert lane.prepare(memo, REMOVE) == {}
    lane.sender(memo, 1, REMOVE).send(emails("old"), last=True)
    assert set(sandbox.members(AUDIENCE)) == keys("both", "new")


def test_a_person_is_removed_from_every_audience_of_the_account(own_sandbox: MetaSandbox) -> None:
    own_sandbox.add_audience(id="501", name="Second")
    own_sandbox.add_audience(id="502", name="Of another account", account_id="2000")
    for audience in (AUDIENCE, "501", "502"):
        sender = platform(own_sandbox, audience_id=audience).sender({"audience": audience}, 2, ADD)
        sender.send(emails("ann", "ben"), last=True)
    # Ann is known by more than her address here.
    both = emails("ann").append_column("phone", pa.array([sha("15550001")], DIGEST))
    platform(own_sandbox).sender({"audience": AUDIENCE}, 1, ADD).send(both, last=True)

    lane = platform(own_sandbox, everywhere=True, mode="remove", account_id=ACCOUNT)
    memo = lane.prepare({}, REMOVE)
    assert memo == {"account": "act_1000"}
    assert lane.prepare(memo, REMOVE) == {}
    sender = lane.sender(memo, 2, REMOVE)
    assert sender.send(emails("ann"), last=False).accepted == 1
    own_sandbox.fault("users_anywhere", "success_200")
    assert sender.send(emails("eve"), last=True).accepted == 1
    assert set(own_sandbox.members(AUDIENCE)) == keys("ben")
    assert set(own_sandbox.members("501")) == keys("ben")
    assert set(own_sandbox.members("502")) == keys("ann", "ben")
    assert own_sandbox.calls()["users_anywhere"]["ok"] == 2
    assert lane.close(memo, DONE) == LaneOutcome(details=memo)

    stranger = platform(own_sandbox, everywhere=True, mode="remove", account_id="77")
    for step in (lambda: stranger.prepare({}, REMOVE), stranger.look):
        assert "no ad account 77" in str(refused(step))
    assert lane.look() == {"audience": "every one of Sandbox account (act_1000)"}


# --- limited data use


def test_limited_data_use_goes_with_each_row_that_is_added(sandbox: MetaSandbox) -> None:
    options = {"data_processing_options": ["LDU"]}
    place = {"data_processing_country": 1, "data_processing_state": 1000}

    def limited() -> int:
        return int(sandbox.state()["audiences"][AUDIENCE]["limited"])

    memo = {"audience": AUDIENCE}
    platform(sandbox, **options).sender(memo, 1, ADD).send(emails("a"), last=True)
    assert limited() == 1
    platform(sandbox, **options, **place).sender(memo, 1, ADD).send(emails("b"), last=True)
    assert limited() == 2
    platform(sandbox).sender(memo, 1, ADD).send(emails("a"), last=True)
    assert limited() == 1
    removing = platform(sandbox, mode="remove", **options).sender(memo, 1, REMOVE)
    assert removing.send(emails("b"), last=True).accepted == 1
    assert limited() == 0
    lane = Replacing(sandbox, **options)
    lane.send(emails("c", "d"))
    lane.close()
    assert limited() == 2
    unknown = {"data_processing_country": 7, "data_processing_state": 0}
    sender = platform(sandbox, **options, **unknown).sender(memo, 1, ADD)
    assert isinstance(refused(lambda: sender.send(emails("a"), last=True)), Fatal)


# --- replacing


def test_the_audience_becomes_what_was_sent_when_the_lane_is_closed(sandbox: MetaSandbox) -> None:
    lane = Replacing(sandbox)
    first = lane.send(emails("both", "a"))
    assert (first.accepted, first.keep["replace_next"]) == (2, 2)
    lane.send(emails("b"))
    sender = lane.sender()
    lane.send(emails("c"), sender)
    lane.send(emails("d", "e"), sender)
    assert lane.listed["batches"] == [1, 2, 3, 4]
    assert set(sandbox.members(AUDIENCE)) == keys("old", "both")
    assert lane.close() == LaneOutcome(details={"audience": AUDIENCE})
    assert set(sandbox.members(AUDIENCE)) == keys("both", "a", "b", "c", "d", "e")
    assert lane.listed["state"] == "finished"
    # The memo says nothing of anybody but the one member to close with.
    told = orjson.loads(lane.memo["replace_first"])
    assert told == {"schema": ["EMAIL"], "data": [[sha("both").hex()]]}


def test_closing_again_after_a_lost_answer_is_success(sandbox: MetaSandbox) -> None:
    lane = Replacing(sandbox)
    lane.send(emails("a"))
    sandbox.fault("users_replace", "drop_after")
    assert isinstance(refused(lane.close), Retryable)
    assert lane.close() == LaneOutcome(details={"audience": AUDIENCE})
    assert set(sandbox.members(AUDIENCE)) == keys("a")


@pytest.mark.parametrize("fault", ["drop_after", "reset", "transient", "empty_200"])
@pytest.mark.parametrize("again", ["same worker", "another worker"])
def test_a_first_chunk_that_comes_again_is_in_once_and_loses_nobody(
    sandbox: MetaSandbox, fault: str, again: str
) -> None:
    lane = Replacing(sandbox)
    sender = lane.sender()
    sandbox.fault("users_replace", fault)
    assert isinstance(refused(lambda: lane.send(emails("a", "b"), sender)), Retryable)
    assert lane.send(emails("a", "b"), sender if again == "same worker" else None).accepted == 2
    lane.send(emails("c"))
    # Batch 1 is never counted twice: Meta may begin the replacement anew with it.
    assert lane.listed["batches"] == ([1, 2, 3] if fault == "drop_after" else [1, 2])
    assert lane.close().error is None
    assert set(sandbox.members(AUDIENCE)) == keys("a", "b", "c")


def test_a_later_chunk_comes_again_under_its_number(sandbox: MetaSandbox) -> None:
    lane = Replacing(sandbox)
    lane.send(emails("a"))
    sender = lane.sender()
    # A row of nothing is an invalid entry.
    rows = pa.RecordBatch.from_pydict({"email": pa.array([sha("b"), None], DIGEST)})
    sandbox.fault("users_replace", "drop_after", times=2)
    for again in (sender, None):
        assert isinstance(refused(lambda at=again: lane.send(rows, at)), Retryable)
    sent = lane.send(rows)
    assert (sent.accepted, sent.rejected) == (1, {"Meta: invalid entry": 1})
    assert lane.listed["batches"] == [1, 2]
    assert lane.listed["received"] == 7
    # The counts of the next chunk are its own.
    assert lane.send(emails("d")).accepted == 1
    lane.close()
    assert set(sandbox.members(AUDIENCE)) == keys("a", "b", "d")


def test_the_member_to_close_with_is_one_that_meta_took(sandbox: MetaSandbox) -> None:
    lane = Replacing(sandbox)
    sandbox.fault("users_replace", "invalid_entries")
    assert lane.send(emails("x")).accepted == 0
    assert "replace_first" not in lane.memo
    rows = pa.RecordBatch.from_pydict({"email": pa.array([None, sha("a")], DIGEST)})
    assert lane.send(rows).accepted == 1
    lane.close()
    assert set(sandbox.members(AUDIENCE)) == keys("a")


@pytest.mark.parametrize(
    ("end", "lost_to"),
    [
        (LaneEnd(1, "It broke.", cancelled=False), "failed"),
        (LaneEnd(1, None, cancelled=True), "skipped"),
    ],
)
def test_a_lane_that_ends_early_never_sends_the_last_batch(
    sandbox: MetaSandbox, end: LaneEnd, lost_to: str
) -> None:
    lane = Replacing(sandbox)
    lane.send(emails("a"))
    outcome = lane.close(end)
    assert (outcome.error, outcome.lost_to) == (None, lost_to)
    assert set(outcome.details) == {"audience", "left_behind"}
    assert "90 minutes" in outcome.details["left_behind"]
    assert lane.listed["state"] == "running"
    assert set(sandbox.members(AUDIENCE)) == keys("old", "both")
    # Before its first chunk there is nothing to be left behind.
    unbegun = Replacing(sandbox)
    unbegun.sender()
    assert unbegun.close(end).details == {"audience": AUDIENCE}
    assert Replacing(sandbox).close(end).details == {}


def test_without_a_member_the_audience_stays_and_the_lane_says_so(sandbox: MetaSandbox) -> None:
    nobody = LaneEnd(accepted=0, error=None, cancelled=False)
    outcome = Replacing(sandbox).close(nobody)
    assert outcome.error == "The source had no member for the audience, so it was left as it is."
    lane = Replacing(sandbox)
    sandbox.fault("users_replace", "invalid_entries")
    lane.send(emails("a"))
    assert (
        lane.close(nobody).error == "Meta accepted no member, so the replacement was not finished."
    )
    assert set(sandbox.members(AUDIENCE)) == keys("old", "both")


def test_ninety_minutes_are_all_there_is(own_sandbox: MetaSandbox) -> None:
    sending, closing = Replacing(own_sandbox), Replacing(own_sandbox, audience_id="501")
    own_sandbox.add_audience(id="501", name="Second")
    sending.send(emails("a"))
    closing.send(emails("b"))
    own_sandbox.settings(replace_minutes=0)
    late = refused(lambda: sending.send(emails("c")))
    assert type(late) is Fatal
    assert "90 minutes" in str(late)
    outcome = closing.close()
    assert (outcome.error, outcome.lost_to) == (str(late), "failed")


def test_what_meta_says_of_a_replacement(own_sandbox: MetaSandbox) -> None:
    lane, other = Replacing(own_sandbox), Replacing(own_sandbox)
    lane.send(emails("a"))
    busy = refused(lambda: other.send(emails("b")))
    assert type(busy) is Retryable
    assert busy.after == 600.0
    adding = platform(own_sandbox).sender({"audience": AUDIENCE}, 1, ADD)
    assert type(refused(lambda: adding.send(emails("b"), last=True))) is Retryable
    lane.memo["replace_session"] += 1 if lane.memo["replace_session"] < 2**62 else -1
    own_sandbox.reset()
    assert "does not know the replacement" in str(refused(lambda: lane.send(emails("c"))))
    own_sandbox.settings(replace_most_members=0)
    assert "100 million" in str(refused(lambda: Replacing(own_sandbox).send(emails("a"))))


# --- audiences by name


def test_an_audience_is_created_once_and_found_from_then_on(sandbox: MetaSandbox) -> None:
    wanted = {"audience": "Büyers", "account_id": "2000"}
    lane = platform(sandbox, **wanted, create=True, description="Those who bought.")
    assert lane.look() == {"audience": "would be created"}
    assert "audience_create" not in sandbox.calls()
    made = lane.prepare({}, ADD)
    assert lane.prepare({}, ADD) == platform(sandbox, **wanted).prepare({}, ADD) == made
    assert sandbox.calls()["audience_create"]["ok"] == 1
    assert sandbox.state()["accounts"]["act_2000"] == [made["audience"]]
    assert lane.look() == {"audience": f"Büyers (id {made['audience']})"}
    lane.sender(made, 1, ADD).send(emails("a"), last=True)
    assert set(sandbox.members(made["audience"])) == keys("a")
    stranger = platform(sandbox, audience="x", account_id="77", create=True)
    assert "no ad account 77" in str(refused(lambda: stranger.prepare({}, ADD)))


def test_an_audience_is_created_only_where_that_was_asked_for(sandbox: MetaSandbox) -> None:
    lane = platform(sandbox, audience="Buyers", account_id=ACCOUNT)
    for step in (lambda: lane.prepare({}, ADD), lane.look):
        assert str(refused(step)) == "Ad account 1000 has no audience named 'Buyers'."
    assert platform(sandbox).look() == {"audience": "Newsletter (id 222)"}
    assert "audience_create" not in sandbox.calls()


def test_workers_that_start_together_end_with_one_audience(own_sandbox: MetaSandbox) -> None:
    together = threading.Barrier(4)
    # All have looked before the first creates.
    own_sandbox.fault("audience_create", "slow", times=4, delay=0.3)

    def create(_: int) -> str:
        lane = platform(own_sandbox, audience="Buyers", account_id=ACCOUNT, create=True)
        together.wait(30)
        return str(lane.prepare({}, ADD)["audience"])

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(create, range(4)))
    (kept,) = found
    assert own_sandbox.state()["accounts"]["act_1000"] == [AUDIENCE, kept]
    assert own_sandbox.calls()["audience_create"]["ok"] > 1


def test_of_audiences_that_were_created_twice_the_oldest_is_the_one(
    own_sandbox: MetaSandbox,
) -> None:
    """By its age: Meta's ids need not rise."""
    own_sandbox.add_audience(id="6000", name="Twins")
    second = int(time.time())
    wait_for(lambda: int(time.time()) > second)  # Meta knows the age in seconds
    own_sandbox.add_audience(id="5000", name="Twins")
    wanted = {"audience": "Twins", "account_id": ACCOUNT}
    lane = platform(own_sandbox, **wanted, create=True)
    assert lane.prepare({}, ADD) == {"audience": "6000"}
    assert lane.look() == {"audience": "Twins (id 6000)"}
    assert "audience_create" not in own_sandbox.calls()
    # Whoever names an audience that is there must say which.
    verdict = refused(lambda: platform(own_sandbox, **wanted).prepare({}, ADD))
    assert type(verdict) is Fatal
    assert "2 audiences named 'Twins'" in str(verdict)


@pytest.mark.parametrize("fault", ["permission", "terms", "token"])
def test_a_creation_that_is_refused_is_final(sandbox: MetaSandbox, fault: str) -> None:
    sandbox.fault("audience_create", fault)
    lane = platform(sandbox, audience="Buyers", account_id=ACCOUNT, create=True)
    assert type(refused(lambda: lane.prepare({}, ADD))) is Fatal
    sandbox.fault("audience_create", "empty_200")
    assert type(refused(lambda: lane.prepare({}, ADD))) is Retryable
