"""What a planned fault does to one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from sandbox.data_manager.refusals import Refused, front, refused, too_many
from sandbox.faults import Fault
from sandbox.grpc_door import GrpcMishap

# What Google's front or the API itself answers.
_REFUSALS = {
    "internal": lambda: refused("INTERNAL_ERROR", "An internal error has occurred."),
    "deadline": lambda: refused("DEADLINE_EXCEEDED", "The request took too long."),
    "permission": lambda: refused("PERMISSION_DENIED", "The user may not access this account."),
    "not_allowlisted": lambda: refused("NOT_ALLOWLISTED", "The account is not on the allow-list."),
    "terms": lambda: refused("TERMS_AND_CONDITIONS_NOT_SIGNED", "The terms are not accepted."),
    "unauthenticated": lambda: front(
        "ACCESS_TOKEN_EXPIRED", grpc.StatusCode.UNAUTHENTICATED, "Invalid credentials."
    ),
    "scope": lambda: front(
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        grpc.StatusCode.PERMISSION_DENIED,
        "Request had insufficient authentication scopes.",
    ),
    "disabled": lambda: front(
        "SERVICE_DISABLED", grpc.StatusCode.PERMISSION_DENIED, "The API has not been used before."
    ),
    "unavailable": lambda: _plain(grpc.StatusCode.UNAVAILABLE, "The service is unavailable."),
    # As a gRPC client is told of a cut line, and of a page where an answer should be.
    "reset": lambda: _plain(grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer"),
    "html": lambda: _plain(grpc.StatusCode.UNKNOWN, "Received http2 header with status: 502"),
}
FAULT_NAMES = (*_REFUSALS, "throttle", "slow", "hang", "drop_after", "partial", "failed")
DEFAULT_REASON = "PROCESSING_ERROR_REASON_INTERNAL_ERROR"


class Mishap(GrpcMishap):
    def _refuse(self, fault: Fault) -> None:
        if self._name == "throttle":
            seconds = fault.data.get("retry_seconds")
            window = "Day" if fault.data.get("day") else "Minute"
            raise too_many(
                f"IngestionMutateRequestsPer{window}PerProject",
                None if seconds is None else float(seconds),
            )
        if fault.name in _REFUSALS:
            raise _refusal(fault.name)

    def after(self) -> None:
        """Lose the answer to work that is done, where that is the plan."""
        if self._name == "drop_after":
            raise _plain(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def refuses(self, row: int) -> bool:
        """Whether processing is to refuse this row."""
        if self._name not in ("partial", "failed"):
            return False
        return self.fails or row % int(self._data.get("every", 2)) == 0

    @property
    def fails(self) -> bool:
        return self._name == "failed"

    @property
    def reason(self) -> str:
        return str(self._data.get("reason", DEFAULT_REASON))

    @property
    def counts(self) -> bool:
        """Whether the status will say how many rows were refused for what."""
        return bool(self._data.get("counts", True))

    @property
    def _data(self) -> Mapping[str, Any]:
        return self._fault.data if self._fault else {}

    def _client_gone(self) -> Refused:
        return _plain(grpc.StatusCode.CANCELLED, "The client gave up.")


def _refusal(name: str) -> Refused:
    return _REFUSALS[name]()


def _plain(status: grpc.StatusCode, message: str) -> Refused:
    return Refused(status.name.lower(), status, message)
