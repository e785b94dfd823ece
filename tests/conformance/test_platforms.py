"""What every platform does alike. A new one joins with one line in SHELVES."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pyarrow as pa
import pytest

from penstock import routes
from sandbox.proxy import Proxy
from sandbox.servers import EndpointSandbox
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platform import Lot
from tests.conformance.shelves import (
    OWN,
    SHELVES,
    START,
    Lane,
    OwnFunction,
    Place,
    Shelf,
    after,
    brought,
    check_figures,
    check_silent,
    modes_of,
    people,
    sha,
)
from tests.harness import wait_for

_number = count(1)


def refused(work: Callable[[], Any]) -> Verdict:
    with pytest.raises(Verdict) as caught:
        work()
    verdict = caught.value
    check_silent("".join(traceback.format_exception(verdict)))
    # A driver's own exception goes no further, whatever its text is today.
    assert verdict.__cause__ is None
    assert verdict.__context__ is None or verdict.__suppress_context__
    assert verdict.reason.endswith(".") or isinstance(verdict, RowsRejected)
    return verdict


def patiently(work: Callable[[], Any]) -> Any:
    """Again for as long as it is worth it."""
    for _ in range(10):
        try:
            return work()
        except Retryable as later:
            check_silent("".join(traceback.format_exception(later)))
    return work()


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
    try:
        place.begin()
        yield place
    finally:
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
    # By a worker who does not know that the lane is closed.
    assert lane.close() == outcome
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
@pytest.mark.parametrize("by", ["one worker", "two workers"])
def test_a_chunk_that_comes_twice_is_in_once(place: Place, mode: str, by: str) -> None:
    names = brought(mode, 3)
    wanted = place.without_mishap(mode, names)
    lane = Lane(place, mode)
    lot = Lot(lane.action)
    lane.prepare(lane.platform, lot)
    sender = lane.platform.sender(lane.memo, 6, lot)
    for last in (False, True):
        sent = sender.send(people(names), last=last)
        lane.memo |= sent.keep
        lane.requests += [sent.request] if sent.request else []
        if by == "two workers":
            sender = lane.platform.sender(lane.memo, 3, lot)
    lane.accepted = len(names)
    for step in lane.steps(names)[1:]:
        outcome = step()
    assert outcome.error is None
    assert place.listed() == wanted


@every()
def test_any_answer_may_be_lost(place: Place, mode: str) -> None:
    names = brought(mode, 3)
    wanted = place.without_mishap(mode, names)
    for number in count():
        place.begin()
        place.sandbox.fault("*", "drop_after", after=number)
        lane = Lane(place, mode)
        done = [patiently(step) for step in lane.steps(names)]
        assert done[-1].error is None, number
        assert lane.accepted == len(names)
        assert place.listed() == wanted, number
        if not place.fired():
            break
    assert number > 0


@every()
def test_any_call_may_fail(place: Place, mode: str) -> None:
    """Passing faults: the lane ends as without them, whatever was being done."""
    names = brought(mode, 3)
    for fault, data in place.shelf.passing[:2]:
        for number in count():
            place.begin()
            place.sandbox.fault("*", fault, after=number, data=dict(data))
            lane = Lane(place, mode)
            done = [patiently(step) for step in lane.steps(names)]
            assert done[-1].error is None, (fault, number)
            assert place.members() == place.keys(after(mode, names)), (fault, number)
            if not place.fired():
                break
        assert number > 0, fault


@every()
def test_a_fault_has_a_verdict_that_tells_nothing(place: Place, mode: str) -> None:
    for fault, data in (*place.shelf.passing, ("drop_after", {})):
        place.sandbox.reset()
        lane, rows = Lane(place, mode), people(brought(mode, 3))
        lot, worker = Lot(lane.action), lane.platform
        lane.prepare(worker, lot)
        sender = worker.sender(lane.memo, 3, lot)
        place.sandbox.fault("*", fault, data=dict(data))
        verdict = refused(lambda: sender.send(rows, last=True))  # noqa: B023 - called at once
        assert isinstance(verdict, Retryable), fault
        assert verdict.after is None or verdict.after > 0
        # The same chunk comes again, to the same sender.
        assert sender.send(rows, last=True).accepted == 3, fault


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
    # Whom the platform could never know is not in the audience: to be removed is nothing to do.
    done = mode == "remove" and place.shelf.removes_the_unknown
    assert set(sent.rows) == (set() if done else {1, 3})
    assert sent.accepted == (4 if done else 2)
    assert lane.close().error is None
    good = {names[2], names[4]}
    assert place.members() == place.keys(START | good if mode == "mirror" else after(mode, good))


@every()
def test_only_bad_rows(place: Place, mode: str) -> None:
    lane = Lane(place, mode)
    digests = pa.array([place.shelf.bad] * 20, pa.binary(32))
    rows = people(["x"] * 20).set_column(0, "email", digests)
    [sent] = lane.send(rows)
    assert sent.accepted == (20 if mode == "remove" and place.shelf.removes_the_unknown else 0)
    assert (lane.close().error is not None) == (mode == "replace")
    assert place.members() == place.keys(START)


@every()
@pytest.mark.parametrize("end", [{"error": "It broke."}, {"cancelled": True}], ids=str)
def test_a_lane_that_ends_early_does_what_it_says(
    place: Place, mode: str, end: dict[str, Any]
) -> None:
    """What has not taken effect by then never does, and is said to be lost."""
    place.sandbox.settings(**place.shelf.at_once)
    names = brought(mode, 3)
    lane = Lane(place, mode)
    lane.send(people(names))
    before = place.members()
    outcome = lane.close(**end)
    check_silent(repr(outcome))
    assert lane.close(**end) == outcome
    assert place.members() == before
    sent = START - set(names) if mode == "remove" else START | set(names)
    assert outcome.lost_to in (None, "failed", "skipped")
    assert before == place.keys(START if outcome.lost_to else sent)


@every(where=lambda shelf: shelf.columns)
def test_a_row_is_not_larger_than_it_is_told_to_be(place: Place, mode: str) -> None:
    lane, rows = Lane(place, mode), 1_000
    batch = people(brought(mode, rows), place.shelf.columns)
    told = lane.platform.row_bytes(batch.schema.names)
    with Proxy(f"127.0.0.1:{place.port}") as proxy:
        place.port = proxy.port
        lane.send(batch.slice(0, 1))
        # Besides the rows there are the headers.
        proxy.cut_after("to_server", rows * told + 4096)
        lane.send(batch)
        # Nor so small that a request would be half empty.
        proxy.cut_after("to_server", rows * told // 2)
        assert isinstance(refused(lambda: lane.send(batch)), Retryable)
