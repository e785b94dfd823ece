"""What every worker process has at hand: ledger, payloads, dispatch, connections."""

from __future__ import annotations

import os
import threading
import uuid
from functools import cached_property

from celery import Celery

from penstock.connections import Connections
from penstock.dispatch import Dispatch
from penstock.ledger import Ledger
from penstock.payloads import Payloads
from services.runtime.settings import WorkerSettings


class Worker:
    """One a process: made on first use, so that a process that forks shares no socket with its
    children.
    """

    def __init__(self, app: Celery, settings: WorkerSettings) -> None:
        key = settings.payload_key.get_secret_value() if settings.payload_key else None
        self.settings = settings
        self.ledger = Ledger(
            settings.ledger_url, settings.policy(), connections=settings.ledger_connections
        )
        self.payloads = Payloads(settings.payload_url or settings.broker_url, key)
        self.dispatch = Dispatch(app, self.payloads)

    @cached_property
    def connections(self) -> Connections:
        return Connections.load(self.settings.connections)


_lock = threading.Lock()
_workers: dict[int, Worker] = {}


def worker_of(app: Celery) -> Worker:
    pid = os.getpid()
    with _lock:
        if pid not in _workers:
            _workers.clear()  # a parent's; its sockets are not ours to close
            _workers[pid] = Worker(app, app.settings)
        return _workers[pid]


def holder() -> str:
    """A name for one attempt at one piece of work, by which its lease is told from others'."""
    return uuid.uuid4().hex
