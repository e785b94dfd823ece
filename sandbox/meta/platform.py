"""What the sandbox knows and can be told: the Graph API for callers, the rest for its steering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sandbox.calls import Calls
from sandbox.faults import Faults
from sandbox.meta import faults as known
from sandbox.meta.accounts import FIRST, Accounts
from sandbox.meta.graph import METHODS, Graph
from sandbox.meta.replacement import ReplaceRules
from sandbox.meta.usage import ACCOUNT_HEADER, APP_HEADER, Usage


class MetaPlatform:
    def __init__(self, app_secret: str) -> None:
        self.rules = ReplaceRules()
        self.accounts = Accounts(self.rules)
        self.accounts.add("222", "Newsletter")
        self.graph = Graph(self.accounts, app_secret)
        self.usage = Usage()
        self.faults = Faults(known.NAMES, METHODS)
        self.calls = Calls()

    def members(self, audience_id: str) -> Iterable[str]:
        return self.accounts.owner(audience_id).members(audience_id)

    def member_count(self, audience_id: str) -> int:
        return self.accounts.owner(audience_id).member_count(audience_id)

    def state(self) -> Mapping[str, Any]:
        return {**self.accounts.state(), "usage": self.usage.figures()}

    def reset(self) -> None:
        self.accounts.forget()
        self.usage.forget()

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        audience_id, account_id = str(body.get("id", "")), str(body.get("account_id", FIRST))
        if not audience_id.isdecimal():
            raise ValueError("an audience needs an 'id' of digits")
        name = str(body.get("name") or f"Audience {audience_id}")
        self.accounts.add(audience_id, name, account_id)
        return {"id": audience_id, "name": name, "account_id": account_id}

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """`usage_per_call` and `regain_minutes` bring about throttling; `replace_minutes` and
        `replace_most_members` are what a replacement may last and what it may replace.
        """
        change: dict[str, Callable[[Any], None]] = {
            "usage": self.usage.change,
            "app_usage": lambda figures: self.usage.change_other(APP_HEADER, figures),
            "ad_account_usage": lambda figures: self.usage.change_other(ACCOUNT_HEADER, figures),
            "usage_per_call": lambda value: setattr(self.usage, "per_call", _number(value)),
            "regain_minutes": lambda value: setattr(self.usage, "regain_minutes", _number(value)),
            "replace_minutes": lambda value: setattr(self.rules, "minutes", _number(value)),
            "replace_most_members": lambda value: setattr(
                self.rules, "most_members", int(_number(value))
            ),
        }
        unknown = body.keys() - change.keys()
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        for name, value in body.items():
            change[name](value)
        return {
            "usage": self.usage.figures(),
            "usage_per_call": self.usage.per_call,
            "regain_minutes": self.usage.regain_minutes,
            "replace_minutes": self.rules.minutes,
            "replace_most_members": self.rules.most_members,
        }


def _number(value: Any) -> float:
    if type(value) not in (int, float) or value < 0:
        raise ValueError("a setting is a number from 0 on")
    return float(value)
