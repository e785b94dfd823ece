"""What the Graph API says when it refuses: the codes a client has to tell apart."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Any


class GraphError(Exception):
    """A refusal with its place on the wire. The text never holds what a caller sent as data."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        subcode: int | None = None,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        kind: str = "OAuthException",
        transient: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.subcode = subcode
        self.status = status
        self.kind = kind
        self.transient = transient

    @property
    def label(self) -> str:
        """Name it in the counts of the control port."""
        return str(self.code) if self.subcode is None else f"{self.code}/{self.subcode}"

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"message": str(self), "type": self.kind, "code": self.code}
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.transient:
            error["is_transient"] = True
        error["fbtrace_id"] = secrets.token_urlsafe(8)
        return {"error": error}


def bad_parameter(message: str) -> GraphError:
    return GraphError(100, f"(#100) {message}")


def no_such_object(verb: str, name: str) -> GraphError:
    return GraphError(
        100,
        f"Unsupported {verb.lower()} request. Object with ID '{name}' does not exist, cannot be "
        "loaded due to missing permissions, or does not support this operation.",
        subcode=33,
        kind="GraphMethodException",
    )


def no_such_path() -> GraphError:
    return GraphError(2500, "Unknown path components")


def no_token() -> GraphError:
    return GraphError(104, "An access token is required to request this resource.")


def bad_token() -> GraphError:
    return GraphError(190, "Error validating access token: the session is not valid.")


def bad_proof() -> GraphError:
    return GraphError(
        100,
        "Invalid appsecret_proof provided in the API argument",
        kind="GraphMethodException",
    )


def missing(*names: str) -> GraphError:
    return bad_parameter(f"Missing parameter(s): {', '.join(names)}")


def throttled() -> GraphError:
    return GraphError(
        80003,
        "(#80003) There have been too many calls to this ad account. Wait a bit and try again.",
        transient=True,
    )


def cannot_update(reason: str, subcode: int | None = None) -> GraphError:
    return GraphError(
        2650, f"(#2650) Failed to update the custom audience: {reason}", subcode=subcode
    )


def too_large() -> GraphError:
    return cannot_update("an audience of this size cannot be replaced", 1870144)


def busy() -> GraphError:
    return cannot_update("it is in the process of being updated", 1870145)


def no_first_batch() -> GraphError:
    return cannot_update("the first batch_seq was not detected", 1870147)


def not_whole() -> GraphError:
    return cannot_update("something went wrong, and it was not fully updated", 1870148)


def timed_out() -> GraphError:
    return cannot_update("the replace session has timed out", 1870158)


def over() -> GraphError:
    return cannot_update("the replace session is finished", 1870159)


def blocked() -> GraphError:
    return GraphError(100, "Invalid parameter", subcode=1713230)
