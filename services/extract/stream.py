"""Reads a source into batches: read → hash → put → record → publish.

While a batch is being hashed, put, recorded and published, the next is read: one commit in flight,
in order, drained before success, failure or cancel is reported.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from penstock.ledger import Next
from penstock.ledger.stream import Fenced, StreamLease
from services.extract.settings import ExtractSettings
from services.extract.source import Block, Reader, Source, SourceBroke
from services.extract.views import Views
from services.runtime.heartbeat import Heartbeat
from services.runtime.worker import Worker


class Stream:
    """One lease's worth of reading."""

    def __init__(
        self, worker: Worker, source: Source, lease: StreamLease, settings: ExtractSettings
    ) -> None:
        self._worker = worker
        self._source = source
        self._lease = lease
        self._settings = settings
        self._ledger = worker.ledger.stream
        self._window = lease.spec.window
        #: Where it may stop and another go on.
        self._resumable = lease.spec.source.key is not None

    def run(self) -> Next | None:
        """Read until the end, the window's, or the slice's. What is left to be sent is returned;
        None where a settle will wake the job. Raises Fenced, SourceBroke, SourceRefused.
        """
        lease = self._lease
        with Heartbeat(
            lambda: self._ledger.renew(lease), self._settings.lease_seconds, self._source.interrupt
        ) as beat:
            try:
                return self._opened(beat)
            except SourceBroke:
                if beat.lost:
                    raise Fenced from None  # it was interrupted for that
                raise

    def _opened(self, beat: Heartbeat) -> Next | None:
        lease = self._lease
        found = self._source.describe(total=not lease.has_total)
        views = Views(lease.spec, lease.views, found.columns)
        self._ledger.describe(lease, list(found.columns), found.total, found.total_is_exact)
        with (
            self._source.open(views.columns, lease.position) as reader,
            ThreadPoolExecutor(1, "penstock-record") as recorder,
        ):
            return self._read(reader, views, recorder, beat)

    def _read(
        self, reader: Reader, views: Views, recorder: ThreadPoolExecutor, beat: Heartbeat
    ) -> Next | None:
        lease = self._lease
        until = time.monotonic() + self._settings.slice_seconds
        in_flight = self._ledger.in_flight(lease)
        pending: Future[int] | None = None
        seq = lease.next_seq
        while (block := reader.read(lease.spec.batch_rows)) is not None:
            if pending is not None:
                in_flight = pending.result()
            if beat.lost:
                raise Fenced
            if in_flight >= self._window and not self._window_opens(beat):
                return None
            pending = recorder.submit(self._record, seq, block, views)
            seq += 1
            if self._resumable and time.monotonic() > until:
                pending.result()
                return self._ledger.pause(lease)
        if pending is not None:
            pending.result()
        return self._ledger.end(lease)

    def _record(self, seq: int, block: Block, views: Views) -> int:
        lease = self._lease
        payloads = views.make(block)
        # Put before it is recorded: what the ledger names must be there. A kill between the two
        # leaves a payload under an epoch that nobody reads; the job's end clears it.
        size = self._worker.payloads.put(lease.job_id, lease.epoch, seq, payloads)
        todo, in_flight = self._ledger.record(lease, seq, block.rows, block.last_key, size)
        self._worker.dispatch.follow(todo)
        return in_flight

    def _window_opens(self, beat: Heartbeat) -> bool:
        """Wait a little for the window, then park; a source that cannot resume waits on. False
        where the stream is parked.
        """
        until = time.monotonic() + self._settings.linger_seconds
        while self._ledger.in_flight(self._lease) >= self._window:
            if beat.lost:
                raise Fenced
            if self._resumable and time.monotonic() > until:
                return not self._ledger.park(self._lease)
            time.sleep(0.2)
        return True
