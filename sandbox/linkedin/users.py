"""The elements of a users request: which are members to add or remove, and which are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sandbox.linkedin.errors import bad_request

MAX_USERS = 5_000

_CHECKS: dict[str, Callable[[str], object]] = {
    "SHA256_EMAIL": re.compile("[0-9a-fA-F]{64}").fullmatch,
    "SHA512_EMAIL": re.compile("[0-9a-fA-F]{128}").fullmatch,
    "GOOGLE_AID": re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch,
}


@dataclass(frozen=True)
class Users:
    #: (whether to remove, the member's ids), one for each element that is in order.
    changes: list[tuple[bool, tuple[str, ...]]]
    #: What each element is answered with, in the order of the request.
    answers: list[dict[str, Any]]


def read_users(body: Any, *, every: int = 0, status: int = HTTPStatus.BAD_REQUEST) -> Users:
    """Sort the elements; with `every` n, each n-th is answered with `status` whatever it holds."""
    elements = body.get("elements") if isinstance(body, dict) else None
    if not isinstance(elements, list) or not elements:
        raise bad_request("A batch needs its elements")
    if len(elements) > MAX_USERS:
        raise bad_request(f"A batch takes at most {MAX_USERS} elements")
    users = Users([], [])
    for number, element in enumerate(elements, start=1):
        if every and number % every == 0:
            users.answers.append(_refusal(status, "The element was refused on demand"))
            continue
        try:
            users.changes.append(_change(element))
        except ValueError as wrong:
            users.answers.append(_refusal(HTTPStatus.BAD_REQUEST, str(wrong)))
        else:
            users.answers.append({"status": HTTPStatus.CREATED.value})
    return users


def _change(element: Any) -> tuple[bool, tuple[str, ...]]:
    action = element.get("action") if isinstance(element, dict) else None
    if action not in ("ADD", "REMOVE"):
        raise ValueError("action is ADD or REMOVE")
    ids = element.get("userIds")
    if not isinstance(ids, list) or not ids:
        raise ValueError("userIds is a list of ids")
    known = {}
    for one in ids:
        kind, value = (one.get("idType"), one.get("idValue")) if isinstance(one, dict) else ("", "")
        if kind not in _CHECKS or kind in known:
            raise ValueError("idType is unknown, or there twice")
        if not isinstance(value, str) or not _CHECKS[kind](value):
            raise ValueError(f"idValue has not the form of a {kind}")
        known[kind] = value.lower()
    return action == "REMOVE", tuple(f"{kind}:{known[kind]}" for kind in sorted(known))


def _refusal(status: int, message: str) -> dict[str, Any]:
    return {"status": int(status), "error": {"status": int(status), "message": message}}
