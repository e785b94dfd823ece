"""Finding an audience of Meta by its id or name, and creating one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from penstock.contract import Meta
from services.runtime.verdicts import Fatal, Retryable
from services.upload.platforms.meta_errors import NotThere
from services.upload.platforms.meta_graph import Graph

_PAGE = "200"


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """Audiences of one name in the order in which they were created."""

    created: int
    id: int
    name: str


def account_name(graph: Graph, account: str) -> str:
    try:
        return str(graph.get(f"act_{account}", fields="name").get("name"))
    except NotThere:
        raise _no_account(account) from None


def find(graph: Graph, wanted: Meta) -> Found | None:
    """None where there is none of the name; an id that is nobody's is Fatal."""
    if wanted.audience_id is not None:
        return _by_id(graph, wanted.audience_id)
    account, name = wanted.account_id or "", wanted.audience or ""
    found = _by_name(graph, account, name)
    if len(found) > 1 and not wanted.create:
        raise Fatal(
            f"Ad account {account} has {len(found)} audiences named {name!r}: give `audience_id`."
        )
    # Where several jobs created it at once the oldest is the one that stays.
    return min(found, default=None)


def missing(wanted: Meta) -> Fatal:
    return Fatal(f"Ad account {wanted.account_id} has no audience named {wanted.audience!r}.")


def create(graph: Graph, wanted: Meta) -> int:
    """Create the audience, and give the id of the one that stays.

    Meta lets many have one name, and workers that start a lane together may each create theirs.
    So each looks again: the oldest stays, and who sees an older one takes its own away.
    """
    account, name = wanted.account_id or "", wanted.audience or ""
    body: dict[str, Any] = {
        "name": name,
        "subtype": "CUSTOM",
        "customer_file_source": "USER_PROVIDED_ONLY",
    }
    if wanted.description is not None:
        body["description"] = wanted.description
    try:
        answer = graph.post(f"act_{account}/customaudiences", orjson.dumps(body))
    except NotThere:
        raise _no_account(account) from None
    own = str(answer.fields.get("id", ""))
    if not own.isdecimal():
        raise Retryable("Meta answered without saying which audience it created.")
    oldest = min(_by_name(graph, account, name), default=None)
    if oldest is None or oldest.id == int(own):
        return int(own)
    graph.delete(own)
    return oldest.id


def _by_id(graph: Graph, audience: str) -> Found:
    try:
        return _read(graph.get(audience, fields="name,time_created") | {"id": audience})
    except NotThere:
        raise Fatal(
            f"Meta has no audience {audience}, or the access token may not see it."
        ) from None


def _by_name(graph: Graph, account: str, name: str) -> list[Found]:
    found: list[Found] = []
    page = {"fields": "name,time_created", "limit": _PAGE}
    while True:
        try:
            answer = graph.get(f"act_{account}/customaudiences", **page)
        except NotThere:
            raise _no_account(account) from None
        found += [_read(one) for one in answer.get("data", ()) if one.get("name") == name]
        paging = answer.get("paging") or {}
        if "next" not in paging:
            return found
        # By the cursor: the link to the next page has the token in it.
        page["after"] = paging["cursors"]["after"]


def _read(fields: dict[str, Any]) -> Found:
    return Found(int(fields.get("time_created") or 0), int(fields["id"]), str(fields.get("name")))


def _no_account(account: str) -> Fatal:
    return Fatal(f"Meta has no ad account {account}, or the access token may not see it.")
