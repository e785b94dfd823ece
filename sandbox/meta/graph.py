"""The part of the Graph API that custom audiences need: who may call, and what answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from sandbox.meta.account import Account
from sandbox.meta.call import GraphCall
from sandbox.meta.errors import (
    bad_parameter,
    bad_proof,
    bad_token,
    no_such_object,
    no_such_path,
    no_token,
)
from sandbox.meta.rows import read_rows
from sandbox.meta.sessions import BatchMark

API_VERSION = "v26.0"
BAD_TOKEN = "bad"
PAGE = 25
MAX_PAGE = 500

_EDGES = {
    ("POST", "users"): "users",
    ("DELETE", "users"): "users_remove",
    ("GET", "customaudiences"): "audiences",
}
METHODS = ("users", "users_remove", "audience", "audiences", "account", "me", "other")


def method_of(call: GraphCall) -> str:
    """Give the name by which faults and counts know a call."""
    match call.path:
        case (_, edge):
            return _EDGES.get((call.verb, edge), "other")
        case ("me",) if call.verb == "GET":
            return "me"
        case (node,) if call.verb == "GET":
            return "account" if node.startswith("act_") else "audience"
    return "other"


class Graph:
    def __init__(self, account: Account, app_secret: str) -> None:
        self._account = account
        self._app_secret = app_secret

    def answer(
        self, call: GraphCall, *, base_url: str = "", spoil_every: int | None = None
    ) -> dict[str, Any]:
        """Do what the call asks; `base_url` is for the links to further pages."""
        self._admit(call)
        if call.version != API_VERSION:
            raise no_such_path()
        match method_of(call):
            case "users":
                return self._users(call, spoil_every, remove=False)
            case "users_remove":
                return self._users(call, spoil_every, remove=True)
            case "audience":
                audience_id = self._audience_id(call)
                fields = self._account.audience_fields(audience_id)
                return _chosen(fields, call.names("fields"), "CustomAudience")
            case "audiences":
                self._own_account(call)
                return self._page(call, base_url)
            case "account":
                self._own_account(call)
                return _chosen(self._account.fields(), call.names("fields"), "AdAccount")
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

    def _users(self, call: GraphCall, spoil_every: int | None, *, remove: bool) -> dict[str, Any]:
        audience_id = self._audience_id(call)
        session = call.json("session")
        mark = None if session is None else BatchMark.read(session)
        rows = read_rows(call.json("payload"), spoil_every=spoil_every)
        return self._account.receive(audience_id, rows, mark, remove=remove)

    def _audience_id(self, call: GraphCall) -> str:
        audience_id = call.path[0]
        if not self._account.has(audience_id):
            raise no_such_object(call.verb, audience_id)
        return audience_id

    def _own_account(self, call: GraphCall) -> None:
        if call.path[0] != f"act_{self._account.id}":
            raise no_such_object(call.verb, call.path[0])

    def _page(self, call: GraphCall, base_url: str) -> dict[str, Any]:
        ids = self._account.audience_ids()
        start = _position(call.params.get("after"))
        size = _page_size(call.params.get("limit"))
        shown = ids[start : start + size]
        wanted = call.names("fields")
        answer: dict[str, Any] = {
            "data": [
                _chosen(self._account.audience_fields(one), wanted, "CustomAudience")
                for one in shown
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
