"""What both of Google's APIs have alike: the channel, the sign-in, and what a call's failure means
where Google gave no reason of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError, TransportError

from services.runtime.verdicts import Fatal, Retryable, Verdict

CHANNEL_OPTIONS = (
    ("grpc.max_metadata_size", 16 * 1024 * 1024),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Left to itself a channel waits up to two minutes before it tries a lost server again.
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Some NATs forget a quiet connection after four minutes and drop what is then sent.
    ("grpc.client_idle_timeout_ms", 180_000),
)
_WORTH_A_RETRY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)


@contextmanager
def verdicts(verdict_of: Callable[[Exception], Verdict]) -> Iterator[None]:
    """Whatever a call of the SDK raises becomes a verdict."""
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, grpc.RpcError) as exc:
        raise verdict_of(exc) from None


def sign_in_verdict(exc: GoogleAuthError) -> Verdict:
    if exc.retryable or isinstance(exc, TransportError):
        return Retryable("Google's sign-in service did not answer.")
    return signed_out()


def signed_out() -> Fatal:
    return Fatal(
        "Google refused the sign-in: the refresh token or service account of the connection is "
        "no longer good."
    )


def is_signed_out(status: grpc.StatusCode | None, text: str) -> bool:
    """`text` may quote what was sent: only look at it."""
    return status is grpc.StatusCode.UNAUTHENTICATED or "invalid_grant" in text


def status_verdict(status: grpc.StatusCode | None) -> Verdict:
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Retryable("Google asked to slow down.", throttled=True)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Retryable("Google did not answer in time.")
    if status is grpc.StatusCode.UNAVAILABLE:
        return Retryable("Google could not be reached, or the connection was lost.")
    name = status.name if status else "no status"
    if status is None or status in _WORTH_A_RETRY:
        return Retryable(f"The call to Google failed: {name}.")
    return Fatal(f"Google refused the call: {name}.")


def secret(value: Any) -> str | None:
    return None if value is None else str(value.get_secret_value())


def no_key() -> Fatal:
    return Fatal("`json_key_file_path` is not the key of a service account.")


def unreadable_key(exc: OSError) -> Fatal:
    return Fatal(f"`json_key_file_path` cannot be read: {exc.strerror}.")
