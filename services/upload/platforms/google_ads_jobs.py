"""Google's jobs of one lane: which there are, in what order they run, and what came of them.

A lane has one OfflineUserDataJob for each action and consent, because Google takes a job's consent
for all of its members and lets no job both add and remove. Nothing that is sent to a job takes
effect before the job runs, so the list serves unchanged while a lane uploads. The order of the
runs, each behind the end of the one before:

1. Removals. Google removes a person by any of its identifiers: were they removed after the adds of
   a mirror, somebody whose phone changed and whose e-mail stayed would go with the old row.
2. Adds; or in a replace the one job that begins by removing all and then adds.
3. In a replace the jobs of the other consents. Between 2 and 3 the list lacks their members; with
   one consent for all there is no such moment.

A job that fails keeps those behind it from running.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.contract import LaneOutcome
from services.runtime.closing import Wait
from services.runtime.verdicts import Retryable
from services.upload.platform import Action, Checked, LaneEnd
from services.upload.platforms.google_ads_api import UNSET, GoogleAdsApi, quoted, words
from services.upload.platforms.google_ads_errors import AlreadyStarted

#: Google says that a job takes up to 24 hours.
LONGEST_RUN_SECONDS = 48 * 3600
STATUSES = ("UNSPECIFIED", "GRANTED", "DENIED")

_ENDED = ("SUCCESS", "FAILED")
_JOB = (
    "SELECT offline_user_data_job.status, offline_user_data_job.failure_reason, "
    "offline_user_data_job.operation_metadata.match_rate_range FROM offline_user_data_job"
)


def label(action: Action, consent: tuple[int, int]) -> str:
    """What tells a lane's jobs apart: `add`, or `add 4` where a consent is given."""
    code = 3 * consent[0] + consent[1]
    return f"{action} {code}" if code else action


# Keys of the memo.
def job_key(label: str) -> str:
    return f"job {label}"


def filled_key(label: str) -> str:
    """There once the job has a member: one without any is not run."""
    return f"filled {label}"


def warned_key(label: str) -> str:
    return f"warned {label}"


#: The job of a replace that begins by removing all.
CLEARING = "clearing"


@dataclass(frozen=True, slots=True)
class _Job:
    label: str
    name: str
    warnings: tuple[str, ...]

    def title(self) -> str:
        action, _, code = self.label.partition(" ")
        if not code:
            return action
        purposes = zip(("ad_user_data", "ad_personalization"), divmod(int(code), 3), strict=True)
        return f"{action}, " + ", ".join(f"{p} {STATUSES[c].lower()}" for p, c in purposes if c)


class Closing:
    """Brings the jobs of a lane to their end, one look at a time."""

    def __init__(
        self, api: GoogleAdsApi, customer_id: str, memo: Mapping[str, Any], poll_seconds: float
    ) -> None:
        self._api = api
        self._customer_id = customer_id
        self._memo = memo
        self._poll_seconds = poll_seconds
        self._stages = list(_stages(memo))
        self._answers: dict[str, Any] = {}

    @property
    def empty(self) -> bool:
        return not self._stages

    def go_on(self, end: LaneEnd) -> LaneOutcome | Wait | Checked:
        if end.error is not None:
            # A job that is not run changes nothing: a part of a list is not what was asked for.
            return LaneOutcome(lost_to="failed", details=self._details())
        if end.cancelled and not any(self._status(job) != "PENDING" for job in self._jobs()):
            return LaneOutcome(lost_to="skipped", details=self._details())
        # A cancel that came after a run stops nothing: half a change is not what was asked for.
        for number, stage in enumerate(self._stages):
            if (still := self._bring_to_end(number, stage)) is not None:
                return still
            if any(self._status(job) == "FAILED" for job in stage):
                break
        return self._outcome()

    def _bring_to_end(self, number: int, stage: list[_Job]) -> LaneOutcome | Wait | Checked | None:
        running = [job for job in stage if self._status(job) not in _ENDED]
        if not running:
            return None
        for job in running:
            if self._status(job) == "PENDING":
                self._run(job)
        # In the memo, because Google does not tell when a job was started.
        key = f"running since {number}"
        since = self._memo.get(key)
        if since is None:
            return Checked({}, keep={key: int(time.time())})
        if time.time() - since < LONGEST_RUN_SECONDS:
            return Wait(self._poll_seconds)
        hours = LONGEST_RUN_SECONDS // 3600
        return LaneOutcome(
            error=f"Google has not finished its job after {hours} hours; it may still do so.",
            lost_to="failed",
            details=self._details(),
        )

    def _outcome(self) -> LaneOutcome:
        failed = [job for job in self._jobs() if self._status(job) == "FAILED"]
        if not failed:
            return LaneOutcome(details=self._details())
        told = "; ".join(
            (f"{job.title()}: " if self._several else "")
            + _findings(self._answers[job.name]).get("failure_reason", "it gave no reason")
            for job in failed
        )
        error = f"Google's job failed: {told}."
        if self._several:
            jobs = list(self._jobs())
            done = sum(self._status(job) == "SUCCESS" for job in jobs)
            error = (
                f"Of Google's {len(jobs)} jobs {done} succeeded and {len(failed)} failed: {told}."
            )
            if done and CLEARING in self._memo:
                error += " The list now has the members of those that succeeded alone."
        # What each job had of the accepted members is not known: none is vouched for, and a retry
        # sends them all again, which Google takes as it took them the first time.
        return LaneOutcome(error=error, lost_to="failed", details=self._details())

    @property
    def _several(self) -> bool:
        return sum(map(len, self._stages)) > 1

    def _jobs(self) -> Iterator[_Job]:
        return (job for stage in self._stages for job in stage)

    def _details(self) -> dict[str, Any]:
        told = [self._told(job) for job in self._jobs()]
        rest: dict[str, Any] = {"jobs": told} if self._several else told[0]
        return {"list": self._memo["list"], **rest}

    def _told(self, job: _Job) -> dict[str, Any]:
        said: dict[str, Any] = {"job": job.name}
        if self._several:
            said["does"] = job.title()
        if (answer := self._answers.get(job.name)) is not None:
            if self._several:
                said["status"] = words(answer.status.name)
            said |= _findings(answer)
        if job.warnings:
            said["warnings"] = list(job.warnings)
        return said

    def _status(self, job: _Job) -> str:
        if job.name not in self._answers:
            rows = self._api.search(
                self._customer_id,
                f"{_JOB} WHERE offline_user_data_job.resource_name = {quoted(job.name)}",
            )
            if not rows:
                raise Retryable(f"Google does not find the job {job.name}.")
            self._answers[job.name] = rows[0].offline_user_data_job
        return str(self._answers[job.name].status.name)

    def _run(self, job: _Job) -> None:
        try:
            self._api.run_job(job.name)
        except AlreadyStarted:
            # A run whose answer was lost, or a status that was behind.
            return


def _stages(memo: Mapping[str, Any]) -> Iterator[list[_Job]]:
    """The jobs that have a member, in the order of the module's docstring."""
    jobs = [
        _Job(name.removeprefix("job "), value, tuple(memo.get(warned_key(name[4:]), ())))
        for name, value in sorted(memo.items())
        if name.startswith("job ")
    ]
    filled = [job for job in jobs if memo.get(filled_key(job.label))]
    clearing = [job for job in jobs if filled and job.name == memo.get(CLEARING)]
    removing = [job for job in filled if job.label.startswith("remove")]
    adding = [job for job in filled if job not in (*clearing, *removing)]
    yield from (stage for stage in (removing, clearing, adding) if stage)


def _findings(job: Any) -> dict[str, str]:
    found = {}
    if (rate := job.operation_metadata.match_rate_range.name) not in UNSET:
        found["match_rate_range"] = words(rate.removeprefix("MATCH_RANGE_")) + " %"
    if (reason := job.failure_reason.name) not in UNSET:
        # A job can succeed and still have one.
        found["failure_reason"] = words(reason)
    return found
