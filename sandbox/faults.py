"""What a sandbox is told to do badly, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FOR_EVER = -1


@dataclass(frozen=True)
class Fault:
    """What a server must do to one call. `delay` comes before whatever `name` says."""

    name: str
    method: str
    delay: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Planned:
    fault: Fault
    times: int
    after: int
    seen: int = 0
    fired: int = 0

    @property
    def spent(self) -> bool:
        return self.times != FOR_EVER and self.fired >= self.times


class Faults:
    """The faults still to come. A call suffers the first that is due; all that match count it."""

    def __init__(self, names: Iterable[str] = (), methods: Iterable[str] = ()) -> None:
        """Name the faults and methods the platform understands; none named means any goes."""
        self._names = frozenset(names)
        self._methods = frozenset(methods)
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        name: str,
        *,
        times: int = 1,
        after: int = 0,
        delay: float = 0.0,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        if self._names and name not in self._names:
            raise ValueError(f"unknown fault {name!r}; known: {', '.join(sorted(self._names))}")
        if self._methods and method != "*" and method not in self._methods:
            raise ValueError(
                f"unknown method {method!r}; known: {', '.join(sorted(self._methods))}"
            )
        if times < 1 and times != FOR_EVER:
            raise ValueError("times is 1 or more, or -1 for ever")
        if after < 0 or delay < 0:
            raise ValueError("after and delay are 0 or more")
        fault = Fault(name=name, method=method, delay=delay, data=dict(data or {}))
        with self._lock:
            self._planned.append(_Planned(fault, times, after))

    def take(self, method: str) -> Fault | None:
        due: _Planned | None = None
        with self._lock:
            for planned in self._planned:
                if planned.fault.method not in ("*", method):
                    continue
                planned.seen += 1
                if due is None and planned.seen > planned.after and not planned.spent:
                    due = planned
            if due is None:
                return None
            due.fired += 1
            return due.fault

    def clear(self) -> None:
        with self._lock:
            self._planned.clear()

    def listing(self) -> list[dict[str, Any]]:
        """Give every fault since the last clear, the spent ones too, in the order added."""
        with self._lock:
            return [
                {
                    "method": planned.fault.method,
                    "fault": planned.fault.name,
                    "times": planned.times,
                    "after": planned.after,
                    "delay": planned.fault.delay,
                    "data": dict(planned.fault.data),
                    "seen": planned.seen,
                    "fired": planned.fired,
                }
                for planned in self._planned
            ]
