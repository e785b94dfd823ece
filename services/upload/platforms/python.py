"""A function of one's own: the connection names it, and each batch is handed to it.

It runs in the worker, in several threads at a time, and as long as it likes: the batch's lease is
renewed meanwhile. What it raises is told by its type and place alone, for texts quote rows.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock.connections import PythonConnection
from penstock.contract import LaneOutcome, Python
from penstock.processor import PenstockBatch, RejectBatch, TryAgain
from services.runtime.verdicts import Fatal, Retryable, RowsRejected
from services.upload.platform import Context, LaneEnd, Lot, Sent
from services.upload.platforms import own

Function = Callable[[pa.RecordBatch, PenstockBatch], Any]
#: A function that wants to be asked again at once and for ever must not spin.
_SHORTEST_WAIT = 1.0
_LONGEST_WAIT = 86_400.0


class PythonPlatform(own.OwnPlatform[Python]):
    def __init__(
        self, connection: PythonConnection, destination: Python, context: Context | None = None
    ) -> None:
        super().__init__(destination, context)
        self._name = connection.function

    @property
    def account(self) -> str:
        return f"python/{self._name}"

    def look(self) -> dict[str, Any]:
        _function(self._name)
        return {"function": self._name}

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> PythonSender:  # noqa: ARG002
        function = _function(self._name)
        return PythonSender(self._name, function, self._destination.options, self._context)

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome:  # noqa: ARG002
        return LaneOutcome()


class PythonSender:
    def __init__(
        self, name: str, function: Function, options: Mapping[str, str], context: Context
    ) -> None:
        self._name = name
        self._function = function
        self._options = options
        self._context = context

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        return own.sent(chunk, self._called(chunk), f"The function {self._name}")

    def _called(self, chunk: pa.RecordBatch) -> list[Any]:
        context = self._context
        batch = PenstockBatch(
            job_id=context.job_id,
            job_name=context.job_name,
            lane=context.lane,
            seq=context.seq,
            key=own.key_of(context, chunk),
            options=dict(self._options),
        )
        try:
            answer = self._function(own.handed_on(chunk), batch)
            # Here, because a generator does its work only when it is read.
            if isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping):
                return list(answer)
        except TryAgain as later:
            if later.seconds is None:
                raise Retryable(f"The function {self._name} asked to try again.") from None
            seconds = later.seconds
            if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_WAIT:
                raise Fatal(
                    f"The function {self._name} named a wait that is no number of seconds up to a "
                    "day."
                ) from None
            seconds = max(seconds, _SHORTEST_WAIT)
            raise Retryable(
                f"The function {self._name} asked to wait.", seconds, throttled=True
            ) from None
        except RejectBatch as no:
            raise RowsRejected(own.shown(no.reason)) from None
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a stranger's code raises
            raise Retryable(
                f"The function {self._name} raised {type(exc).__name__}{_place(exc)}."
            ) from None
        if answer is not None:
            raise Fatal(
                f"The function {self._name} returned {type(answer).__name__}: it must return "
                "None or the rows that it rejects."
            )
        return []


def _place(exc: BaseException) -> str:
    """The last line of the function's own file that the fault came through."""
    frames = traceback.extract_tb(exc.__traceback__)[1:]
    theirs = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""


def _function(path: str) -> Function:
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as exc:
        raise Fatal(
            f"The module {module} cannot be imported here, for {exc.name} is missing: install it "
            "with the workers."
        ) from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001
        raise Fatal(f"The module {module} raised {type(exc).__name__} when imported.") from None
    if not callable(found):
        raise Fatal(f"The module {module} has no function {name!r}.")
    function: Function = found
    return function


PLATFORM = PythonPlatform


def check(connection: PythonConnection) -> str:
    _function(connection.function)
    return f"The function {connection.function} is there."
