"""What LinkedIn says when it refuses: the statuses and codes a client has to tell apart."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """A refusal with its place on the wire. The text never holds what a caller sent as data."""

    def __init__(
        self, status: HTTPStatus, code: str, message: str, *, service_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.service_code = service_code

    @property
    def label(self) -> str:
        """Name it in the counts of the control port."""
        return f"{self.status.value}/{self.code}"

    def body(self) -> dict[str, Any]:
        body = {"status": self.status.value, "code": self.code, "message": str(self)}
        return (
            body if self.service_code is None else {**body, "serviceErrorCode": self.service_code}
        )


def bad_request(message: str, code: str = "ILLEGAL_ARGUMENT") -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, code, message)


def bad_token() -> ApiError:
    return ApiError(
        HTTPStatus.UNAUTHORIZED,
        "REVOKED_ACCESS_TOKEN",
        "The token used in the request has been revoked by the user",
        service_code=65601,
    )


def no_token() -> ApiError:
    return ApiError(
        HTTPStatus.UNAUTHORIZED,
        "EMPTY_ACCESS_TOKEN",
        "Empty oauth2 access token",
        service_code=65604,
    )


def not_allowed() -> ApiError:
    return ApiError(
        HTTPStatus.FORBIDDEN,
        "ACCESS_DENIED",
        "Not enough permissions to access this resource",
        service_code=100,
    )


def not_found(what: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"Could not find {what}")


def no_such_version() -> ApiError:
    return ApiError(
        HTTPStatus.UPGRADE_REQUIRED, "NONEXISTENT_VERSION", "The requested version is not active"
    )


def too_many_requests() -> ApiError:
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "TOO_MANY_REQUESTS",
        "Resource level throttle limit for calls to this resource is reached",
        service_code=101,
    )


def too_many_segments() -> ApiError:
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "SEGMENT_LIMIT_EXCEEDED",
        "The ad account has reached the maximum number of DMP segments",
    )
