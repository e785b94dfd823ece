"""The faults by name, as Meta shows them: refusals, pages that are no JSON, and worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sandbox.faults import Fault
from sandbox.meta.errors import (
    GraphError,
    bad_parameter,
    bad_token,
    blocked,
    busy,
    not_whole,
    over,
    throttled,
    timed_out,
)

REFUSALS: Mapping[str, Callable[[], GraphError]] = {
    "throttle": throttled,
    "rate_429": lambda: GraphError(
        4,
        "(#4) Application request limit reached",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        transient=True,
    ),
    "transient": lambda: GraphError(
        2,
        "An unexpected error has occurred. Please retry your request later.",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        transient=True,
    ),
    "http_500": lambda: GraphError(
        1, "An unknown error occurred", status=HTTPStatus.INTERNAL_SERVER_ERROR
    ),
    "error_in_200": lambda: GraphError(1, "An unknown error occurred", status=HTTPStatus.OK),
    "token": bad_token,
    "permission": lambda: GraphError(200, "(#200) Permissions error", status=HTTPStatus.FORBIDDEN),
    "terms": lambda: GraphError(
        200,
        "(#200) The custom audience terms have not been accepted for this ad account",
        subcode=1870090,
        status=HTTPStatus.FORBIDDEN,
    ),
    "bad_parameter": lambda: bad_parameter("Invalid parameter"),
    "blocked": blocked,
    "busy": busy,
    "not_whole": not_whole,
    "timed_out": timed_out,
    "over": over,
}

# What a machine in front of the API answers; the SDK calls each of them a success.
PAGES: Mapping[str, HTTPStatus] = {
    "rate_429_html": HTTPStatus.TOO_MANY_REQUESTS,
    "html_502": HTTPStatus.BAD_GATEWAY,
    "html_414": HTTPStatus.REQUEST_URI_TOO_LONG,
}

# `slow` is its delay, `success_200` gives no figures; the rest is for the server, which holds the
# connection.
OTHERS = (
    "slow",
    "hang",
    "reset",
    "drop_after",
    "empty_200",
    "success_200",
    "invalid_entries",
    "bad_row",
)

# Those of them with which the call is done after all.
AFTER_ALL = frozenset({"slow", "drop_after", "success_200", "invalid_entries", "bad_row"})

NAMES = (*REFUSALS, *PAGES, *OTHERS)


@dataclass(frozen=True)
class Mischief:
    """What a fault does to the rows of a request that is otherwise served."""

    #: The number n: each n-th row is called an invalid entry, whatever it holds.
    spoil_every: int | None = None
    #: The request is refused whole where a row has this value.
    bad_value: str | None = None

    @classmethod
    def of(cls, fault: Fault | None) -> Mischief:
        if fault is not None and fault.name == "invalid_entries":
            return cls(spoil_every=max(1, int(fault.data.get("every", 1))))
        if fault is not None and fault.name == "bad_row":
            return cls(bad_value=str(fault.data["value"]))
        return cls()


NO_MISCHIEF = Mischief()


def minutes_to_wait(name: str, data: Mapping[str, Any]) -> int | None:
    """Give what the usage header says to a throttled call, None where it stays as it is."""
    return int(data.get("minutes", 1)) if name == "throttle" else None


def page(status: HTTPStatus) -> str:
    return f"<!DOCTYPE html><html><title>{status.phrase}</title><h1>{status.phrase}</h1></html>"
