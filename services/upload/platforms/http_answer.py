"""What an endpoint's answer means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import orjson
import requests

from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict

MOST_BYTES = 8 * 1024 * 1024
THROTTLE_SECONDS = 60.0
_LONGEST_WAIT = 86_400.0
#: An endpoint that says 0 for ever must not be asked without a pause.
_SHORTEST_WAIT = 1.0
_PIECE = 65_536

_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    # What the idempotency header's draft has for "your first request is still being worked on".
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
}
_OF_THE_ROWS = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
_MEANINGS: dict[int, str] = {
    401: "The endpoint refused the credentials (HTTP 401): mend the connection's `bearer_token` or "
    "`secret`.",
    403: "The endpoint refused access (HTTP 403): mend the connection's `bearer_token` or "
    "`secret`, or what they may do.",
    404: "The endpoint has nothing at this address (HTTP 404): mend the connection's `url`.",
    405: "The endpoint takes no POST (HTTP 405): mend the connection's `url`.",
    410: "The endpoint is gone for good (HTTP 410): mend the connection's `url`.",
    415: "The endpoint does not take this form (HTTP 415): set the destination's `encoding`.",
}


def answer_of(response: requests.Response) -> dict[str, Any]:
    """The body of a success, or a verdict raised. A success may have no body, but what is not JSON
    may come from a machine that stands before the endpoint, and is no success.
    """
    status = response.status_code
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise _verdict(status, response.headers)
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > MOST_BYTES:
            raise Fatal("The endpoint's answer is longer than 8 MB: name rejected rows alone.")
    if not body.strip():
        return {}
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise Retryable(
            f"The endpoint answered HTTP {status} with something else than a JSON object: answer "
            "with one, or with no body."
        )
    return answer


def unanswered(exc: requests.RequestException) -> Verdict:
    if isinstance(exc, requests.Timeout):
        return Retryable("The endpoint did not answer in time.")
    if isinstance(exc, requests.exceptions.SSLError):
        return Retryable("The endpoint's certificate is not trusted here, or TLS failed.")
    if isinstance(exc, ValueError):  # the kinds of an address that is none
        return Fatal("The connection's `url` is not the address of a web server.")
    return Retryable("The endpoint could not be reached, or the connection was lost.")


def _verdict(status: int, headers: Mapping[str, str]) -> Verdict:
    wait = _named_wait(headers.get("Retry-After", "").strip())
    if status == HTTPStatus.TOO_MANY_REQUESTS or (
        status == HTTPStatus.SERVICE_UNAVAILABLE and wait is not None
    ):
        after = THROTTLE_SECONDS if wait is None else wait
        return Retryable("The endpoint asked to slow down.", after, throttled=True)
    if status in _OF_THE_ROWS:
        return RowsRejected(f"the endpoint refused the batch (HTTP {status})")
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Retryable(f"The endpoint had a passing fault (HTTP {status}).", wait)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Fatal(
            f"The endpoint redirects (HTTP {status}), which is not followed: put the address it "
            "leads to into the connection's `url`."
        )
    return Fatal(_MEANINGS.get(status, f"The endpoint refused the request (HTTP {status})."))


def _named_wait(value: str) -> float | None:
    """`Retry-After` in seconds or as a date; None where there is none that can be read."""
    if re.fullmatch(r"\d{1,9}", value):
        seconds = float(value)
    else:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        # A date without its zone is in GMT.
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, _SHORTEST_WAIT), _LONGEST_WAIT)
