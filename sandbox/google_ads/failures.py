"""How Google Ads says no: its error messages, its failure in the trailer, its gRPC statuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.ads.googleads.v26.errors.types import errors
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2

FAILURE_TRAILER = "google.ads.googleads.v26.errors.googleadsfailure-bin"
FAILURE_TYPE_URL = "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure"
# A gRPC client that sets nothing accepts 8 KB of trailers; more would hide the failure from it.
ERRORS_IN_TRAILER = 20

# The SDK's proto-plus classes are for applications; a server wants what lies under them.
GoogleAdsFailure: Any = errors.GoogleAdsFailure.pb()
GoogleAdsError: Any = errors.GoogleAdsError.pb()
_CODES: dict[str, Any] = errors.ErrorCode.pb().DESCRIPTOR.fields_by_name

_STATUS_OF_FAMILY = {
    "authentication_error": grpc.StatusCode.UNAUTHENTICATED,
    "authorization_error": grpc.StatusCode.PERMISSION_DENIED,
    "not_allowlisted_error": grpc.StatusCode.PERMISSION_DENIED,
    "quota_error": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "internal_error": grpc.StatusCode.INTERNAL,
}
_STATUS_OF_ERROR = {
    "internal_error.TRANSIENT_ERROR": grpc.StatusCode.UNAVAILABLE,
    "internal_error.DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "mutate_error.RESOURCE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
}

PathElement = tuple[str, int | None]


class Refused(Exception):  # noqa: N818
    """The call ends with `status`; `failure` is None where even Google would send none."""

    def __init__(
        self, name: str, status: grpc.StatusCode, details: str, failure: Any | None = None
    ) -> None:
        super().__init__(name)
        self.name = name
        self.status = status
        self.details = details
        self.failure = failure


def refused(name: str, message: str, *path: PathElement) -> Refused:
    """Refuse a whole call for one error, named such as `database_error.REQUEST_TOO_LARGE`."""
    return refused_for([ads_error(name, message, path)], name)


def refused_for(found: Sequence[Any], name: str) -> Refused:
    """Refuse a whole call for all the errors found; `name`, the first one's, sets the status."""
    family = name.partition(".")[0]
    status = _STATUS_OF_ERROR.get(name) or _STATUS_OF_FAMILY.get(
        family, grpc.StatusCode.INVALID_ARGUMENT
    )
    failure = GoogleAdsFailure(errors=found[:ERRORS_IN_TRAILER])
    return Refused(name, status, found[0].message, failure)


def ads_error(
    name: str, message: str, path: Sequence[PathElement] = (), trigger: str | None = None
) -> Any:
    """Build one GoogleAdsError; a KeyError here is a name that v26 does not have."""
    family, _, code = name.partition(".")
    error = GoogleAdsError(message=message)
    number = _CODES[family].enum_type.values_by_name[code].number
    setattr(error.error_code, family, number)
    for field_name, index in path:
        element = error.location.field_path_elements.add(field_name=field_name)
        if index is not None:
            element.index = index
    if trigger is not None:
        error.trigger.string_value = trigger
    return error


def quota_refusal(retry_seconds: float | None) -> Refused:
    name = "quota_error.RESOURCE_EXHAUSTED"
    error = ads_error(name, "Too many requests.")
    if retry_seconds is not None:
        details = error.details.quota_error_details
        details.rate_scope = errors.QuotaErrorDetails.QuotaRateScope.ACCOUNT
        details.rate_name = "Requests per account"
        details.retry_delay.FromNanoseconds(round(retry_seconds * 1e9))
    return refused_for([error], name)


def status_with(found: Sequence[Any], request_id: str) -> status_pb2.Status:
    """Pack errors as `partial_failure_error` and `warning` carry them: inside a 200."""
    failure = GoogleAdsFailure(errors=found, request_id=request_id)
    packed = any_pb2.Any(type_url=FAILURE_TYPE_URL, value=failure.SerializeToString())
    return status_pb2.Status(
        code=code_pb2.INVALID_ARGUMENT,
        message=f"{len(found)} operations have errors; the details say which.",
        details=[packed],
    )
