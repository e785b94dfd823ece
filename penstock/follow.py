"""A job's status now and whenever it changes; needs the ledger and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from penstock.contract import JOB_ENDS
from penstock.errors import LedgerUnreachableError, WaitTimeoutError
from penstock.ledger import Ledger


def follow(
    ledger: Ledger, job_id: str, every: float = 0.5, timeout: float | None = None
) -> Iterator[dict[str, Any]]:
    """Until the job has ended. A ledger that is away for a moment is waited for."""
    until = None if timeout is None else time.monotonic() + timeout
    last: dict[str, Any] = {}
    while True:
        try:
            status = ledger.jobs.status(job_id)
        except LedgerUnreachableError:
            if not last:
                raise
            status = last
        if {**status, "seconds": 0} != {**last, "seconds": 0}:
            last = status
            yield status
        if status["state"] in JOB_ENDS:
            return
        if until is not None and time.monotonic() > until:
            raise WaitTimeoutError
        time.sleep(every)
