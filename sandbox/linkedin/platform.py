"""What the sandbox knows and can be told: the API for callers, the rest for its steering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.calls import Calls
from sandbox.faults import Faults
from sandbox.linkedin import faults as known
from sandbox.linkedin.api import ACCOUNT, METHODS, Api, Minute
from sandbox.linkedin.segments import TYPES, USER, Segment, Segments


class LinkedInPlatform:
    def __init__(self) -> None:
        self.segments = Segments()
        self.segments.add(Segment(222, ACCOUNT, "Newsletter"))
        self._minute = Minute()
        self.api = Api(self.segments, self._minute)
        self.faults = Faults(known.NAMES, METHODS)
        self.calls = Calls()

    def members(self, audience_id: str) -> Iterable[str]:
        return self.segments.members(audience_id)

    def member_count(self, audience_id: str) -> int:
        return self.segments.member_count(audience_id)

    def state(self) -> Mapping[str, Any]:
        return {"audiences": self.segments.state(), **self._settings()}

    def reset(self) -> None:
        self.segments.forget()
        self._minute.forget()

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        number = str(body.get("id", ""))
        if not number.isdecimal():
            raise ValueError("an audience needs an 'id' of digits")
        kind = body.get("type", USER)
        if kind not in TYPES:
            raise ValueError(f"an audience's type is one of {', '.join(sorted(TYPES))}")
        name = str(body.get("name") or f"Audience {number}")
        account = str(body.get("account") or ACCOUNT)
        self.segments.add(Segment(int(number), account, name, kind))
        return {"id": number, "name": name}

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        unknown = body.keys() - self._settings().keys()
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        self._minute.limit = int(body.get("per_minute", self._minute.limit))
        self.segments.max_segments = int(body.get("max_segments", self.segments.max_segments))
        self.segments.ready_seconds = float(body.get("ready_seconds", self.segments.ready_seconds))
        return self._settings()

    def _settings(self) -> dict[str, Any]:
        return {
            "per_minute": self._minute.limit,
            "max_segments": self.segments.max_segments,
            "ready_seconds": self.segments.ready_seconds,
        }
