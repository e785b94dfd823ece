"""The rate figures that every answer carries in its headers, and the limit they count up to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

HEADER = "X-Business-Use-Case-Usage"
APP_HEADER = "X-App-Usage"
ACCOUNT_HEADER = "X-Ad-Account-Usage"
FULL = 100


class Usage:
    """Percentages used, and minutes until calls are let through again.

    `per_call` makes an account's calls count: each adds so many percent, and at a hundred Meta
    refuses until `regain_minutes` have passed.
    """

    def __init__(self) -> None:
        self._figures: Mapping[str, float] = {
            "call_count": 1,
            "total_cputime": 1,
            "total_time": 1,
            "estimated_time_to_regain_access": 0,
        }
        self._others: Mapping[str, Mapping[str, float]] = {APP_HEADER: {}, ACCOUNT_HEADER: {}}
        self.per_call: float = 0
        self.regain_minutes: float = 1
        self._used: dict[str, float] = {}
        self._full_since: dict[str, float] = {}
        self._lock = threading.Lock()

    def change(self, body: Any) -> None:
        # New mappings, so that a header being written sees the old or the new, not a mixture.
        self._figures = {**self._figures, **_numbers(body, self._figures.keys())}

    def change_other(self, header: str, body: Any) -> None:
        """Set what X-App-Usage or X-Ad-Account-Usage says; without figures it is not sent."""
        self._others = {**self._others, header: _numbers(body)}

    def figures(self) -> dict[str, float]:
        return dict(self._figures)

    def forget(self) -> None:
        with self._lock:
            self._used.clear()
            self._full_since.clear()

    def admit(self, account_id: str) -> bool:
        """Count a call of the account; False where its limit is reached."""
        with self._lock:
            since = self._full_since.get(account_id)
            if since is not None:
                if time.monotonic() - since < self.regain_minutes * 60:
                    return False
                del self._full_since[account_id]
                self._used[account_id] = 0
            used = self._used.get(account_id, 0) + self.per_call
            self._used[account_id] = used
            if used >= FULL:
                self._full_since[account_id] = time.monotonic()
            return True

    def headers(self, account_id: str, minutes_to_wait: float | None = None) -> dict[str, str]:
        """Write the headers; minutes given, they are those of a call refused for too many."""
        figures = self.figures()
        with self._lock:
            figures["call_count"] = min(
                FULL, max(figures["call_count"], self._used.get(account_id, 0))
            )
            if account_id in self._full_since:
                figures["estimated_time_to_regain_access"] = self.regain_minutes
        if minutes_to_wait is not None:
            figures |= {"call_count": FULL, "estimated_time_to_regain_access": minutes_to_wait}
        told = {HEADER: json.dumps({account_id: [{"type": "custom_audience", **figures}]})}
        return told | {name: json.dumps(what) for name, what in self._others.items() if what}


def _numbers(body: Any, known: Any = None) -> dict[str, float]:
    if not isinstance(body, Mapping):
        raise TypeError("usage is an object")
    unknown = set() if known is None else body.keys() - known
    if unknown:
        raise ValueError(f"unknown usage: {', '.join(sorted(unknown))}")
    if not all(type(figure) in (int, float) and figure >= 0 for figure in body.values()):
        raise ValueError("usage figures are numbers from 0 on")
    return dict(body)
