"""How the Data Manager API says no: a gRPC status with the details that Google's APIs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.ads.datamanager_v1.types import error
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "datamanager.googleapis.com"
# Google's own front: what it refuses never reaches the API.
FRONT = "googleapis.com"

_STATUS = {
    "INTERNAL_ERROR": grpc.StatusCode.INTERNAL,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "NOT_ALLOWLISTED": grpc.StatusCode.PERMISSION_DENIED,
}


@dataclass(frozen=True)
class Violation:
    field: str
    reason: str
    description: str = ""


class Refused(Exception):  # noqa: N818
    """The call ends with `status`; `name` is what the control port counts it as."""

    def __init__(
        self, name: str, status: grpc.StatusCode, message: str, details: Sequence[Any] = ()
    ) -> None:
        super().__init__(name)
        self.name = name
        self.status = status
        self.message = message
        self.details = details

    def packed(self) -> status_pb2.Status:
        """What goes into the trailer."""
        packed = []
        for detail in self.details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        code = code_pb2.Code.Value(self.status.name)
        return status_pb2.Status(code=code, message=self.message, details=packed)


def refused(reason: str, message: str, **metadata: str) -> Refused:
    """Refuse a whole call for one of the API's own reasons; a KeyError is none of these."""
    status = _STATUS.get(error.ErrorReason[reason].name, grpc.StatusCode.INVALID_ARGUMENT)
    return Refused(reason, status, message, [_info(reason, DOMAIN, metadata)])


def invalid(violations: Sequence[Violation]) -> Refused:
    """Refuse a call for what is in it: nothing of it is taken, however little was wrong."""
    found = [
        error_details_pb2.BadRequest.FieldViolation(
            field=one.field,
            description=one.description,
            reason=error.ErrorReason[one.reason].name,
        )
        for one in violations
    ]
    return Refused(
        violations[0].reason,
        grpc.StatusCode.INVALID_ARGUMENT,
        "There was a problem with the request.",
        [
            _info("INVALID_ARGUMENT", DOMAIN, {}),
            error_details_pb2.BadRequest(field_violations=found),
        ],
    )


def front(reason: str, status: grpc.StatusCode, message: str) -> Refused:
    """Refuse a call before it reaches the API."""
    return Refused(reason, status, message, [_info(reason, FRONT, {})])


def too_many(quota: str, retry_seconds: float | None) -> Refused:
    """Refuse for a limit of the project, by the name that Google gives this limit."""
    no = refused("RESOURCE_EXHAUSTED", "Too many requests.", quota_limit=quota)
    if retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_seconds * 1e9))
        no.details = [*no.details, retry]
    return no


def _info(reason: str, domain: str, metadata: dict[str, str]) -> Any:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)
