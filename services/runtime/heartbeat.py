"""Keeps a lease alive while its holder works, and tells the holder when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from penstock.errors import LedgerUnreachableError
from services.runtime.logs import clean_text, log


class Heartbeat:
    """Renews every third of the lease, in a thread of its own."""

    def __init__(
        self,
        renew: Callable[[], bool],
        lease_seconds: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_lost = on_lost
        self._renew = renew
        self._every = lease_seconds / 3
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="penstock-heartbeat", daemon=True)

    @property
    def lost(self) -> bool:
        return self._lost.is_set()

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                if not self._renew():
                    self._lost.set()
                    self._on_lost()
                    return
            except LedgerUnreachableError:
                continue  # the lease may outlast a short absence; the next verb finds out
            except Exception as exc:  # noqa: BLE001 - the holder must hear of it, not the thread
                log.error("a lease could not be renewed: %s", clean_text(exc))
                self._lost.set()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
