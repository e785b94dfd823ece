"""How a delivery waits: a short wait is slept through, for a long one the batch is given back."""

from __future__ import annotations

import time
from dataclasses import asdict

from penstock.ledger.deliveries import Claim
from services.runtime.backoff import seconds_to_wait
from services.runtime.heartbeat import Heartbeat
from services.runtime.logs import log
from services.runtime.verdicts import Fatal, Retryable
from services.runtime.worker import Worker
from services.upload.pacing import pacing_of
from services.upload.platform import Platform, Sent
from services.upload.progress import Progress
from services.upload.settings import UploadSettings


class GivenBack(Exception):  # noqa: N818 - how a delivery leaves the middle of its work
    """The batch was given back, or taken by another."""


class Patience:
    def __init__(
        self,
        worker: Worker,
        settings: UploadSettings,
        claim: Claim,
        progress: Progress,
        beat: Heartbeat,
    ) -> None:
        self._ledger = worker.ledger.deliveries
        self._settings = settings
        self._claim = claim
        self._progress = progress
        self._beat = beat
        self._tries = claim.tries
        self._pacing = pacing_of(settings)

    def turn(self, platform: Platform) -> None:
        """Wait until the account's limits have room for one more request."""
        while True:
            if self._beat.lost:
                raise GivenBack
            seconds = self._pacing.admit(platform.account, self._claim.batch.job_id, platform.pace)
            if not seconds:
                return
            self._rest(seconds, "The account's limits have no room for now.", throttled=True)

    def answered(self, platform: Platform, sent: Sent) -> None:
        self._tries = 0
        if sent.usage is not None:
            self._pacing.told(platform.account, sent.usage)

    def refused(self, platform: Platform, later: Retryable) -> None:
        if later.throttled:
            # Whoever shares the account need not be told by the platform too.
            self._pacing.hold(platform.account, seconds_to_wait(later, 0, self._settings))
        self.wait(later)

    def wait(self, later: Retryable) -> None:
        """Being told to slow down burns no attempt; when all are used up, the lane ends."""
        seconds, most = (
            seconds_to_wait(later, self._tries, self._settings),
            self._settings.lane_tries,
        )
        if not later.throttled:
            self._tries += 1
            if self._tries >= most:
                raise Fatal(f"{later.reason} (tried {self._tries} times)")
        batch = self._claim.batch
        log.warning(
            "job %s, lane %s, batch %d: %s Again in %.1f s.",
            batch.job_id, batch.lane, batch.seq, later.reason, seconds,
        )  # fmt: skip
        attempts = "" if later.throttled else f" (attempt {self._tries} of {most})"
        self._rest(seconds, later.reason + attempts, throttled=later.throttled)

    def _rest(self, seconds: float, why: str, *, throttled: bool) -> None:
        if seconds <= self._settings.patience_seconds and not self._beat.lost:
            time.sleep(seconds)
            return
        self._ledger.snooze(
            self._claim,
            seconds,
            asdict(self._progress),
            tries=self._tries,
            throttled=throttled,
            why=why,
        )
        raise GivenBack
