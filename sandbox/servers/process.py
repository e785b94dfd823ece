"""A child process that can be trusted to go away."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from sandbox.servers.family import descendants, signal_all, wait_until_gone

_LEASH = Path(__file__).with_name("leash.py")
_POLL = 0.02
_LOG_TAIL = 2000


class ServerError(RuntimeError):
    """A server did not start, or did not do what it was told."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now.

    It lies below the range that systems hand out to outgoing connections, so that a server
    which is down for a moment finds its port free when it comes back.
    """
    for _ in range(1000):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise ServerError("no free port between 15000 and 32000")


class Process:
    """A command in its own session, its output in a log file.

    `ready` says whether it answers yet; without one it is ready once it runs. Use it as a
    context manager, or call `start` and, at the end, `close`. It may be started again after
    `stop` and `kill`, but not after `close`.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log_path: Path,
        ready: Callable[[], bool] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        start_timeout: float = 60.0,
    ) -> None:
        self.command = [os.fspath(part) for part in command]
        self.log_path = log_path
        self.ready = ready
        self.env = dict(env or {})
        self.cwd = cwd
        self.user = user
        self.stop_signal = stop_signal
        self.start_timeout = start_timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._scratch: list[Path] = []

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the last start; it stays after the end."""
        if self._child is None:
            raise ServerError(f"{self.name} was never started")
        return self._child.pid

    @property
    def name(self) -> str:
        return type(self).__name__ if type(self) is not Process else Path(self.command[0]).name

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; a negative number is the signal that ended it."""
        return None if self._child is None else self._child.poll()

    def output(self) -> str:
        """What it has written since it was last started."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def start(self) -> Self:
        """Start it and wait until it is ready; if it does not get there, nothing is left of it."""
        if self.alive:
            raise ServerError(f"{self.name} runs already")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        program = shutil.which(self.command[0])
        if program is None:
            raise ServerError(f"there is no program {self.command[0]}")
        leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), self.user or ""]
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._child = _spawn(
                lambda: subprocess.Popen(
                    [*leash, program, *self.command[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.env},
                    cwd=self.cwd,
                    start_new_session=True,
                )
            )
        _open[id(self)] = (os.getpid(), self)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def wait(self, timeout: float = 60.0) -> int:
        """Wait until it ends by itself; its exit code."""
        if self._child is None:
            raise ServerError(f"{self.name} was never started")
        return self._child.wait(timeout)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process only."""
        if self._child is not None:
            self._child.send_signal(number)

    def stop(self, *, grace: float = 10.0) -> None:
        """Ask it to end; after the grace, kill it. Nothing happens if it does not run."""
        if self._child is None:
            return
        if self.alive:
            self.resume()
            self.send_signal(self.stop_signal)
            deadline = time.monotonic() + grace
            while self.alive and time.monotonic() < deadline:
                time.sleep(_POLL)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to its process group and to all that descends from it, then wait for the end."""
        if self._child is None:
            return
        if self.alive:
            # A stopped process starts no more children while its family is being counted.
            self._child.send_signal(signal.SIGSTOP)
        family = descendants(self._child.pid)
        signal_all(self._child.pid, family, signal.SIGKILL)
        self._child.wait()
        wait_until_gone(family)

    def pause(self) -> None:
        """SIGSTOP: it neither answers nor closes its connections."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_family(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and delete the directories it made for itself."""
        self.stop()
        _open.pop(id(self), None)
        while self._scratch:
            shutil.rmtree(self._scratch.pop())

    def scratch(self) -> Path:
        """A directory with a short path that every user can enter; `close` deletes it."""
        path = Path(tempfile.mkdtemp(prefix="penstock-"))
        self._scratch.append(path)
        path.chmod(0o755)
        _open[id(self)] = (os.getpid(), self)
        return path

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while True:
            ready = self.ready is None or self.ready()
            # Asked last, so that another server on the same port is not taken for this one.
            if not self.alive:
                raise ServerError(f"{self.name} ended with {self.exit_code}:\n{self._log_tail()}")
            if ready:
                return
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} is not ready in time:\n{self._log_tail()}")
            time.sleep(_POLL)

    def _log_tail(self) -> str:
        return self.output()[-_LOG_TAIL:]

    def _signal_family(self, number: signal.Signals) -> None:
        if self._child is not None and self.alive:
            signal_all(self._child.pid, descendants(self._child.pid), number)


# What is started or has made directories, with the process that did so: a fork inherits the
# table and must leave its parent's servers alone.
_open: dict[int, tuple[int, Process]] = {}


@atexit.register
def _close_all() -> None:
    for owner, process in list(_open.values()):
        if owner == os.getpid():
            process.close()


# The death signal comes when the *thread* that forked ends, not only its process. A test that
# restarts a server from a short-lived thread would lose it, so one lasting thread forks for all.
_Start = Callable[[], subprocess.Popen[bytes]]
_requests: SimpleQueue[tuple[Future[subprocess.Popen[bytes]], _Start]] = SimpleQueue()
_spawner: threading.Thread | None = None
_spawner_lock = threading.Lock()


def _spawn(start: _Start) -> subprocess.Popen[bytes]:
    global _spawner  # noqa: PLW0603 - one for the whole process is the point
    with _spawner_lock:
        if _spawner is None or not _spawner.is_alive():
            # A daemon, so that it outlives the exit handlers, which stop servers gently.
            _spawner = threading.Thread(target=_serve_requests, name="spawner", daemon=True)
            _spawner.start()
    result: Future[subprocess.Popen[bytes]] = Future()
    _requests.put((result, start))
    return result.result()


def _serve_requests() -> None:
    while True:
        result, start = _requests.get()
        try:
            result.set_result(start())
        except OSError as error:
            result.set_exception(error)
