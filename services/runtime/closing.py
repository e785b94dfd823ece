"""Brings a lane to its end: what every kind of lane does alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.contract import LaneOutcome, LaneRef
from penstock.ledger.closings import Closing
from services.runtime.backoff import seconds_to_wait
from services.runtime.heartbeat import Heartbeat
from services.runtime.logs import log
from services.runtime.settings import LaneSettings
from services.runtime.verdicts import Fatal, Retryable, RowsRejected, Verdict
from services.runtime.worker import Worker, holder


@dataclass(frozen=True, slots=True)
class Wait:
    """The platform is still at work: ask again in so many seconds."""

    seconds: float


def close_lane(
    worker: Worker,
    settings: LaneSettings,
    ref: LaneRef,
    bring_to_end: Callable[[Closing], LaneOutcome | Wait],
) -> dict[str, Any] | None:
    """The lane's outcome, or None where it is not at its end yet: the ledger or the sweep calls
    again. `bring_to_end` may raise verdicts.
    """
    closings = worker.ledger.closings
    closing = closings.claim(ref.job_id, ref.lane, holder())
    if not isinstance(closing, Closing):
        return closing
    try:
        if closing.tries >= settings.lane_tries:
            raise Fatal("Its end could not be reached.")  # noqa: TRY301
        with Heartbeat(lambda: closings.renew(closing), settings.lease_seconds):
            found = bring_to_end(closing)
    except Retryable as later:
        if later.throttled or closing.tries + 1 < settings.lane_tries:
            log.warning("job %s, lane %s: %s", ref.job_id, ref.lane, later.reason)
            seconds = seconds_to_wait(later, closing.tries, settings)
            closings.snooze(closing, seconds, attempt=not later.throttled, why=later.reason)
            return None
        found = _failed(closing, later)
    except (Fatal, RowsRejected) as no:
        found = _failed(closing, no)
    if isinstance(found, Wait):
        closings.snooze(closing, found.seconds, attempt=False)
        return None
    return closings.close(closing, found)


def _failed(closing: Closing, verdict: Verdict) -> LaneOutcome:
    """What was accepted cannot be vouched for: it counts as failed, and a retry sends it again."""
    # Where it was sent to stays known.
    details: dict[str, Any] = {
        name: closing.memo[name] for name in ("audience", "list") if name in closing.memo
    }
    if closing.memo:
        details["left_behind"] = "what was begun there may still be there, unfinished"
    return LaneOutcome(error=closing.error or verdict.reason, lost_to="failed", details=details)
