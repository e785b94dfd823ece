"""LinkedIn's Matched Audiences: contacts streamed into a DMP segment.

Confirmed by LinkedIn's documentation: `/rest/dmpSegments` (create, get, find by `q=account` with
`start` and `count`), its type, destination and `sourcePlatform`, which LinkedIn assigns to an
application; `/users` with `X-RestLi-Method: BATCH_CREATE`, ADD and REMOVE, SHA256_EMAIL,
a status for each element; that adding or removing twice is a success; five seconds before a new
segment takes users; 600 requests a minute of `/users` for an application and the person whose token
it uses, and daily caps that are not published; 429 with SEGMENT_LIMIT_EXCEEDED at 1,000 segments;
the scope `rw_dmp_segments`. There is no call that replaces a segment's members.

Assumed, because no page that could be read says it: GOOGLE_AID (other connectors send it); 5,000
users a request (one refused for its size is halved); elements answered in the order of the request;
`Retry-After`, where LinkedIn sends one; a created segment's id in `x-restli-id`; 426 for a version
that is served no more; `API` as the `sourcePlatform` of an application that was assigned none.

`options` of the destination: `source_platform`, and `version` for another version of the API.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
import pyarrow as pa
import requests

from penstock.connections import TokenConnection
from penstock.contract import Audience, LaneOutcome
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platform import Context, LaneEnd, Limits, Lot, Pace, Sent
from services.upload.platforms.clients import OfThread
from services.upload.platforms.digests import hex_column
from services.upload.platforms.web_api import call, json_of, unanswered

API_URL = "https://api.linkedin.com"
API_VERSION = "202608"
SOURCE_PLATFORM = "API"
UNKNOWN_BY_ANY = "LinkedIn: neither an e-mail address nor a mobile ad id"
READY_SECONDS = 5.0
DEFAULT_THROTTLE_SECONDS = 60.0
TIMEOUT = (10.0, 120.0)
_ACTIONS = {"add": "ADD", "remove": "REMOVE"}
_OPTIONS = ("source_platform", "version")
_PAGE = 100


class _NotThere(Fatal):
    """There is no such thing, or the token may not see it."""


class _NotAllowed(Fatal):
    """The token is good, but not for this."""


class _Refused(Fatal):
    """The request as it is; in one with many users it may be about some of them."""


_MEANINGS: dict[int, tuple[type[Fatal], str]] = {
    400: (_Refused, "LinkedIn refused the request (HTTP 400)."),
    401: (Fatal, "LinkedIn refused the access token: get a new one."),
    403: (_NotAllowed, "The access token lacks `rw_dmp_segments`, or a role in the ad account."),
    404: (_NotThere, "LinkedIn has no such audience, or the access token may not see it."),
    422: (_Refused, "LinkedIn refused the request (HTTP 422)."),
    426: (Fatal, "LinkedIn serves this version of its API no more: set the option `version`."),
}


@dataclass(frozen=True, slots=True)
class _Segment:
    id: str
    name: str
    created: float
    of_contacts: bool = True

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> _Segment:
        number, created = answer.get("id"), answer.get("created")
        if type(number) is not int:
            raise Retryable("LinkedIn answered with an audience that has no id.")
        since = created / 1000 if type(created) is int else 0.0
        return cls(str(number), str(answer.get("name")), since, answer.get("type") == "USER")


class LinkedInPlatform:
    # A member takes up to 220 bytes: 1.1 MB in a full request, for which LinkedIn names no size.
    limits: ClassVar[Limits] = Limits(rows=5_000, bytes=4 * 1024 * 1024)
    pace: ClassVar[Pace] = Pace(per_minute=600)
    modes: ClassVar[frozenset[str]] = frozenset({"add", "remove", "mirror"})
    by_consent: ClassVar[bool] = False

    def __init__(
        self,
        connection: TokenConnection,
        destination: Audience,
        context: Context | None = None,  # noqa: ARG002 - nothing is polled here
    ) -> None:
        self._connection = connection
        self._destination = destination

    @property
    def account(self) -> str:
        # The limits are those of the person whose token it is, whatever the ad account.
        return f"linkedin/{self._destination.connection}"

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:  # noqa: ARG002
        if "audience" in memo:
            return {}
        segment = self._found() or self._created()
        return {"audience": segment.id, "created": segment.created}

    def look(self) -> dict[str, Any]:
        segment = self._found()
        what = "would be created" if segment is None else f"{segment.name} (id {segment.id})"
        return {"audience": what}

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> LinkedInSender:  # noqa: ARG002
        if lot.action not in _ACTIONS:
            raise Fatal("LinkedIn cannot replace an audience: use the mode `mirror`.")
        action = _ACTIONS[lot.action]
        return LinkedInSender(self._api(), memo["audience"], memo.get("created", 0.0), action)

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent | None:  # noqa: ARG002
        return None

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome:  # noqa: ARG002
        # Whoever was accepted is in the audience, whatever became of the lane.
        return LaneOutcome(details={"audience": memo["audience"]} if "audience" in memo else {})

    def row_bytes(self, columns: list[str]) -> int:
        email = 105 if "email" in columns else 0
        return 35 + email + (80 if "mobile_ad_id" in columns else 0)

    def _api(self) -> Api:
        options = self._destination.options
        for name in options:
            if name not in _OPTIONS:
                raise Fatal(f"LinkedIn has no option {name!r}, only {' and '.join(_OPTIONS)}.")
        return _api_of(self._connection, options.get("version", API_VERSION))

    def _found(self) -> _Segment | None:
        """The audience that is wanted; None where it is to be created."""
        wanted = self._destination.audience_id
        if wanted is None:
            return self._named()
        try:
            segment = _Segment.read(self._api().get(f"dmpSegments/{quote(wanted, safe='')}"))
        except _NotThere:
            raise Fatal(
                f"LinkedIn has no audience {wanted}, or the access token may not see it."
            ) from None
        if not segment.of_contacts:
            raise Fatal(f"LinkedIn's audience {wanted} is not one of contacts.")
        return segment

    def _named(self) -> _Segment | None:
        wanted = self._destination
        where = f"Ad account {wanted.account_id}"
        same = {s.id: s for s in self._all() if s.name == wanted.audience}
        found = sorted((s for s in same.values() if s.of_contacts), key=lambda s: int(s.id))
        if len(found) > 1 and not wanted.create:
            raise Fatal(
                f"{where} has {len(found)} audiences named {wanted.audience!r}: give `audience_id`."
            )
        if found:
            # Workers that create it at the same time must agree on one: the oldest.
            return found[0]
        if same:
            raise Fatal(f"{where} has an audience {wanted.audience!r}, but not one of contacts.")
        if not wanted.create:
            raise Fatal(f"{where} has no audience named {wanted.audience!r}.")
        return None

    def _all(self) -> Iterator[_Segment]:
        start = 0
        while True:
            answer = self._api().get(
                "dmpSegments",
                q="account",
                account=f"urn:li:sponsoredAccount:{self._destination.account_id}",
                start=str(start),
                count=str(_PAGE),
            )
            page = _elements(answer)
            yield from map(_Segment.read, page)
            start += len(page)
            total = (answer.get("paging") or {}).get("total")
            # Without a total, a page that is not full is the last.
            if not page or (start >= total if type(total) is int else len(page) != _PAGE):
                return

    def _created(self) -> _Segment:
        wanted = self._destination
        body = {
            "name": wanted.audience,
            "account": f"urn:li:sponsoredAccount:{wanted.account_id}",
            "type": "USER",
            "sourcePlatform": wanted.options.get("source_platform", SOURCE_PLATFORM),
            "destinations": [{"destination": "LINKEDIN"}],
            **({"description": wanted.description} if wanted.description else {}),
        }
        made = self._api().create("dmpSegments", body)
        # Another worker may have been at it too, a moment before.
        return self._named() or _Segment(made, str(wanted.audience), time.time())


class LinkedInSender:
    def __init__(self, api: Api, audience: str, created: float, action: str) -> None:
        self._api = api
        self._path = f"dmpSegments/{quote(audience, safe='')}/users"
        self._created = created
        self._action = action

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        age = time.time() - self._created
        # Users who come before are answered with success, and lost. The clocks of two machines
        # may differ: abs() bounds how long that can hold a chunk up.
        if abs(age) < READY_SECONDS:
            raise Retryable(
                "The new audience takes no members yet.", READY_SECONDS - age, throttled=True
            )
        ids = _user_ids(chunk)
        # Whom LinkedIn could never know is not in the audience: a removal is as good as done.
        unknown = (
            [] if self._action == "REMOVE" else [n for n, known in enumerate(ids) if not known]
        )
        rows = dict.fromkeys(unknown, ("", UNKNOWN_BY_ANY))
        places = [place for place, known in enumerate(ids) if known]
        if places:
            elements = [{"action": self._action, "userIds": ids[place]} for place in places]
            for place, status in zip(places, self._statuses(elements), strict=True):
                if not _is_success(status):
                    rows[place] = ("", f"LinkedIn: refused with status {status}")
        reasons = Counter(reason for _, reason in rows.values())
        return Sent(chunk.num_rows - len(rows), dict(reasons), dict(sorted(rows.items())))

    def _statuses(self, elements: list[dict[str, Any]]) -> list[int]:
        answer = self._api.batch(self._path, elements)
        statuses: list[Any] = [one.get("status") for one in _elements(answer)]
        if len(statuses) != len(elements) or not all(type(told) is int for told in statuses):
            raise Retryable("LinkedIn answered without a status for each user.")
        # After these all are sent again: for those who were taken that is a success too.
        if HTTPStatus.TOO_MANY_REQUESTS in statuses:
            raise _slow_down({})
        if max(statuses) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Retryable("LinkedIn had a passing fault with some of the users.")
        return statuses


def _user_ids(chunk: pa.RecordBatch) -> list[list[dict[str, str]]]:
    ids: list[list[dict[str, str]]] = [[] for _ in range(chunk.num_rows)]
    columns: dict[str, list[str | None]] = {}
    if "email" in chunk.schema.names:
        columns["SHA256_EMAIL"] = hex_column(chunk.column("email"), None)
    if "mobile_ad_id" in chunk.schema.names:
        columns["GOOGLE_AID"] = chunk.column("mobile_ad_id").to_pylist()
    for kind, values in columns.items():
        for known, value in zip(ids, values, strict=True):
            if value:
                known.append({"idType": kind, "idValue": value})
    return ids


def _elements(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = answer.get("elements")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Retryable("LinkedIn answered without its elements.")
    return found


def _is_success(status: int) -> bool:
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


class Api:
    """Each call gives what LinkedIn answered or raises a verdict. For one thread."""

    def __init__(
        self, connection: TokenConnection, version: str, timeout: tuple[float, float] = TIMEOUT
    ) -> None:
        self._timeout = timeout
        self._root = f"{(connection.api_url or API_URL).rstrip('/')}/rest"
        self._http = requests.Session()
        self._http.headers.update(
            {
                "Authorization": f"Bearer {connection.access_token.get_secret_value()}",
                "LinkedIn-Version": version,
                "X-Restli-Protocol-Version": "2.0.0",
                "Content-Type": "application/json",
            }
        )

    def get(self, path: str, **params: str) -> dict[str, Any]:
        return self._call("GET", path, params=params)[0]

    def create(self, path: str, body: Any) -> str:
        """The id of what was created."""
        _, headers = self._call("POST", path, data=orjson.dumps(body))
        made = headers.get("x-restli-id", "")
        if not made.isdecimal():
            raise Retryable("LinkedIn did not say which audience it created.")
        return made

    def batch(self, path: str, elements: list[dict[str, Any]]) -> dict[str, Any]:
        body, headers = orjson.dumps({"elements": elements}), {"X-RestLi-Method": "BATCH_CREATE"}
        try:
            return self._call("POST", path, data=body, headers=headers)[0]
        except _Refused as no:
            # Its halves come then, down to the rows it is about.
            raise RowsRejected(no.reason) from None

    def _call(self, verb: str, path: str, **what: Any) -> tuple[dict[str, Any], Mapping[str, str]]:
        response = call(
            self._http, verb, f"{self._root}/{path}", _unanswered, timeout=self._timeout, **what
        )
        answer = json_of(response.content or b"{}")
        if _is_success(response.status_code) and isinstance(answer, dict):
            return answer, response.headers
        raise _verdict(response.status_code, response.headers, answer)


def _verdict(status: int, headers: Mapping[str, str], error: Any) -> Verdict:
    """What a refusal means, in our own words: LinkedIn's may quote what was sent."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        if isinstance(error, dict) and error.get("code") == "SEGMENT_LIMIT_EXCEEDED":
            return Fatal("The ad account has all the audiences LinkedIn allows: delete some.")
        return _slow_down(headers)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _Refused("LinkedIn found the request too large.")
    if not isinstance(error, dict):
        return Retryable(f"LinkedIn's answer was not one of its API (HTTP {status}).")
    if status in _MEANINGS:
        kind, reason = _MEANINGS[status]
        return kind(reason)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Retryable(f"LinkedIn had a passing fault (HTTP {status}).")
    return Fatal(f"LinkedIn refused the request (HTTP {status}).")


def _slow_down(headers: Mapping[str, str]) -> Retryable:
    named = headers.get("Retry-After", "")
    after = float(named) if re.fullmatch(r"[1-9]\d{0,4}", named) else DEFAULT_THROTTLE_SECONDS
    return Retryable("LinkedIn asked to slow down.", after, throttled=True)


def _unanswered(exc: requests.RequestException) -> Verdict:
    return unanswered(exc, "LinkedIn", "api_url")


def _made(key: tuple[TokenConnection, str]) -> Api:
    return Api(*key)


_apis = OfThread(_made)


def _api_of(connection: TokenConnection, version: str) -> Api:
    return _apis.get((connection, version))


PLATFORM = LinkedInPlatform


def check(connection: TokenConnection) -> str:
    signed_in = f"LinkedIn accepts the access token (API version {API_VERSION})."
    try:
        _api_of(connection, API_VERSION).get("me")
    except _NotAllowed:
        # Who may see audiences need not be allowed to read profiles. The token was taken.
        return signed_in
    return signed_in
