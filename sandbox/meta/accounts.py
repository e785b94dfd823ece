"""The ad accounts that the access token reaches, and whose each audience is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from sandbox.meta.account import Account
from sandbox.meta.audience import Audience
from sandbox.meta.replacement import ReplaceRules

FIRST = "1000"
_NAMES = {FIRST: "Sandbox account", "2000": "Second sandbox account"}
_FIRST_CREATED = 23_840_000_000_001


class Accounts:
    def __init__(self, rules: ReplaceRules) -> None:
        self._accounts = {one: Account(one, name, rules) for one, name in _NAMES.items()}
        self._ids = itertools.count(_FIRST_CREATED)

    def find(self, account_id: str) -> Account | None:
        return self._accounts.get(account_id)

    def of_audience(self, audience_id: str) -> Account | None:
        return next((one for one in self._accounts.values() if one.has(audience_id)), None)

    def owner(self, audience_id: str) -> Account:
        account = self.of_audience(audience_id)
        if account is None:
            raise KeyError(f"no audience {audience_id}")
        return account

    def add(self, audience_id: str, name: str, account_id: str = FIRST) -> None:
        account = self.find(account_id)
        if account is None:
            raise ValueError(f"there is no account {account_id}")
        if self.of_audience(audience_id) is not None:
            raise ValueError(f"there is an audience {audience_id} already")
        account.add(Audience(audience_id, name))

    def create(self, account: Account, name: str, description: str) -> str:
        audience_id = str(next(self._ids))
        account.add(Audience(audience_id, name, description, created_by_call=True))
        return audience_id

    def forget(self) -> None:
        for account in self._accounts.values():
            account.forget()

    def state(self) -> Mapping[str, Any]:
        """Everything of all accounts; an audience's id tells it from any other."""
        states = {f"act_{one.id}": one.state() for one in self._accounts.values()}
        return {
            "accounts": {
                name: sorted(state["audiences"], key=int) for name, state in states.items()
            },
            "audiences": {k: v for state in states.values() for k, v in state["audiences"].items()},
            "sessions": [one for state in states.values() for one in state["sessions"]],
            "replacements": [one for state in states.values() for one in state["replacements"]],
        }
