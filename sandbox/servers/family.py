"""A process and all that descends from it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL = 0.02


def signal_all(leader: int, others: Sequence[int], number: signal.Signals) -> None:
    """To the leader's process group and to each of the others; who is gone needs none."""
    _tolerate_gone(os.killpg, leader, number)
    for pid in others:
        _tolerate_gone(os.kill, pid, number)


def _tolerate_gone(send: Callable[[int, int], None], pid: int, number: signal.Signals) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        return


def descendants(pid: int) -> list[int]:
    """All that descend from a process, found in /proc: Postgres' backends lead sessions of
    their own, so that its process group has one member. Elsewhere the group has to do.
    """
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat(path)
        if fields:
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _stat(path: Path) -> list[str]:
    """State, parent and so on; empty when the process is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until_gone(pids: Sequence[int], timeout: float = 30.0) -> None:
    """They are not our children, so they can't be waited for: look until they are gone."""
    deadline = time.monotonic() + timeout
    for pid in pids:
        while _stat(Path(f"/proc/{pid}/stat"))[:1] not in ([], ["Z"], ["X"]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} does not go away")
            time.sleep(_POLL)
