"""Makes a service's Celery app: the settings of design.md's promises in one place."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

from penstock.broker import make_app
from penstock.errors import LedgerSchemaError, LedgerUnreachableError, SettingsError
from penstock.ledger import Ledger
from services.runtime.logs import configure_logs, log
from services.runtime.settings import WorkerSettings
from services.runtime.tasks import CleanTask


def make_worker_app(
    service: str,
    settings_class: type[WorkerSettings],
    *,
    queues: Sequence[str],
    pool: str,
    **conf: Any,
) -> Celery:
    """The app that `celery -A services.<service>.app worker` runs; without `-Q` it takes from all
    of the service's queues.
    """
    try:
        settings = settings_class.read()
    except SettingsError as exc:
        # Celery would bury the sentence under a traceback of its import machinery.
        sys.exit(f"penstock {service}: {exc}")
    app = make_app(settings.broker_url, f"penstock.{service}")
    # Beside the configuration, not in it: workers show theirs to whoever asks, Flower for one.
    app.settings = settings
    app.Task = CleanTask
    app.conf.update(
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in queues],
        imports=(f"services.{service}.tasks",),
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        worker_pool=pool,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_send_sent_event=True,
        task_track_started=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=60,
        # With REMAP_SIGTERM=SIGQUIT, unfinished messages go back to the queue after so long.
        worker_soft_shutdown_timeout=20.0,
        worker_enable_soft_shutdown_on_idle=False,
        **conf,
    )

    # Connected by weakref=False: the functions live as long as the app.
    signals.setup_logging.connect(lambda **_: configure_logs(service), weak=False)
    signals.worker_init.connect(lambda **_: wait_for_ledger(settings), weak=False)
    return app


def wait_for_ledger(settings: WorkerSettings) -> None:
    """A worker without its ledger waits and says so; it does not crash and restart in a loop."""
    ledger = Ledger(settings.ledger_url, settings.policy(), connections=1)
    pause = 1.0
    try:
        while True:
            try:
                ledger.check()
            except (LedgerUnreachableError, LedgerSchemaError) as exc:
                log.warning("%s Trying again in %.0f s.", exc, pause)
                time.sleep(pause)
                pause = min(pause * 1.5, 15)
            else:
                return
    finally:
        ledger.close()
