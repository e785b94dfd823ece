"""What a planned fault does to one gRPC call."""

from __future__ import annotations

import grpc

from sandbox.faults import Fault
from sandbox.google_ads.failures import Refused, quota_refusal, refused
from sandbox.grpc_door import GrpcMishap

_REFUSALS = {
    "internal": ("internal_error.INTERNAL_ERROR", "An internal error occurred."),
    "transient": ("internal_error.TRANSIENT_ERROR", "A transient error occurred. Retry."),
    "deadline": ("internal_error.DEADLINE_EXCEEDED", "The request took too long."),
    "unauthenticated": ("authentication_error.OAUTH_TOKEN_INVALID", "The token is not valid."),
    "permission": (
        "authorization_error.USER_PERMISSION_DENIED",
        "The user may not access this customer.",
    ),
    "not_allowlisted": (
        "not_allowlisted_error.CUSTOMER_NOT_ALLOWLISTED_FOR_THIS_FEATURE",
        "The customer is not on the allow-list for this feature.",
    ),
    "terms": (
        "offline_user_data_job_error.CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS",
        "The customer has not accepted the customer data terms.",
    ),
    "concurrent": (
        "database_error.CONCURRENT_MODIFICATION",
        "Another request is changing this job. Retry the request.",
    ),
}
FAULT_NAMES = (
    *_REFUSALS,
    "resource_exhausted",
    "unavailable",
    "slow",
    "hang",
    "drop_after",
    "job_failed",
    "partial",
    "warn",
)
DEFAULT_JOB_FAILURE = "INSUFFICIENT_TRANSACTIONS"
DEFAULT_PARTIAL_EVERY = 2
DEFAULT_WARNING = "INVALID_COUNTRY_CODE"


class Mishap(GrpcMishap):
    def _refuse(self, fault: Fault) -> None:
        if self._name == "unavailable":
            raise _unavailable()
        if self._name == "resource_exhausted":
            seconds = fault.data.get("retry_seconds")
            raise quota_refusal(None if seconds is None else float(seconds))
        if self._name in _REFUSALS:
            raise refused(*_REFUSALS[self._name])

    def after(self) -> None:
        """Lose the answer to work that is done, where that is the plan."""
        if self._name == "drop_after":
            raise _unavailable()

    @property
    def job_failure(self) -> str | None:
        if self._fault is None or self._name != "job_failed":
            return None
        return str(self._fault.data.get("failure_reason", DEFAULT_JOB_FAILURE))

    @property
    def partial_every(self) -> int | None:
        if self._fault is None or self._name != "partial":
            return None
        return int(self._fault.data.get("every", DEFAULT_PARTIAL_EVERY))

    @property
    def warning(self) -> str | None:
        """What to warn of at each operation, where the caller wants warnings."""
        if self._fault is None or self._name != "warn":
            return None
        return str(self._fault.data.get("error", DEFAULT_WARNING))

    def _client_gone(self) -> Refused:
        return Refused("client_gone", grpc.StatusCode.CANCELLED, "The client gave up.")


def _unavailable() -> Refused:
    return Refused("unavailable", grpc.StatusCode.UNAVAILABLE, "The connection was lost.")
