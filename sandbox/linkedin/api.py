"""The part of LinkedIn's Marketing API that audiences need: who may call, and what answers."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from sandbox.linkedin.errors import (
    ApiError,
    bad_request,
    bad_token,
    no_such_version,
    no_token,
    not_allowed,
    not_found,
    too_many_requests,
)
from sandbox.linkedin.segments import TYPES, Segments
from sandbox.linkedin.users import read_users

ACCOUNT = "1000"
#: The token may do nothing with any other.
ACCOUNTS = frozenset({ACCOUNT, "1001"})
VERSIONS = frozenset({"202512", *(f"2026{month:02}" for month in range(1, 9))})
BAD_TOKEN = "bad"
NO_PROFILE_TOKEN = "no-profile"
PER_MINUTE = 600
METHODS = ("users", "create", "segment", "segments", "me", "other")

_URN = re.compile(r"urn:li:sponsoredAccount:(\d+)")


@dataclass(frozen=True)
class Call:
    verb: str
    path: tuple[str, ...]
    params: Mapping[str, str]
    headers: Message | Mapping[str, str]
    body: bytes

    @classmethod
    def read(
        cls, verb: str, target: str, headers: Message | Mapping[str, str], body: bytes
    ) -> Call:
        url = urlsplit(target)
        path = tuple(unquote(part) for part in url.path.strip("/").split("/"))
        return cls(verb, path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)

    @property
    def method(self) -> str:
        """The name by which faults and counts know the call."""
        match self.verb, self.path:
            case "POST", ("rest", "dmpSegments", _, "users"):
                return "users"
            case "POST", ("rest", "dmpSegments"):
                return "create"
            case "GET", ("rest", "dmpSegments", _):
                return "segment"
            case "GET", ("rest", "dmpSegments"):
                return "segments"
            case "GET", ("rest", "me"):
                return "me"
        return "other"

    @property
    def token(self) -> str:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def json(self) -> Any:
        kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", "The body is no JSON"
            )
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            # Without its cause: that one quotes what was sent.
            raise bad_request("The body is not valid JSON") from None


@dataclass(frozen=True)
class Answer:
    body: Any
    status: HTTPStatus = HTTPStatus.OK
    created: int | None = None


class Minute:
    """How many calls each token has made within the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = PER_MINUTE
        self._clock = clock
        self._calls: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def count(self, token: str) -> None:
        with self._lock:
            now, calls = self._clock(), self._calls.setdefault(token, deque())
            while calls and calls[0] <= now - 60:
                calls.popleft()
            if len(calls) >= self.limit:
                raise too_many_requests()
            calls.append(now)

    def forget(self) -> None:
        with self._lock:
            self._calls.clear()


class Api:
    def __init__(self, segments: Segments, minute: Minute) -> None:
        self._segments = segments
        self._minute = minute

    def answer(self, call: Call, spoil: Mapping[str, int] | None = None) -> Answer:
        """Do what the call asks; `spoil` says which users are refused on demand."""
        _admit(call)
        match call.method:
            case "users":
                return self._users(call, spoil or {})
            case "create":
                return self._create(call.json())
            case "segment":
                return Answer(self._segments.fields(_segment_id(call)))
            case "segments":
                return self._page(call.params)
            case "me":
                if call.token == NO_PROFILE_TOKEN:
                    raise not_allowed()
                return Answer({"id": "sandbox", "localizedFirstName": "Sandbox"})
        raise not_found("the resource")

    def _users(self, call: Call, spoil: Mapping[str, int]) -> Answer:
        if call.headers.get("X-RestLi-Method", "").upper() != "BATCH_CREATE":
            raise bad_request("Users come in a batch here: X-RestLi-Method must be BATCH_CREATE")
        segment_id = _segment_id(call)
        self._segments.check(segment_id)
        self._minute.count(call.token)
        users = read_users(call.json(), **spoil)
        self._segments.receive(segment_id, users)
        return Answer({"elements": users.answers})

    def _create(self, body: Any) -> Answer:
        if not isinstance(body, dict):
            raise bad_request("A segment is an object")
        account, name, kind = _account(body.get("account")), body.get("name"), body.get("type")
        description = body.get("description")
        if not isinstance(name, str) or not name:
            raise bad_request("A segment needs a name")
        if kind not in TYPES:
            raise bad_request("A segment needs a type")
        if body.get("destinations") != [{"destination": "LINKEDIN"}]:
            raise bad_request("A segment needs the destination LINKEDIN")
        platform = body.get("sourcePlatform")
        if not isinstance(platform, str) or not platform:
            raise bad_request("A segment needs a sourcePlatform")
        if description is not None and not isinstance(description, str):
            raise bad_request("A description is text")
        if "accessPolicy" in body:
            raise bad_request("accessPolicy is no field of a segment any more")
        made = self._segments.create(account, name, kind, platform, description)
        return Answer(None, HTTPStatus.CREATED, made)

    def _page(self, params: Mapping[str, str]) -> Answer:
        if params.get("q") != "account":
            raise bad_request("Segments are found by q=account")
        account = _account(params.get("account"))
        start, count = params.get("start", "0"), params.get("count")
        if not start.isdecimal() or (count is not None and not count.isdecimal()):
            raise bad_request("start and count are numbers")
        return Answer(
            self._segments.page(account, int(start), None if count is None else int(count))
        )


def _admit(call: Call) -> None:
    if not call.token:
        raise no_token()
    if call.token == BAD_TOKEN:
        raise bad_token()
    version = call.headers.get("LinkedIn-Version")
    if version is None:
        raise bad_request("A version must be present", "VERSION_MISSING")
    if version not in VERSIONS:
        raise no_such_version()
    if call.headers.get("X-Restli-Protocol-Version") != "2.0.0":
        raise bad_request("X-Restli-Protocol-Version must be 2.0.0")


def _account(urn: Any) -> str:
    found = _URN.fullmatch(urn) if isinstance(urn, str) else None
    if found is None:
        raise bad_request("account is the URN of a sponsored account")
    if found[1] not in ACCOUNTS:
        raise not_allowed()
    return found[1]


def _segment_id(call: Call) -> int:
    if not call.path[2].isdecimal():
        raise bad_request("The id of a segment is a number")
    return int(call.path[2])
