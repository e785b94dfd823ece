"""The faults by name: refusals, pages that are no JSON, and worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from sandbox.linkedin.errors import (
    ApiError,
    bad_request,
    bad_token,
    no_such_version,
    not_allowed,
    too_many_requests,
    too_many_segments,
)

REFUSALS: Mapping[str, Callable[[], ApiError]] = {
    "throttle": too_many_requests,
    "segment_limit": too_many_segments,
    "http_500": lambda: ApiError(
        HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "Internal Server Error"
    ),
    "http_503": lambda: ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", "Service Unavailable"
    ),
    "token": bad_token,
    "permission": not_allowed,
    "version": no_such_version,
    "bad_request": lambda: bad_request("Request body could not be decoded"),
}

# What a machine in front of the API answers.
PAGES: Mapping[str, HTTPStatus] = {
    "html_200": HTTPStatus.OK,
    "html_403": HTTPStatus.FORBIDDEN,
    "html_413": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "html_429": HTTPStatus.TOO_MANY_REQUESTS,
    "html_502": HTTPStatus.BAD_GATEWAY,
}

# `slow` is its delay; `user_status` answers each n-th user (`every`) with a `status` of its own;
# the rest is for the server, which holds the connection.
OTHERS = ("slow", "hang", "reset", "drop_after", "empty_200", "user_status", "one_status_short")

NAMES = (*REFUSALS, *PAGES, *OTHERS)


def headers_of(name: str, data: Mapping[str, Any]) -> dict[str, str]:
    """A throttled call may be told for how long."""
    if name == "throttle" and "retry_after" in data:
        return {"Retry-After": str(data["retry_after"])}
    return {}


def page(status: HTTPStatus) -> str:
    return f"<!DOCTYPE html><html><title>{status.phrase}</title><h1>{status.phrase}</h1></html>"
