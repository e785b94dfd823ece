"""Clients that are kept, each for the process that made it: what they hold open does not survive a
fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Client = TypeVar("Client")


class OfProcess(Generic[Key, Client]):
    """One for all threads."""

    def __init__(self, make: Callable[[Key], Client]) -> None:
        self._make = make
        self._made: dict[tuple[int, Key], Client] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Client:
        of_process = (os.getpid(), key)
        with self._lock:
            known = self._made.get(of_process)
        if known is not None:
            return known
        # Making one may take a call: outside the lock, or one client would hold up the others.
        made = self._make(key)
        with self._lock:
            return self._made.setdefault(of_process, made)


class OfThread(threading.local, Generic[Key, Client]):
    """One for each thread, whose connections it keeps open."""

    def __init__(self, make: Callable[[Key], Client]) -> None:
        self._make = make
        self._made: dict[tuple[int, Key], Client] = {}

    def get(self, key: Key) -> Client:
        of_process = (os.getpid(), key)
        if of_process not in self._made:
            self._made[of_process] = self._make(key)
        return self._made[of_process]
