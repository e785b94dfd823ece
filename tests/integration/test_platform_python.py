"""The Python platform with functions of a module that is really imported."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from penstock.connections import PythonConnection
from penstock.contract import LaneOutcome, Python
from penstock.processor import PenstockBatch
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload import platforms
from services.upload.platform import Context, LaneEnd, Lot, Sent
from services.upload.platforms.python import PythonPlatform

CONTEXT = Context(job_id="job-1", job_name="nightly", lane="crm", seq=7)
ADD = Lot("add")
WHO = "Ann Example"

FUNCTIONS = """
import json
import sys

from penstock.processor import RejectBatch, TryAgain

calls = []


def takes(rows, batch):
    calls.append((rows, batch))


def places(rows, batch):
    return [(1, "blocked"), {"row": 2, "field": "name", "reason": "too long"}]


def one_by_one(rows, batch):
    for place in range(rows.num_rows):
        if place:
            yield place, "not the first"


def nothing(rows, batch):
    return ()


def later(rows, batch):
    raise TryAgain(30)


def at_once(rows, batch):
    raise TryAgain(0)


def some_time(rows, batch):
    raise TryAgain


def so_long(rows, batch):
    raise TryAgain(json.loads(batch.options["seconds"]))


def bad(rows, batch):
    raise RejectBatch("a bad\\nrow")


def breaks(rows, batch):
    return _deeper(rows)


def _deeper(rows):
    raise ValueError(rows.column("name")[0].as_py())


def breaks_late(rows, batch):
    yield 0, "x"
    raise KeyError(rows.column("name")[0].as_py())


def breaks_elsewhere(rows, batch):
    return rows.column("no such column")


def leaves(rows, batch):
    sys.exit(rows.column("name")[0].as_py())


def text(rows, batch):
    return "done"


def figure(rows, batch):
    return 3


def beyond(rows, batch):
    return [(3, "x")]


def shapeless(rows, batch):
    return [3]


not_a_function = 3
"""


@pytest.fixture(scope="module", autouse=True)
def _modules(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("modules")
    (directory / "own_functions.py").write_text(FUNCTIONS)
    (directory / "own_wants_more.py").write_text("import own_dependency\n")
    (directory / "own_breaks.py").write_text(f"raise ValueError({WHO!r})\n")
    (directory / "own_leaves.py").write_text("import sys\nsys.exit(1)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        yield


def rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "id": pa.array(["1", "2", "3"]),
            "name": pa.array([WHO, None, "b"]),
            "row": pa.array([10, 12, 13], pa.uint32()),
        }
    )


def connection(function: str) -> PythonConnection:
    function = function if ":" in function else f"own_functions:{function}"
    return PythonConnection.model_validate({"kind": "python", "function": function})


def platform(function: str, **destination: Any) -> PythonPlatform:
    wanted = Python.model_validate({"kind": "python", "connection": "own", **destination})
    return PythonPlatform(connection(function), wanted, CONTEXT)


def send(function: str, **destination: Any) -> Sent:
    lane = platform(function, **destination)
    assert lane.prepare({}, ADD) == {}
    return lane.sender({}, 3, ADD).send(rows(), last=True)


def refused(work: Callable[[], Any]) -> Verdict:
    """What is raised, which must not hold what the function's own exception said."""
    with pytest.raises(Verdict) as caught:
        work()
    assert WHO not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_a_function_is_handed_the_rows_and_whose_they_are() -> None:
    assert send("takes", options={"table": "people"}) == Sent(3)
    from own_functions import calls  # type: ignore[import-not-found]

    ((given, batch),) = calls
    assert given.schema.names == ["penstock_row", "id", "name"]
    assert given.column("penstock_row").to_pylist() == [10, 12, 13]
    assert given.column("id").to_pylist() == ["1", "2", "3"]
    assert batch == PenstockBatch(
        "job-1", "nightly", "crm", 7, "job-1/crm/7/10-13", {"table": "people"}
    )


def test_rejected_rows_come_back_in_either_form() -> None:
    assert send("places") == Sent(
        1, {"blocked": 1, "too long": 1}, {1: ("", "blocked"), 2: ("name", "too long")}
    )
    why = "not the first"
    assert send("one_by_one") == Sent(1, {why: 2}, {1: ("", why), 2: ("", why)})
    assert send("nothing") == Sent(3)


@pytest.mark.parametrize(
    ("function", "after", "throttled"),
    [("later", 30, True), ("at_once", 1, True), ("some_time", None, False)],
)
def test_a_function_may_ask_to_be_called_again(
    function: str, after: float | None, throttled: bool
) -> None:
    verdict = refused(lambda: send(function))
    assert isinstance(verdict, Retryable)
    assert (verdict.after, verdict.throttled) == (after, throttled)


@pytest.mark.parametrize(("seconds", "after"), [("0.1", 1), ("1.5", 1.5), ("86400", 86_400)])
def test_a_wait_is_a_second_to_a_day(seconds: str, after: float) -> None:
    verdict = refused(lambda: send("so_long", options={"seconds": seconds}))
    assert isinstance(verdict, Retryable)
    assert (verdict.after, verdict.throttled) == (after, True)


@pytest.mark.parametrize("seconds", ['"5"', "NaN", "Infinity", "-1", "86401", "[5]"])
def test_a_wait_that_is_none(seconds: str) -> None:
    verdict = refused(lambda: send("so_long", options={"seconds": seconds}))
    assert type(verdict) is Fatal
    assert verdict.reason == (
        "The function own_functions:so_long named a wait that is no number of seconds up to a day."
    )


def test_a_function_may_refuse_all() -> None:
    verdict = refused(lambda: send("bad"))
    assert type(verdict) is RowsRejected
    assert verdict.reason == "a bad row"


def test_whatever_it_raises_is_told_by_type_and_place() -> None:
    lines = FUNCTIONS.splitlines()

    def line_of(text: str) -> int:
        return next(n for n, line in enumerate(lines, 1) if text in line)

    for function, kind, text in (
        ("breaks", "ValueError", "raise ValueError"),
        ("breaks_late", "KeyError", "raise KeyError"),
        ("breaks_elsewhere", "KeyError", "no such column"),
        ("leaves", "SystemExit", "sys.exit("),
    ):
        verdict = refused(lambda function=function: send(function))
        assert type(verdict) is Retryable
        assert not verdict.throttled
        assert verdict.reason == (
            f"The function own_functions:{function} raised {kind} "
            f"(own_functions.py, line {line_of(text)})."
        )


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("text", "returned str:"),
        ("figure", "returned int:"),
        ("beyond", "not given"),
        ("shapeless", "without saying which"),
    ],
)
def test_an_answer_that_is_none(function: str, told: str) -> None:
    verdict = refused(lambda: send(function))
    assert type(verdict) is Fatal
    assert told in verdict.reason
    assert f"own_functions:{function}" in verdict.reason


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("own_nowhere:f", "for own_nowhere is missing"),
        ("own_functions.deeper:f", "for own_functions.deeper is missing"),
        ("own_wants_more:f", "for own_dependency is missing"),
        ("own_breaks:f", "raised ValueError when imported"),
        ("own_leaves:f", "raised SystemExit when imported"),
        ("own_functions:missing", "no function 'missing'"),
        ("own_functions:not_a_function", "no function 'not_a_function'"),
        ("a..b:f", "is missing"),
    ],
)
def test_a_function_that_is_not_there(function: str, told: str) -> None:
    lane = platform(function)
    for step in (
        lane.look,
        lambda: lane.sender({}, 3, ADD),
        lambda: platforms.check("python", connection(function)),
    ):
        verdict = refused(step)
        assert type(verdict) is Fatal
        assert told in verdict.reason
        assert re.search(r"own_|a\.\.b", verdict.reason)


def test_what_is_shown_of_it() -> None:
    lane = platform("takes", max_rows=123)
    assert lane.look() == {"function": "own_functions:takes"}
    assert lane.account == "python/own_functions:takes"
    assert lane.limits.rows == lane.limits.bytes // lane.row_bytes(["a"] * 50) == 123
    assert lane.validate(rows(), ADD) is None
    assert lane.close({}, LaneEnd(1, "It broke.", cancelled=False)) == LaneOutcome()
    told = platforms.check("python", connection("takes"))
    assert told == "The function own_functions:takes is there."
