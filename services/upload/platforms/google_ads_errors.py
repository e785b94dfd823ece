"""What Google Ads' refusals mean, in our own words: its messages may repeat what was sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.ads.googleads.v26.errors.types import errors
from google.auth.exceptions import GoogleAuthError

from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.upload.platforms.google_ads_request import COLUMN_OF
from services.upload.platforms.google_calls import (
    is_signed_out,
    sign_in_verdict,
    signed_out,
    status_verdict,
)

_FAILURE = "googleadsfailure-bin"
_Failure: Any = errors.GoogleAdsFailure.pb()

_FATAL = {
    "not_allowlisted_error.CUSTOMER_NOT_ALLOWLISTED_FOR_THIS_FEATURE": (
        "Google does not let this project upload Customer Match through the Google Ads API, as it "
        "does no project that began after March 2026: use the Data Manager API, a destination with "
        '`kind = "data_manager"`.'
    ),
    "offline_user_data_job_error.CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS": (
        "The Google Ads account has not accepted the customer data terms: accept them in "
        "Google Ads under Goals > Conversions > Settings."
    ),
    "user_data_error.OPERATIONS_FOR_CUSTOMER_MATCH_NOT_ALLOWED": (
        "The Google Ads account may not use Customer Match."
    ),
    "authorization_error.USER_PERMISSION_DENIED": (
        "The credentials may not use this Google Ads account: check the customer id, and "
        "whether `login_customer_id` must name its manager account."
    ),
    "offline_user_data_job_error.INVALID_USER_LIST_ID": (
        "The user list is not one of this Google Ads account's."
    ),
    "offline_user_data_job_error.INVALID_USER_LIST_TYPE": (
        "The user list is none that takes uploaded members."
    ),
    # About the job and not about the rows that Google names as their place.
    "offline_user_data_job_error.INVALID_OPERATION_ORDER": (
        "Google's job has members already, and can no longer begin by removing all."
    ),
    "offline_user_data_job_error.CONFLICTING_OPERATION": (
        "Google's job has operations of another kind already."
    ),
    "user_list_error.ADVERTISER_NOT_ON_ALLOWLIST_FOR_USING_UPLOADED_DATA": (
        "The Google Ads account may not use Customer Match: Google asks for a history of good "
        "payment and of keeping its policies."
    ),
}
_NAME_TAKEN = frozenset({"user_list_error.INVALID_NAME", "user_list_error.NAME_ALREADY_USED"})
_FATAL_FAMILIES = {
    "authentication_error": "Google refused the credentials",
    "authorization_error": "Google did not allow this",
    "not_allowlisted_error": "Google did not allow this",
    "header_error": "Google refused the connection's settings",
}
_TRANSIENT = frozenset(
    {
        "database_error.CONCURRENT_MODIFICATION",
        "internal_error.INTERNAL_ERROR",
        "internal_error.TRANSIENT_ERROR",
        "internal_error.DEADLINE_EXCEEDED",
        "internal_error.ERROR_CODE_NOT_PUBLISHED",
        "internal_error.UNKNOWN",
    }
)
_TOO_LARGE = frozenset(
    {
        "database_error.REQUEST_TOO_LARGE",
        "offline_user_data_job_error.TOO_MANY_USER_IDENTIFIERS",
        "request_error.TOO_MANY_MUTATE_OPERATIONS",
    }
)


class AlreadyStarted(Fatal):
    """The job runs or has run."""


class NameTaken(Fatal):
    """The account has a user list of that name, or Google will not have the name."""


def verdict_of(exc: Exception) -> Verdict:
    """The verdict on whatever a call of the SDK raised."""
    if isinstance(exc, GoogleAuthError):
        return sign_in_verdict(exc)
    call = getattr(exc, "response", None) or exc
    if found := _errors_of(call):
        return _worst(found)
    status = call.code() if isinstance(call, grpc.Call) else getattr(exc, "grpc_status_code", None)
    return _of_status(status, str(getattr(call, "details", str)() or ""))


def row_errors(status: Any) -> dict[int, tuple[str, str]]:
    """Column and reason for each refused operation of a partial failure, by its place in the
    request. The column is empty where it is the row.
    """
    reasons: dict[int, tuple[str, str]] = {}
    for error in _errors_in(status):
        verdict, place = _of_error(error), _operation(error)
        if place is None or not isinstance(verdict, RowsRejected):
            # Not the row's fault: the answer is as good as a refusal of them all.
            raise verdict
        reasons.setdefault(place, (_column(error), verdict.reason))
    if not reasons:
        raise Retryable("Google reported a partial failure without saying of what.")
    return reasons


def warnings(status: Any) -> set[str]:
    """What Google warns of while it takes the rows, each once."""
    return {_in_words(error) for error in _errors_in(status)}


def _errors_in(status: Any) -> list[Any]:
    """The errors that an answer carries."""
    return [
        error
        for detail in status.details
        if detail.type_url.endswith(".GoogleAdsFailure")
        for error in _Failure.FromString(detail.value).errors
    ]


def _errors_of(call: Any) -> list[Any]:
    # By the trailer alone: the SDK's ExceptionInterceptor leaves out quota and internal errors.
    trailers = call.trailing_metadata() if isinstance(call, grpc.Call) else None
    for key, value in trailers or ():
        if key.endswith(_FAILURE):
            return list(_Failure.FromString(value).errors)
    return []


def _worst(found: Iterable[Any]) -> Verdict:
    """Of several errors the one that leaves least hope: Fatal, throttled, transient, the rows."""
    verdicts = [_of_error(error) for error in found]
    throttled = [v for v in verdicts if isinstance(v, Retryable) and v.throttled]
    return next(
        (v for v in verdicts if isinstance(v, Fatal)),
        max(throttled, key=lambda v: v.after or 0)
        if throttled
        else next((v for v in verdicts if isinstance(v, Retryable)), verdicts[0]),
    )


def _of_error(error: Any) -> Verdict:
    name = _name(error)
    family, _, code = name.partition(".")
    if name in _FATAL:
        return Fatal(_FATAL[name])
    if name == "offline_user_data_job_error.JOB_ALREADY_STARTED":
        return AlreadyStarted("Google's job has been started already and takes no more members.")
    if name in _NAME_TAKEN:
        return NameTaken("Google says that the user list's name is taken, or is none it allows.")
    if family in _FATAL_FAMILIES:
        return Fatal(f"{_FATAL_FAMILIES[family]}: {code}.")
    if family == "quota_error" and code != "ACCESS_PROHIBITED":
        delay = error.details.quota_error_details.retry_delay
        seconds = delay.seconds + delay.nanos / 1e9
        return Retryable("Google asked to slow down.", seconds or None, throttled=True)
    if name in _TRANSIENT:
        return Retryable(f"Google had a passing fault: {code}.")
    if name in _TOO_LARGE or _operation(error) is not None:
        return RowsRejected("Google: " + _in_words(error))
    return Fatal(f"Google refused the request: {name}.")


def _of_status(status: grpc.StatusCode | None, details: str) -> Verdict:
    """Where no errors of Google's own came. `details` may quote what was sent: only look at it."""
    return signed_out() if is_signed_out(status, details) else status_verdict(status)


def _name(error: Any) -> str:
    """Such as `quota_error.RESOURCE_EXHAUSTED`; a code that the SDK does not know is its number."""
    for field, number in error.error_code.ListFields():
        value = field.enum_type.values_by_number.get(number)
        return f"{field.name}.{value.name if value else number}"
    return "unknown_error.UNKNOWN"


def _in_words(error: Any) -> str:
    return _name(error).partition(".")[2].replace("_", " ").lower()


def _column(error: Any) -> str:
    path = [element.field_name for element in error.location.field_path_elements]
    return next((COLUMN_OF[name] for name in reversed(path) if name in COLUMN_OF), "")


def _operation(error: Any) -> int | None:
    for element in error.location.field_path_elements:
        if element.field_name == "operations" and element.HasField("index"):
            return int(element.index)
    return None
