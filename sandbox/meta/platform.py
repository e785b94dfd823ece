"""What the sandbox knows and can be told: the Graph API for callers, the rest for its steering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.calls import Calls
from sandbox.faults import Faults
from sandbox.meta import faults as known
from sandbox.meta.account import Account
from sandbox.meta.graph import METHODS, Graph
from sandbox.meta.usage import Usage


class MetaPlatform:
    def __init__(self, app_secret: str) -> None:
        self.account = Account()
        self.account.add("222", "Newsletter")
        self.graph = Graph(self.account, app_secret)
        self.usage = Usage()
        self.faults = Faults(known.NAMES, METHODS)
        self.calls = Calls()

    def members(self, audience_id: str) -> Iterable[str]:
        return self.account.members(audience_id)

    def member_count(self, audience_id: str) -> int:
        return self.account.member_count(audience_id)

    def state(self) -> Mapping[str, Any]:
        return {**self.account.state(), "usage": self.usage.figures()}

    def reset(self) -> None:
        self.account.forget()

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        audience_id = str(body.get("id", ""))
        if not audience_id.isdecimal():
            raise ValueError("an audience needs an 'id' of digits")
        name = str(body.get("name") or f"Audience {audience_id}")
        self.account.add(audience_id, name)
        return {"id": audience_id, "name": name}

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        unknown = body.keys() - {"usage"}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        if "usage" in body:
            self.usage.change(body["usage"])
        return {"usage": self.usage.figures()}
