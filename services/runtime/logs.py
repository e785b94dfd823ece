"""Logs of a worker: one line an event, and no text of an exception that we did not write."""

from __future__ import annotations

import logging
import sys
import traceback

from penstock.errors import PenstockError
from services.runtime.verdicts import Verdict

log = logging.getLogger("penstock")


class CleanFormatter(logging.Formatter):
    """Keeps where an exception came from and drops its text: drivers and SDKs quote rows, tokens
    and payloads in theirs.
    """

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        exc = ei[1] if isinstance(ei, tuple) else None
        return clean_text(exc) if isinstance(exc, BaseException) else ""


_QUOTES_BODY = (
    "Received unregistered task",
    "Received invalid task message",
    "Received and deleted unknown message",
    "Can't decode message body",
)


class BodyFilter(logging.Filter):
    """Celery logs the body of a message that it cannot use: a spec, with its parameters."""

    def filter(self, record: logging.LogRecord) -> bool:
        if any(sign in str(record.msg) for sign in _QUOTES_BODY):
            record.msg = "A message was thrown away: no task here has its name, or it is not valid."
            record.args = ()
            record.exc_info = None
        return True


def clean_text(exc: BaseException) -> str:
    """What may be said of any exception: ours in their own words, others by type and place."""
    if isinstance(exc, PenstockError | Verdict):
        return str(exc)
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [f for f in frames if "/services/" in f.filename or "/penstock/" in f.filename]
    place = (ours or frames)[-1:] or []
    where = "".join(f" at {_short(f.filename)}:{f.lineno}" for f in place)
    return f"{type(exc).__module__}.{type(exc).__qualname__}{where}"


def _short(path: str) -> str:
    for root in ("/services/", "/penstock/"):
        if root in path:
            return root.strip("/") + "/" + path.split(root, 1)[1]
    return path.rsplit("/", 1)[-1]


def configure_logs(service: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        CleanFormatter(f"%(asctime)s %(levelname)s {service} %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("celery").setLevel(logging.INFO)
    # Beat tells each time that the sweep is due.
    logging.getLogger("celery.beat").setLevel(logging.WARNING)
    logging.getLogger("celery.worker.consumer.consumer").addFilter(BodyFilter())
    # A line for every message twice over; Flower and the ledger tell more.
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    # Botocore, urllib3 and the platforms' SDKs log requests with what is in them.
    for name in ("botocore", "boto3", "urllib3", "google", "grpc", "facebook_business", "stripe"):
        logging.getLogger(name).setLevel(logging.ERROR)
