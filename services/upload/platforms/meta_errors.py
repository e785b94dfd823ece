"""What Meta's refusals mean, in our own words: its texts may repeat token, proof and payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platforms.meta_usage import usage_of

DEFAULT_THROTTLE_SECONDS = 60.0
# A replacement that nobody finishes runs for 90 minutes, which all tries together outlast.
BUSY_SECONDS = 600.0
REFUSED_ROW = "Meta: entry refused"

_THROTTLED = frozenset({4, 17, 32, 613, *range(80000, 80015)})
_TRANSIENT = frozenset({1, 2})
_SIGN_IN = frozenset({102, 104, 190})
_PERMISSION = frozenset({3, 10, 200, 294, 299})
_BAD_PARAMETER = 100
_AUDIENCE = 2650

_NO_SUCH_OBJECT = 33
_TERMS = 1870090
_BLOCKED = 1713230
_TOO_LARGE = 1870144
_BUSY = 1870145
_NO_FIRST_BATCH = 1870147
_NOT_WHOLE = 1870148
_TIMED_OUT = 1870158
_OVER = 1870159


class NotThere(Fatal):
    """There is no such object, or the token may not see it."""


class NoFirstBatch(Fatal):
    """Meta has seen no batch 1 of the replacement."""


class ReplaceOver(Fatal):
    """The replacement has had its last batch."""


_OF_AUDIENCE: Mapping[int, tuple[type[Fatal], str]] = {
    _TOO_LARGE: (
        Fatal,
        'Meta replaces no audience of 100 million members or more: use `mode = "mirror"`.',
    ),
    _NO_FIRST_BATCH: (
        NoFirstBatch,
        "Meta does not know the replacement that this lane began: retry the lane.",
    ),
    _NOT_WHOLE: (Fatal, "Meta did not update the audience fully: retry the lane."),
    _TIMED_OUT: (
        Fatal,
        "The replacement took longer than the 90 minutes that Meta gives it: retry the lane.",
    ),
    _OVER: (ReplaceOver, "Meta has ended the replacement of this audience: retry the lane."),
}

# Where a refusal blames rows of the payload, and not the payload's shape.
_BLAMES_ROWS = re.compile(r"payload\W+data\W")


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
    if code == _BAD_PARAMETER and error.get("is_transient") is not True:
        return _of_parameter(subcode, error, called)
    if code == _AUDIENCE and subcode == _BUSY:
        return Retryable("Meta is still replacing the members of this audience.", BUSY_SECONDS)
    if code == _AUDIENCE and subcode in _OF_AUDIENCE:
        kind, text = _OF_AUDIENCE[subcode]
        return kind(text)
    if code in _TRANSIENT or error.get("is_transient") is True or status >= 500:  # noqa: PLR2004
        return Retryable(f"Meta had a passing fault ({called}).")
    return Fatal(f"Meta refused the request ({called}).")


def _of_parameter(subcode: int, error: Mapping[str, Any], called: str) -> Verdict:
    """Bad rows are counted as invalid entries. What Meta refuses is the request's shape, the same
    for every chunk, and to send the rest is in vain; but for a refusal that blames a row.
    """
    if subcode == _NO_SUCH_OBJECT:
        return NotThere("Meta has no such object, or the access token may not see it.")
    if subcode == _BLOCKED:
        return Fatal(
            "Meta has blocked uploads to this audience: appeal in its Audience Manager, or use "
            "another audience."
        )
    if not subcode and _BLAMES_ROWS.search(str(error.get("message"))):
        return RowsRejected(REFUSED_ROW)
    return Fatal(f"Meta refused the request ({called}).")


def _of_status(status: int, headers: Mapping[str, str]) -> Verdict:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _throttled(headers)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        # Of something in front of the API: half of it may pass.
        return RowsRejected("Meta: the request was too large")
    return Retryable(f"Meta's answer was not one of its API (HTTP {status}).")


def _throttled(headers: Mapping[str, str]) -> Retryable:
    usage = usage_of(headers)
    after = usage.regain_seconds if usage else 0.0
    return Retryable("Meta asked to slow down.", after or DEFAULT_THROTTLE_SECONDS, throttled=True)


def _number(value: Any) -> int:
    return value if type(value) is int else 0
