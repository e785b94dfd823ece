"""How an app submits jobs and follows them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from penstock.broker import make_app
from penstock.connections import Connections
from penstock.contract import JobSpec
from penstock.dispatch import Dispatch
from penstock.erase import Erased, erase
from penstock.errors import BrokerUnreachableError, SettingsError
from penstock.follow import follow
from penstock.ledger import Ledger
from penstock.preview import preview
from penstock.settings import ClientSettings


class Client:
    """Submit, status, watch, wait, cancel, retry, erase, preview. Threads may share one."""

    def __init__(
        self,
        broker_url: str | None = None,
        ledger_url: str | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings: ClientSettings = settings or ClientSettings.read(
            broker_url=broker_url, ledger_url=ledger_url
        )
        self.app = make_app(self.settings.broker_url, "penstock-client")
        self._dispatch = Dispatch(self.app)
        self._ledger = Ledger(self.settings.ledger_url) if self.settings.ledger_url else None

    def submit(self, spec: JobSpec | dict[str, Any], job_id: str | None = None) -> str:
        """Start a job and return its id. The same id with the same spec again is the same job:
        submitting it twice starts it once.
        """
        if isinstance(spec, JobSpec):
            spec = spec.wire()
        spec = JobSpec.parse({**spec, "job_id": job_id} if job_id else spec)
        job_id = spec.job_id or uuid.uuid4().hex
        if self.settings.connections is not None:
            Connections.load(self.settings.connections).check(spec)
        if self._ledger is not None:
            # Written down first: a message that Redis loses is then sent again by the sweep.
            self._ledger.jobs.submit(job_id, spec)
        with _sending(None if self._ledger is None else _STARTS.format(job_id)):
            self._dispatch.open(job_id, {**spec.wire(), "job_id": job_id})
        return job_id

    def status(self, job_id: str) -> dict[str, Any]:
        return self.ledger.jobs.status(job_id)

    def recent(self, limit: int = 20) -> list[dict[str, Any]]:
        return self.ledger.jobs.recent(limit)

    def watch(
        self, job_id: str, every: float = 0.5, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """The status now and whenever it changes, until the job has ended. A ledger that is away
        for a moment is waited for.
        """
        return follow(self.ledger, job_id, every, timeout)

    def wait(self, job_id: str, timeout: float | None = None) -> dict[str, Any]:
        """The status at the end. Raises WaitTimeoutError."""
        status: dict[str, Any] = {}
        for status in self.watch(job_id, timeout=timeout):  # noqa: B007 - the last one counts
            pass
        return status

    def cancel(self, job_id: str) -> None:
        """Stop a job: what is on its way is counted, the rest is not sent, files are taken back."""
        todo = self.ledger.jobs.cancel(job_id)
        with _sending(_STOPS.format(job_id)):
            self._dispatch.follow(todo)

    def retry(self, job_id: str) -> str:
        """A new job for the lanes that failed; returns its id."""
        new_id, spec = self.ledger.jobs.retry(job_id)
        with _sending(_STARTS.format(new_id)):
            self._dispatch.open(new_id, {**spec.wire(), "job_id": new_id})
        return new_id

    def erase(self, emails: Iterable[str] = (), phones: Iterable[str] = ()) -> Erased:
        """Suppress people from now on, and remove them from every audience that was ever sent to:
        by jobs like any other, named in what is returned. Only hashes leave this process.
        """
        erased = erase(self.ledger, emails, phones)
        for job_id in erased.jobs:
            with _sending(_STARTS.format(job_id)):
                self._dispatch.reopen(job_id)
        return erased

    def preview(
        self, spec: JobSpec | dict[str, Any], rows: int = 10, timeout: float = 60
    ) -> dict[str, Any]:
        """The first rows as each lane would send them, hashed; nothing is sent or written down.
        Raises the source's sentence where it cannot be read, and WaitTimeoutError.
        """
        spec = spec if isinstance(spec, JobSpec) else JobSpec.parse(spec)
        if self.settings.connections is not None:
            Connections.load(self.settings.connections).check(spec)
        with _sending(None):
            return preview(self.app, self.settings.broker_url, spec, rows, timeout)

    def rejected(self, job_id: str, lane: str | None = None) -> Iterator[dict[str, Any]]:
        """Rows that lanes did not take whole: lane, row (its own key), field and reason."""
        return self.ledger.reports.rejections(job_id, lane)

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            raise SettingsError("PENSTOCK_LEDGER_URL is not set, and only the ledger knows jobs.")
        return self._ledger

    def close(self) -> None:
        self.app.close()
        if self._ledger is not None:
            self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_CHECK = "Check PENSTOCK_BROKER_URL and that its Redis is up."
_STARTS = (
    "Job {!r} is written down, but the broker does not answer: the job starts by itself when it "
    "does. " + _CHECK
)
_STOPS = (
    "Job {!r} is marked as cancelled, but the broker does not answer: the workers stop when it "
    "does. " + _CHECK
)


@contextmanager
def _sending(told: str | None) -> Iterator[None]:
    """What the ledger has is not lost where a message is: the sweep sends it again."""
    try:
        yield
    except (OperationalError, RedisError):
        raise BrokerUnreachableError(told) from None
