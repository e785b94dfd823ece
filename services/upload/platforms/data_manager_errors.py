"""What the Data Manager API's refusals mean, in our own words: its texts may repeat what was
sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.ads.datamanager_v1.types import error
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.rpc import error_details_pb2

from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platforms.google_calls import (
    is_signed_out,
    sign_in_verdict,
    signed_out,
    status_verdict,
)

_FATAL = {
    "TERMS_AND_CONDITIONS_NOT_SIGNED": (
        "The account has not accepted the Customer Match terms: accept them in Google Ads, then "
        "set `terms_accepted = true`."
    ),
    "NOT_ALLOWLISTED": (
        "Google does not let this account do that through the Data Manager API: it is not on the "
        "allow-list."
    ),
    "INVALID_USER_LIST_ID": "`user_list_id` is not a list of this account's.",
    "INVALID_USER_LIST_TYPE": "The user list takes another kind of members than `list_type` says.",
    "INVALID_DESTINATION": (
        "Google does not take the destination: check `customer_id`, `login_customer_id` and "
        "`user_list_id`."
    ),
    "DESTINATION_ACCOUNT_TYPE_MISMATCH": "`customer_id` is not a Google Ads account.",
    "OPERATING_ACCOUNT_LOGIN_ACCOUNT_MISMATCH": (
        "`login_customer_id` does not manage the account of `customer_id`."
    ),
    "LINKED_ACCOUNT_ONLY_ALLOWED_WITH_DATA_PARTNER_LOGIN_ACCOUNT": (
        "`linked_customer_id` is for data partners: `login_customer_id` must be a partner's own "
        "account."
    ),
    "DATA_PARTNER_USER_LIST_MUTATE_NOT_ALLOWED": (
        "The data partner may not change this list, which the account itself owns."
    ),
    "USER_LIST_MUTATION_NOT_SUPPORTED": "Google takes no members for a list of this type.",
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": (
        "The credentials were not given the scope of the Data Manager API "
        "(https://www.googleapis.com/auth/datamanager): sign in again with it."
    ),
    "SERVICE_DISABLED": (
        "The Data Manager API is not enabled in the Google Cloud project of the credentials."
    ),
    "USER_PROJECT_DENIED": "The credentials may not use the connection's `quota_project`.",
}
_NOT_ALLOWED = (
    "The credentials may not use this account, or there is no such account: check `customer_id`, "
    "and whether `login_customer_id` must name its manager account."
)
_NOT_THERE = "Google does not know what the request names."
_TRANSIENT = frozenset({"INTERNAL_ERROR", "DEADLINE_EXCEEDED"})
_TOO_LARGE = frozenset(
    {"TOO_MANY_AUDIENCE_MEMBERS", "TOO_MANY_USER_IDENTIFIERS", "TOO_MANY_ELEMENTS"}
)
# The day of Google's quotas ends at its own midnight: asking once an hour finds it soon enough.
_DAY_IS_OVER_SECONDS = 3600.0
_MINUTE_SECONDS = 60.0

_PLACE = re.compile(r"\baudience_members\[(\d+)\]")
_COLUMNS = {
    "email_address": "email",
    "phone_number": "phone",
    "given_name": "first_name",
    "family_name": "last_name",
    "region_code": "country",
    "postal_code": "postal_code",
    "mobile_ids": "mobile_ad_id",
    "user_id": "external_id",
    "consent": "consent",
}


class NotFound(Fatal):
    """There is nothing of that id, or nothing that the credentials may see."""


class NamedRows(RowsRejected):
    """Refused as a whole for these rows: place in the request -> (column or "", reason)."""

    def __init__(self, rows: Mapping[int, tuple[str, str]]) -> None:
        super().__init__(next(iter(rows.values()))[1])
        self.rows = rows


def verdict_of(exc: Exception) -> Verdict:
    """The verdict on whatever a call of the SDK raised."""
    if isinstance(exc, GoogleAuthError):
        return sign_in_verdict(exc)
    status = getattr(exc, "grpc_status_code", None)
    details: list[Any] = list(exc.details) if isinstance(exc, GoogleAPICallError) else []
    info = next(_of(details, error_details_pb2.ErrorInfo), None)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _throttled(info, next(_of(details, error_details_pb2.RetryInfo), None))
    if bad := next(_of(details, error_details_pb2.BadRequest), None):
        return _of_violations(bad.field_violations)
    if info is not None and (verdict := _of_reason(info.reason)):
        return verdict
    return _of_status(status, getattr(exc, "message", ""))


def row_reason(name: str) -> str:
    """A reason for a row, out of one of Google's names; one it does not name is just that."""
    return "Google: " + name.replace("_", " ").lower()


def _of(details: Iterable[Any], kind: Any) -> Any:
    return (detail for detail in details if isinstance(detail, kind))


def _of_violations(found: Iterable[Any]) -> Verdict:
    rows: dict[int, tuple[str, str]] = {}
    for one in found:
        reason = _known(one.reason)
        place = _PLACE.search(one.field)
        if place is None:
            # Of the request itself: no row is to blame.
            return _of_reason(reason) or Fatal(f"Google refused the request: {reason}.")
        rows.setdefault(int(place[1]), (_column(one.field, reason), row_reason(reason)))
    return NamedRows(rows) if rows else Fatal("Google refused the request without a reason.")


def _of_reason(reason: str) -> Verdict | None:
    if reason in _FATAL:
        return Fatal(_FATAL[reason])
    if reason == "PERMISSION_DENIED":
        return NotFound(_NOT_ALLOWED)
    if reason in ("NOT_FOUND", "INVALID_REQUEST_ID"):
        return NotFound(_NOT_THERE)
    if reason in _TRANSIENT:
        return Retryable(f"Google had a passing fault: {reason}.")
    if reason in _TOO_LARGE:
        return RowsRejected(row_reason(reason))
    return None


def _throttled(info: Any, retry: Any) -> Retryable:
    seconds = retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else 0.0
    limit = info.metadata.get("quota_limit", "") if info is not None else ""
    if "PerDay" in limit:
        return Retryable(
            "The Google Cloud project has used up its requests of the day.",
            seconds or _DAY_IS_OVER_SECONDS,
            throttled=True,
        )
    if "PerMinute" in limit:
        seconds = seconds or _MINUTE_SECONDS
    return Retryable("Google asked to slow down.", seconds or None, throttled=True)


def _of_status(status: grpc.StatusCode | None, message: str) -> Verdict:
    """Where no reason came. `message` may quote what was sent: only look at it."""
    if is_signed_out(status, message):
        return signed_out()
    return NotFound(_NOT_THERE) if status is grpc.StatusCode.NOT_FOUND else status_verdict(status)


def _known(reason: str) -> str:
    """Only a name that the SDK has: whatever else stands there is not ours to pass on."""
    return reason if reason in error.ErrorReason.__members__ else "UNKNOWN"


def _column(field: str, reason: str) -> str:
    """Our name of the column that the end of a field's path is about."""
    for name in reversed(re.findall(r"[a-z_]+", field)):
        if name in _COLUMNS:
            return _COLUMNS[name]
    return "mobile_ad_id" if reason == "INVALID_MOBILE_ID_FORMAT" else ""
