"""What every platform does alike. A new one joins with one line in SHELVES."""

from __future__ import annotations

import hashlib
import json
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pyarrow as pa
import pytest

from penstock import routes
from penstock.connections import KINDS as CONNECTIONS
from penstock.contract import LaneOutcome
from penstock.destinations import KINDS as DESTINATIONS
from sandbox.proxy import Proxy
from sandbox.servers import EndpointSandbox
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload import platforms
from services.upload.chunk import chunks
from services.upload.platform import Action, Context, LaneEnd, Lot, Platform, Sent
from services.upload.requests import Requests
from services.upload.settings import UploadSettings
from tests.conformance.shelves import OWN, SECRET, SHELVES, OwnFunction, Shelf
from tests.harness import wait_for

START = frozenset({"old", "both"})
MANY = 20
_SETTINGS = UploadSettings(broker_url="redis://unused", ledger_url="postgresql://unused")
_TEXTS = {"country": "DE", "postal_code": "10115", "mobile_ad_id": "a" * 36}
_number = count(1)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def people(names: Iterable[str], columns: Iterable[str] = ("email",)) -> pa.RecordBatch:
    """One row a name."""
    names = list(names)
    arrays = {
        column: pa.array([_TEXTS[column]] * len(names))
        if column in _TEXTS
        else pa.array([sha(name) for name in names], pa.binary(32))
        for column in columns
    }
    return pa.RecordBatch.from_pydict(arrays | {"row": pa.array(range(len(names)), pa.uint32())})


class AtOnce:
    """Waits for nothing: what is to be tried again is the test's business."""

    def turn(self, platform: Platform) -> None: ...

    def answered(self, platform: Platform, sent: Sent) -> None: ...

    def refused(self, platform: Platform, later: Retryable) -> None:  # noqa: ARG002
        raise later


class Lane:
    """A lane as the core brings it, and each of its steps by another worker."""

    def __init__(self, place: Place, mode: str, **destination: Any) -> None:
        self.place = place
        self.action: Action = "add" if mode == "mirror" else mode
        self.mode = mode
        self.job = f"job-{next(_number)}"
        self.destination = destination
        self.memo: dict[str, Any] = {}
        self.accepted = self.removed = 0
        self.requests: list[str] = []

    @property
    def platform(self) -> Platform:
        kind, shelf = self.place.kind, self.place.shelf
        wanted = {"kind": kind, "connection": "shelf", **(self.destination or shelf.destination)}
        if "mode" in DESTINATIONS[kind].model_fields:
            wanted["mode"] = self.mode
        context = Context(0.01, job_id=self.job, job_name="nightly", lane="lane", seq=0)
        connection, destination = self.place.connection(), DESTINATIONS[kind].model_validate(wanted)
        return platforms.platform(kind, connection, destination, context)

    def prepare(self, lane: Platform, lot: Lot) -> None:
        new = lane.prepare(self.memo, lot)
        assert json.loads(json.dumps(new)) == new
        # The ledger keeps what it has.
        self.memo = new | self.memo

    def send(self, rows: pa.RecordBatch, action: Action | None = None) -> list[Sent]:
        lane, lot = self.platform, Lot(action or self.action)
        self.prepare(lane, lot)
        requests = Requests(lane, lane.sender(self.memo, rows.num_rows, lot), AtOnce(), _SETTINGS)
        done, unsent = [], rows.num_rows
        for chunk in chunks(rows, lane.limits, lane.row_bytes(rows.schema.names)):
            unsent -= chunk.num_rows
            sent = requests.send(chunk, last=unsent == 0)
            check_figures(sent, chunk)
            self.memo |= json.loads(json.dumps(dict(sent.keep)))
            self.requests += [name for name, _ in requests.open_since()]
            if action is None:
                self.accepted += sent.accepted
            else:
                self.removed += sent.accepted
            done.append(sent)
        return done

    def close(self, error: str | None = None, *, cancelled: bool = False) -> LaneOutcome:
        for _ in range(500):
            end = LaneEnd(self.accepted, error, cancelled, self.removed, tuple(self.requests))
            found = self.platform.close(self.memo, end)
            if isinstance(found, LaneOutcome):
                return found
            if isinstance(found, Wait):
                time.sleep(found.seconds)
                continue
            self.memo |= json.loads(json.dumps(dict(found.keep)))
            for request, reasons in found.requests.items():
                self.requests.remove(request)
                self.accepted -= sum(reasons.values())
        raise AssertionError("the lane did not end")

    def steps(self, names: Iterable[str]) -> list[Callable[[], Any]]:
        """All there is to do for a source of these people."""
        batch = people(names)
        steps: list[Callable[[], Any]] = [lambda: self.send(batch)] if batch.num_rows else []
        if self.mode == "mirror":
            steps.append(lambda: self.send(people(["old"]), "remove"))
        return [*steps, self.close]

    def run(self, names: Iterable[str]) -> LaneOutcome:
        return [step() for step in self.steps(names)][-1]


class Place:
    """A platform with an audience on it."""

    def __init__(self, kind: str, sandbox: Any) -> None:
        self.kind = kind
        self.shelf: Shelf = SHELVES[kind]
        self.sandbox = sandbox
        self.port = sandbox.port

    def connection(self) -> Any:
        where = f"127.0.0.1:{self.port}"
        table = {
            key: value.replace("{}", where) if isinstance(value, str) else value
            for key, value in self.shelf.connection.items()
        }
        return CONNECTIONS[self.kind].model_validate({"kind": self.kind, **table})

    def begin(self) -> None:
        """Nobody but START is in the audience, and since long."""
        self.sandbox.reset()
        assert Lane(self, "add").run(sorted(START)).error is None
        self.sandbox.settings(**self.shelf.later)
        assert self.members() == self.keys(START)

    def listed(self) -> list[str]:
        return sorted(self.sandbox.members(self.shelf.audience))

    def members(self) -> set[str]:
        return set(self.listed())

    def keys(self, names: Iterable[str]) -> set[str]:
        return {self.shelf.member.format(sha(name).hex()) for name in names}

    def fired(self) -> int:
        return sum(fault["fired"] for fault in self.sandbox.faults())


def check_figures(sent: Sent, chunk: pa.RecordBatch) -> None:
    assert sent.accepted + sum(sent.rejected.values()) == chunk.num_rows
    assert set(sent.rows) <= set(range(chunk.num_rows))
    assert len(sent.rows) <= sum(sent.rejected.values())
    assert {reason for _, reason in sent.rows.values()} <= set(sent.rejected)
    assert {field for field, _ in sent.rows.values()} <= {"", *chunk.schema.names} - {"row"}
    check_silent(repr([sent.rejected, sent.rows, sent.request]))


def check_silent(text: str) -> None:
    """Nothing that is secret or anybody's: a digest shows in hex, or as bytes do in Python."""
    assert SECRET not in text
    assert not re.search(r"[0-9a-fA-F]{64}", text)
    assert not re.search(r"(\\x[0-9a-f]{2}){3}", text)


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    check_silent("".join(traceback.format_exception(caught.value)))
    assert caught.value.reason.endswith(".") or isinstance(caught.value, RowsRejected)
    return caught.value


def patiently(work: Callable[[], Any]) -> Any:
    """Again for as long as it is worth it."""
    for _ in range(10):
        try:
            return work()
        except Retryable as later:
            check_silent("".join(traceback.format_exception(later)))
    return work()


def modes_of(kind: str) -> tuple[str, ...]:
    return getattr(DESTINATIONS[kind], "modes", ("add",))


def brought(mode: str, rows: int) -> list[str]:
    known = ["both", "old"] if mode == "remove" else ["both"]
    return [*known, *(f"name {n}" for n in range(rows))][:rows]


def after(mode: str, names: Iterable[str]) -> set[str]:
    """Who is in the audience once a lane of the mode has brought the names."""
    names = set(names)
    if mode == "remove":
        return START - names
    if mode == "replace":
        return names or set(START)
    return START | names - {"old"} if mode == "add" else (START | names) - {"old"}


EVERY = [(kind, mode) for kind in routes.PLATFORMS for mode in modes_of(kind)]


@pytest.fixture(scope="module")
def endpoint_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointSandbox]:
    with EndpointSandbox(tmp_path_factory.mktemp("endpoint")) as server:
        yield server


@pytest.fixture
def own_function() -> OwnFunction:
    return OWN


@pytest.fixture
def place(request: pytest.FixtureRequest, kind: str) -> Iterator[Place]:
    place = Place(kind, request.getfixturevalue(SHELVES[kind].server))
    before = place.sandbox.settings()
    place.sandbox.settings(**place.shelf.settings)
    place.begin()
    yield place
    place.sandbox.reset()
    place.sandbox.settings(**{key: before[key] for key in place.shelf.settings})


def every(*, where: Callable[[Shelf], Any] = lambda _: True, mode: str | None = None) -> Any:
    """Parametrises by the kinds that fit, and by their modes, or one of these."""
    fit = [e for e in EVERY if e[0] not in SHELVES or where(SHELVES[e[0]])]
    return pytest.mark.parametrize(("kind", "mode"), [e for e in fit if mode in (None, e[1])])


def test_every_platform_is_in_this_suite() -> None:
    assert set(SHELVES) == set(routes.PLATFORMS)


@every()
def test_whose_limits_it_shares_is_told_without_a_call(place: Place, mode: str) -> None:
    account = Lane(place, mode).platform.account
    assert account == Lane(place, "add").platform.account
    assert re.fullmatch(rf"{place.kind}/\S+", account)
    check_silent(account)
    assert Lane(place, mode).platform.limits.rows > 0


@every()
def test_a_dry_run_changes_nothing(place: Place, mode: str) -> None:
    before = place.sandbox.state()
    lane = Lane(place, mode).platform
    found = lane.look()
    assert found
    check_silent(json.dumps(found))
    chunk = people(brought(mode, 3))
    checked = lane.validate(chunk, Lot(Lane(place, mode).action))
    if checked is not None:
        check_figures(checked, chunk)
        assert (checked.accepted, checked.request) == (3, None)
    assert place.sandbox.state() == before
    assert place.members() == place.keys(START)


@every(where=lambda shelf: shelf.by_name is not None, mode="add")
def test_an_audience_is_made_once_and_found_by_its_name(place: Place, mode: str) -> None:
    name = {"audience": f"Made of conformance {next(_number)}", **place.shelf.by_name}
    found, made = Lane(place, mode, **name), Lane(place, mode, **name, create=True)
    before = place.sandbox.state()
    assert type(refused(lambda: found.platform.prepare({}, Lot(mode)))) is Fatal
    assert made.platform.look() == {"audience": "would be created"}
    assert place.sandbox.state() == before
    first = made.platform.prepare({}, Lot(mode))
    for lane in (made, found):
        again = lane.platform.prepare({}, Lot(mode))
        [key] = first.keys() & {"audience", "list"}
        assert again[key] == first[key]
        assert lane.platform.look()["audience"].startswith(f"{name['audience']} (id ")


@every()
def test_what_is_prepared_twice_is_prepared_once(place: Place, mode: str) -> None:
    lane = Lane(place, mode)
    lot = Lot(lane.action)
    unused = lane.platform.prepare({}, lot)
    lane.prepare(lane.platform, lot)
    assert set(unused) == set(lane.memo)
    check_silent(json.dumps(lane.memo))
    prepared = place.sandbox.state()
    assert lane.platform.prepare(lane.memo, lot) == {}
    assert place.sandbox.state() == prepared
    names = brought(mode, 3)
    assert lane.run(names).error is None
    assert place.members() == place.keys(after(mode, names))


@every()
@pytest.mark.parametrize("more", [-1, 0, 1], ids=["one", "full", "one more"])
def test_the_audience_is_what_was_brought(place: Place, mode: str, more: int) -> None:
    lane = Lane(place, mode)
    size = lane.platform.row_bytes(["email", "row"])
    full = min(lane.platform.limits.rows, lane.platform.limits.bytes // size)
    names = brought(mode, full + more if more >= 0 else 1)
    outcome = lane.run(names)
    assert (outcome.error, outcome.lost_to) == (None, None)
    check_silent(repr(outcome))
    assert lane.accepted == len(names)
    assert place.members() == place.keys(after(mode, names))


@every()
@pytest.mark.parametrize("prepared", [True, False])
def test_nobody_is_brought(place: Place, mode: str, prepared: bool) -> None:
    lane = Lane(place, mode)
    if prepared:
        lane.prepare(lane.platform, Lot(lane.action))
    outcome = lane.run([])
    assert place.members() == place.keys(after(mode, []))
    # An audience is not emptied, and who asked for it is told.
    assert (outcome.error is not None) == (mode == "replace")


@every()
def test_to_close_again_ends_the_same(place: Place, mode: str) -> None:
    lane = Lane(place, mode)
    names = brought(mode, 3)
    outcome = lane.run(names)
    assert lane.close() == outcome
    assert place.members() == place.keys(after(mode, names))


@every()
@pytest.mark.parametrize("by", ["one worker", "two"])
def test_a_chunk_that_comes_twice_is_in_once(place: Place, mode: str, by: str) -> None:
    once, twice = Lane(place, mode), Lane(place, mode)
    names = brought(mode, 3)
    once.run(names)
    wanted = place.listed()
    place.begin()
    twice.prepare(twice.platform, Lot(twice.action))
    one = twice.platform.sender(twice.memo, 3, Lot(twice.action))
    for _ in range(2):
        worker = (
            one if by == "one worker" else twice.platform.sender(twice.memo, 3, Lot(twice.action))
        )
        sent = worker.send(people(names), last=True)
        twice.memo |= sent.keep
        twice.requests += [sent.request] if sent.request else []
    twice.accepted = 3
    if mode == "mirror":
        twice.send(people(["old"]), "remove")
    assert twice.close().error is None
    assert place.listed() == wanted


@every()
def test_any_answer_may_be_lost(place: Place, mode: str) -> None:
    names = brought(mode, 3)
    for number in count():
        place.begin()
        place.sandbox.fault("*", "drop_after", after=number)
        lane = Lane(place, mode)
        done = [patiently(step) for step in lane.steps(names)]
        assert done[-1].error is None
        assert lane.accepted == 3
        assert place.listed() == sorted(place.keys(after(mode, names)))
        if not place.fired():
            break
    assert number > 0


@every()
def test_any_call_may_fail(place: Place, mode: str) -> None:
    """Passing faults: the lane ends as without them, whatever was being done."""
    names = brought(mode, 3)
    for fault, data in place.shelf.passing.items():
        for number in count():
            place.begin()
            place.sandbox.fault("*", fault, after=number, data=dict(data))
            lane = Lane(place, mode)
            done = [patiently(step) for step in lane.steps(names)]
            assert done[-1].error is None, (fault, number)
            assert place.members() == place.keys(after(mode, names)), (fault, number)
            if not place.fired():
                break
        assert number > 0


@every()
def test_a_fault_has_a_verdict_that_tells_nothing(place: Place, mode: str) -> None:
    for fault, data in place.shelf.passing.items():
        lane = Lane(place, mode)
        lane.prepare(lane.platform, Lot(lane.action))
        place.sandbox.fault("*", fault, data=dict(data))
        sender = lane.platform.sender(lane.memo, 3, Lot(lane.action))
        verdict = refused(lambda s=sender: s.send(people(brought(mode, 3)), last=True))
        assert isinstance(verdict, Retryable), fault
        assert verdict.after is None or verdict.after > 0


@every(where=lambda shelf: "{}" in str(shelf.connection), mode="add")
def test_a_line_that_breaks_while_it_waits(place: Place, mode: str) -> None:
    lane = Lane(place, mode)
    with Proxy(f"127.0.0.1:{place.port}") as proxy, ThreadPoolExecutor(1) as pool:
        place.port = proxy.port
        lane.prepare(lane.platform, Lot(mode))
        place.sandbox.fault("*", "hang")
        sent = pool.submit(refused, lambda: lane.send(people(["a"])))
        wait_for(place.fired)
        proxy.reset()
        assert isinstance(sent.result(60), Retryable)


@every(where=lambda shelf: shelf.refusal)
def test_a_token_that_is_refused_ends_the_lane(place: Place, mode: str) -> None:
    fault, data = place.shelf.refusal
    place.sandbox.fault("*", fault, times=-1, data=dict(data))
    asked = place.fired()
    lane = Lane(place, mode)
    try:
        lane.platform.look()
    except Fatal as no:
        check_silent("".join(traceback.format_exception(no)))
    else:
        # An endpoint of one's own is not asked.
        assert place.fired() == asked
    assert type(refused(lambda: lane.send(people(["a"])))) is Fatal
    place.sandbox.clear()
    assert place.members() == place.keys(START)


@every()
def test_bad_rows_are_placed(place: Place, mode: str) -> None:
    names = brought(mode, 6)
    lane = Lane(place, mode)
    digests = [sha(name) for name in names]
    digests[3] = digests[5] = place.shelf.bad
    rows = people(names).set_column(0, "email", pa.array(digests, pa.binary(32)))
    # Not from the batch's first row on.
    [sent] = lane.send(rows.slice(2))
    assert set(sent.rows) == {1, 3}
    assert sent.accepted == 2
    assert lane.close().error is None
    assert place.members() == place.keys(
        after(mode, {names[2], names[4]}) if mode != "mirror" else START | {names[2], names[4]}
    )


@every()
def test_only_bad_rows(place: Place, mode: str) -> None:
    lane = Lane(place, mode)
    rows = people(["x"] * MANY)
    rows = rows.set_column(0, "email", pa.array([place.shelf.bad] * MANY, pa.binary(32)))
    [sent] = lane.send(rows)
    assert sent.accepted == 0
    assert (lane.close().error is not None) == (mode == "replace")
    assert place.members() == place.keys(START)


@every()
@pytest.mark.parametrize("end", [{"error": "It broke."}, {"cancelled": True}], ids=str)
def test_a_lane_that_ends_early_does_what_it_says(
    place: Place, mode: str, end: dict[str, Any]
) -> None:
    """What was accepted is in, or is said to be lost and is not; and nobody is out who was not sent."""
    names = brought(mode, 3)
    lane = Lane(place, mode)
    lane.send(people(names))
    outcome = lane.close(**end)
    check_silent(repr(outcome))
    again = lane.close(**end)
    assert (again.error, again.lost_to) == (outcome.error, outcome.lost_to)
    wanted = START - set(names) if mode == "remove" else START | set(names)
    assert outcome.lost_to in (None, "failed", "skipped")
    assert place.members() == place.keys(START if outcome.lost_to else wanted)


@every(where=lambda shelf: shelf.columns)
def test_a_row_is_not_larger_than_it_is_told_to_be(place: Place, mode: str) -> None:
    lane, rows = Lane(place, mode), 1_000
    batch = people(brought(mode, rows), place.shelf.columns)
    told = lane.platform.row_bytes(batch.schema.names)
    with Proxy(f"127.0.0.1:{place.port}") as proxy:
        place.port = proxy.port
        lane.prepare(lane.platform, Lot(lane.action))
        # Besides the rows there are the headers.
        proxy.cut_after("to_server", rows * told + 4096)
        lane.send(batch)
        proxy.cut_after("to_server", rows * told // 2)
        assert isinstance(refused(lambda: lane.send(batch)), Retryable)
