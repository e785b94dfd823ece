"""What Meta's refusals mean, in our own words: its texts may repeat token, proof and payload."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson

from services.runtime.verdicts import Fatal, Retryable, Verdict

USAGE = "X-Business-Use-Case-Usage"
DEFAULT_THROTTLE_SECONDS = 60.0
REPLACE_RUNS_SECONDS = 300.0

_THROTTLED = frozenset({4, 17, 32, 613, *range(80000, 80015)})
_TRANSIENT = frozenset({1, 2})
_SIGN_IN = frozenset({102, 104, 190})
_PERMISSION = frozenset({3, 10, 200, 294, 299})
_BAD_PARAMETER = 100
_AUDIENCE_LOCKED = 2650

_NO_SUCH_OBJECT = 33
_TERMS = 1870090
_REPLACE_RUNS = 1870145


class NotThere(Fatal):
    """There is no such object, or the token may not see it."""


def verdict_of(status: int, headers: Mapping[str, str], error: Any) -> Verdict:
    """The verdict on an answer that is no success. `error` is the body's; without one it was not
    the API that answered, but something in front of it.
    """
    if not isinstance(error, Mapping):
        return _of_status(status, headers)
    code, subcode = _number(error.get("code")), _number(error.get("error_subcode"))
    called = f"error {code}" + (f", subcode {subcode}" if subcode else "")
    if code in _THROTTLED or status == HTTPStatus.TOO_MANY_REQUESTS:
        return _throttled(headers)
    if code in _SIGN_IN:
        return Fatal(f"Meta refused the access token ({called}): get a new one.")
    if subcode == _TERMS:
        return Fatal(
            "The Custom Audience terms are not accepted for this ad account: accept them at "
            "business.facebook.com/ads/manage/customaudiences/tos."
        )
    if code in _PERMISSION:
        return Fatal(
            f"The access token may not do this ({called}): it needs `ads_management` and a role "
            "in the ad account."
        )
    if code == _BAD_PARAMETER and subcode == _NO_SUCH_OBJECT:
        return NotThere("Meta has no such object, or the access token may not see it.")
    if code == _AUDIENCE_LOCKED and subcode == _REPLACE_RUNS:
        return Retryable("The audience is being replaced by someone else.", REPLACE_RUNS_SECONDS)
    if code in _TRANSIENT or error.get("is_transient") is True or status >= 500:  # noqa: PLR2004
        return Retryable(f"Meta had a passing fault ({called}).")
    # 100 too. Bad rows are counted as invalid entries, never refused: a parameter that Meta does
    # not take is the request's shape, the same for every chunk, and sending the rest is in vain.
    return Fatal(f"Meta refused the request ({called}).")


def _of_status(status: int, headers: Mapping[str, str]) -> Verdict:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _throttled(headers)
    return Retryable(f"Meta's answer was not one of its API (HTTP {status}).")


def _throttled(headers: Mapping[str, str]) -> Retryable:
    after = _minutes_to_wait(headers.get(USAGE)) * 60 or DEFAULT_THROTTLE_SECONDS
    return Retryable("Meta asked to slow down.", after, throttled=True)


def _minutes_to_wait(header: str | None) -> float:
    """The longest wait that the header names for any of its accounts and uses; 0 for none."""
    try:
        accounts = orjson.loads(header or "{}")
        minutes = [
            float(use["estimated_time_to_regain_access"])
            for uses in accounts.values()
            for use in uses
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0.0
    return max((m for m in minutes if math.isfinite(m) and m > 0), default=0.0)


def _number(value: Any) -> int:
    return value if type(value) is int else 0
