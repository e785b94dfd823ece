"""The part of the Graph API that custom audiences need: who may call, and what answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from sandbox.meta.account import Account
from sandbox.meta.accounts import FIRST, Accounts
from sandbox.meta.call import GraphCall
from sandbox.meta.errors import (
    bad_parameter,
    bad_proof,
    bad_token,
    missing,
    no_such_object,
    no_such_path,
    no_token,
)
from sandbox.meta.faults import NO_MISCHIEF, Mischief
from sandbox.meta.rows import read_rows
from sandbox.meta.sessions import BatchMark

API_VERSION = "v26.0"
BAD_TOKEN = "bad"
PAGE = 25
MAX_PAGE = 500

_EDGES = {
    ("POST", "users"): "users",
    ("DELETE", "users"): "users_remove",
    ("POST", "usersreplace"): "users_replace",
    ("DELETE", "usersofanyaudience"): "users_anywhere",
    ("GET", "customaudiences"): "audiences",
    ("POST", "customaudiences"): "audience_create",
}
METHODS = (
    *_EDGES.values(),
    "audience",
    "audience_delete",
    "account",
    "me",
    "other",
)
_FILE_SOURCES = (
    "USER_PROVIDED_ONLY",
    "PARTNER_PROVIDED_ONLY",
    "BOTH_USER_AND_PARTNER_PROVIDED",
)


def method_of(call: GraphCall) -> str:
    """Give the name by which faults and counts know a call."""
    match call.path:
        case (_, edge):
            return _EDGES.get((call.verb, edge), "other")
        case ("me",) if call.verb == "GET":
            return "me"
        case (node,) if call.verb == "GET":
            return "account" if node.startswith("act_") else "audience"
        case (node,) if call.verb == "DELETE" and not node.startswith("act_"):
            return "audience_delete"
    return "other"


class Graph:
    def __init__(self, accounts: Accounts, app_secret: str) -> None:
        self._accounts = accounts
        self._app_secret = app_secret

    def account_of(self, call: GraphCall) -> str:
        """Whose limits the call counts against."""
        node = call.path[0] if call.path else ""
        account = (
            self._accounts.find(node.removeprefix("act_"))
            if node.startswith("act_")
            else self._accounts.of_audience(node)
        )
        return account.id if account is not None else FIRST

    def answer(
        self, call: GraphCall, *, base_url: str = "", mischief: Mischief = NO_MISCHIEF
    ) -> dict[str, Any]:
        """Do what the call asks; `base_url` is for the links to further pages."""
        self._admit(call)
        if call.version != API_VERSION:
            raise no_such_path()
        method = method_of(call)
        if method.startswith("users"):
            return self._users(method, call, mischief)
        match method:
            case "audience":
                fields = self._owner(call).audience_fields(call.path[0])
                return _chosen(fields, call.names("fields"), "CustomAudience")
            case "audience_create":
                return self._create(call)
            case "audience_delete":
                self._owner(call).delete(call.path[0])
                return {"success": True}
            case "audiences":
                return self._page(call, self._account(call), base_url)
            case "account":
                return _chosen(self._account(call).fields(), call.names("fields"), "AdAccount")
            case "me":
                me = {"id": "1", "name": "Sandbox system user"}
                return _chosen(me, call.names("fields") or ["name"], "User")
        if len(call.path) != 1:
            raise no_such_path()
        raise no_such_object(call.verb, call.path[0])

    def _admit(self, call: GraphCall) -> None:
        if not call.token:
            raise no_token()
        if call.token == BAD_TOKEN:
            raise bad_token()
        proof = call.params.get("appsecret_proof")
        if proof is None:
            return
        expected = hmac.digest(self._app_secret.encode(), call.token.encode(), hashlib.sha256)
        if not hmac.compare_digest(expected.hex().encode(), str(proof).encode()):
            raise bad_proof()

    def _users(self, method: str, call: GraphCall, mischief: Mischief) -> dict[str, Any]:
        anywhere = method == "users_anywhere"
        account = self._account(call) if anywhere else self._owner(call)
        session = call.json("session")
        mark = None if session is None else BatchMark.read(session)
        rows = read_rows(call.json("payload"), mischief)
        if anywhere:
            return account.receive_anywhere(rows, mark)
        if method != "users_replace":
            return account.receive(call.path[0], rows, mark, remove=method == "users_remove")
        if mark is None:
            raise missing("session")
        return account.replace(call.path[0], rows, mark)

    def _create(self, call: GraphCall) -> dict[str, Any]:
        account = self._account(call)
        name, subtype = call.params.get("name"), call.params.get("subtype")
        if not name:
            raise missing("name")
        if subtype != "CUSTOM":
            raise bad_parameter("Param subtype must be CUSTOM for an audience of customers")
        source = call.params.get("customer_file_source")
        if source is None:
            raise missing("customer_file_source")
        if source not in _FILE_SOURCES:
            raise bad_parameter(f"Param customer_file_source must be one of {_FILE_SOURCES}")
        # Of one name there may be many, as with the real API.
        description = str(call.params.get("description") or "")
        return {"id": self._accounts.create(account, str(name), description)}

    def _owner(self, call: GraphCall) -> Account:
        account = self._accounts.of_audience(call.path[0])
        if account is None:
            raise no_such_object(call.verb, call.path[0])
        return account

    def _account(self, call: GraphCall) -> Account:
        node = call.path[0]
        account = self._accounts.find(node.removeprefix("act_"))
        if account is None or not node.startswith("act_"):
            raise no_such_object(call.verb, node)
        return account

    def _page(self, call: GraphCall, account: Account, base_url: str) -> dict[str, Any]:
        ids = account.audience_ids()
        start = _position(call.params.get("after"))
        size = _page_size(call.params.get("limit"))
        shown = ids[start : start + size]
        wanted = call.names("fields")
        answer: dict[str, Any] = {
            "data": [
                _chosen(account.audience_fields(one), wanted, "CustomAudience") for one in shown
            ]
        }
        if shown:
            end = start + len(shown)
            paging: dict[str, Any] = {"cursors": {"before": _cursor(start), "after": _cursor(end)}}
            if end < len(ids):
                again = {**call.params, "after": _cursor(end)}
                path = "/".join((call.version, *call.path))
                paging["next"] = f"{base_url}/{path}?{urlencode(again)}"
            answer["paging"] = paging
        if call.params.get("summary") in ("true", "1", True):
            answer["summary"] = {"total_count": len(ids)}
        return answer


def _chosen(fields: Mapping[str, Any], wanted: Iterable[str], node: str) -> dict[str, Any]:
    for name in wanted:
        if name not in fields:
            raise bad_parameter(f"Tried accessing nonexisting field ({name}) on node type ({node})")
    return {name: fields[name] for name in dict.fromkeys([*wanted, "id"])}


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode()


def _position(cursor: Any) -> int:
    if not cursor:
        return 0
    try:
        return max(0, int(base64.urlsafe_b64decode(str(cursor))))
    except ValueError:
        raise bad_parameter("Param after is not a cursor of this list") from None


def _page_size(limit: Any) -> int:
    if limit is None:
        return PAGE
    text = str(limit)
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise bad_parameter("Param limit must be a positive integer")
    return min(int(text), MAX_PAGE)
