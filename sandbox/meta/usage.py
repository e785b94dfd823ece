"""The rate figures that every answer carries in a header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HEADER = "X-Business-Use-Case-Usage"


class Usage:
    """Percentages used, and minutes until calls are let through again."""

    def __init__(self) -> None:
        self._figures: Mapping[str, int] = {
            "call_count": 1,
            "total_cputime": 1,
            "total_time": 1,
            "estimated_time_to_regain_access": 0,
        }

    def change(self, body: Any) -> None:
        if not isinstance(body, Mapping):
            raise TypeError("usage is an object")
        unknown = body.keys() - self._figures.keys()
        if unknown:
            raise ValueError(f"unknown usage: {', '.join(sorted(unknown))}")
        if not all(type(figure) is int and figure >= 0 for figure in body.values()):
            raise ValueError("usage figures are integers from 0 on")
        # A new mapping, so that a header being written sees the old or the new, not a mixture.
        self._figures = {**self._figures, **body}

    def figures(self) -> dict[str, int]:
        return dict(self._figures)

    def header(self, account_id: str, minutes_to_wait: int | None = None) -> str:
        """Write the header; minutes given, it is that of a call refused for too many calls."""
        figures = self.figures()
        if minutes_to_wait is not None:
            figures |= {"call_count": 100, "estimated_time_to_regain_access": minutes_to_wait}
        return json.dumps({account_id: [{"type": "custom_audience", **figures}]})
