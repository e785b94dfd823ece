"""A call of a platform's web API, as far as platforms do it alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import requests

from services.runtime.verdicts import Fatal, Retryable, Verdict


def call(
    http: requests.Session,
    verb: str,
    url: str,
    verdict_of: Callable[[requests.RequestException], Verdict],
    **what: Any,
) -> requests.Response:
    try:
        # The token must not follow a redirect.
        return http.request(verb, url, allow_redirects=False, **what)
    except requests.RequestException as exc:
        raise verdict_of(exc) from None


def unanswered(exc: requests.RequestException, who: str, setting: str) -> Verdict:
    """Why `who` gave no answer, at the address that is the connection's `setting`."""
    if isinstance(exc, requests.Timeout):
        return Retryable(f"{who} did not answer in time.")
    if isinstance(exc, ValueError):  # the kinds of an address that is none
        return Fatal(f"`{setting}` of the connection is not an address of a web server.")
    return Retryable(f"{who} could not be reached, or the connection was lost.")


def json_of(body: bytes) -> Any:
    """None where it is not JSON: a page of a machine that stands before the API."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
