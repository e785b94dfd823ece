"""The task that all of Penstock's are: nothing of what it was given or met gets out through it."""

from __future__ import annotations

import re
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request

from penstock.errors import PenstockError
from services.runtime.logs import clean_text, log

_IDS = re.compile(r"[A-Za-z0-9._-]{1,100}")


class CleanRequest(Request):
    """Shows Flower the ids that a message carries and nothing else of it, whatever representation
    its sender gave: another app's would be the whole spec, its parameters included.
    """

    @property
    def argsrepr(self) -> str:
        wire = self._args[-1] if self._args else None
        if not isinstance(wire, dict):
            return "(...)"
        ids = [
            str(wire[key]) for key in ("job_id", "lane", "seq") if wire.get(key) not in (None, "")
        ]
        shown = ids and all(map(_IDS.fullmatch, ids))
        return f"({', '.join(ids)})" if shown else "(...)"

    @property
    def kwargsrepr(self) -> str:
        return "{}"

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's own signature
        """What `inspect active` and its like tell, and Flower's worker pages with them."""
        told: dict[str, Any] = super().info(safe=True)
        return told | {"args": self.argsrepr, "kwargs": self.kwargsrepr}


class CleanTask(Task):
    """Arguments and results are not represented anywhere, and an exception that leaves a task is
    told by type and place: Celery stores, logs and shows Flower its text otherwise.
    """

    abstract = True
    Request = CleanRequest
    argsrepr_maxsize = 0
    resultrepr_maxsize = 0
    typing = False
    trail = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except (Ignore, Reject, Retry):
            raise
        except Exception as exc:  # noqa: BLE001 - the ledger and the sweep bring the work back
            said = clean_text(exc)
            log.error("%s stopped: %s", self.name, said)
        # Outside the except clause, so that the original is not the context of the clean one.
        raise TaskStoppedError(said) from None


class TaskStoppedError(PenstockError):
    """A task stopped at an error; the sweep sends its work again."""
