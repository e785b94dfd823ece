"""What the headers of Meta's answers say of an ad account's limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from services.upload.platform import Usage

_BUSINESS = "X-Business-Use-Case-Usage"
_APP = "X-App-Usage"
_AD_ACCOUNT = "X-Ad-Account-Usage"
_PERCENTS = ("call_count", "total_cputime", "total_time", "acc_id_util_pct")
_FULL = 100


def usage_of(headers: Mapping[str, str], account_id: str | None = None) -> Usage | None:
    """The fullest of all limits, and the longest wait that is named for one; None where the
    headers say nothing. Other accounts count only where this one is not known or not named.
    """
    figures = [*_business(headers, account_id), _read(headers, _APP), _read(headers, _AD_ACCOUNT)]
    percents = [_number(one.get(name)) for one in figures for name in _PERCENTS if name in one]
    waits = [_seconds(one) for one in figures]
    if not percents and not any(waits):
        return None
    return Usage(max(percents, default=0.0), max(waits, default=0.0))


def _business(headers: Mapping[str, str], account_id: str | None) -> Iterator[Mapping[str, Any]]:
    accounts = _read(headers, _BUSINESS)
    if account_id in accounts:
        accounts = {account_id: accounts[account_id]}
    for uses in accounts.values():
        yield from (use for use in uses if isinstance(use, dict)) if isinstance(uses, list) else ()


def _seconds(figures: Mapping[str, Any]) -> float:
    minutes = _number(figures.get("estimated_time_to_regain_access"))
    # How long until the account's figure is at nothing again: a wait only for one that is full.
    if _number(figures.get("acc_id_util_pct")) >= _FULL:
        return max(minutes * 60, _number(figures.get("reset_time_duration")))
    return minutes * 60


def _read(headers: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        told = orjson.loads(headers.get(name) or "{}")
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        return 0.0
    return max(0.0, float(value))
