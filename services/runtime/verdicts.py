"""What a platform's answer means for the work: the three names that retry policy is written in.

A connector turns every exception and every response into one of these or a result. The texts are
ours, free of tokens, payloads and row data: they are stored, logged and shown.
"""

from __future__ import annotations


class Verdict(Exception):  # noqa: N818 - a decision, not an error
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Retryable(Verdict):
    """Try again. `after`: the seconds the platform named. `throttled`: it asked to slow down, which
    burns no attempt.
    """

    def __init__(self, reason: str, after: float | None = None, *, throttled: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.throttled = throttled


class Fatal(Verdict):
    """No later attempt can succeed: the lane ends with this reason."""


class RowsRejected(Verdict):
    """The platform refused this chunk as a whole for what is in it: its rows are rejected."""
