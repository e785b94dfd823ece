"""Ledger and client for a command that a person waits for: what is away is told of in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict

from penstock.client import Client
from penstock.errors import LedgerUnreachableError, SettingsError
from penstock.ledger import Ledger
from penstock.settings import ClientSettings, LedgerSettings

#: A worker is right to wait for a server that restarts; a person wants to know.
PATIENCE_SECONDS = 3


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """For what needs the ledger alone."""
    url = LedgerSettings.read().ledger_url
    find_ledger(url)
    with closing(Ledger(url, connections=1)) as ledger:
        yield ledger


@contextmanager
def open_client(*, needs_ledger: bool = True) -> Iterator[Client]:
    client = hurried_client()
    try:
        if needs_ledger or client.settings.ledger_url:
            # Asked for through the client: it has the sentence where there is none.
            _ = client.ledger
            find_ledger(client.settings.ledger_url or "")
        yield client
    finally:
        client.close()


def hurried_client() -> Client:
    client = Client(settings=ClientSettings.read())
    transport = {
        "socket_connect_timeout": PATIENCE_SECONDS,
        "socket_timeout": PATIENCE_SECONDS,
        "max_retries": 1,
        "interval_start": 0,
    }
    client.app.conf.update(
        broker_transport_options={**client.app.conf.broker_transport_options, **transport},
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
        redis_socket_connect_timeout=float(PATIENCE_SECONDS),
        redis_socket_timeout=float(PATIENCE_SECONDS),
        result_backend_always_retry=False,
    )
    return client


def find_ledger(url: str) -> None:
    """The pool would try for half a minute, and then not know why; one attempt says both."""
    try:
        host = str(conninfo_to_dict(url).get("host", ""))
    except psycopg.Error:
        host = "@"
    if "@" in host:
        # Not even in part is it quoted: where a password has an '@', the host begins with its end.
        raise SettingsError(
            "PENSTOCK_LEDGER_URL is wrong: it must be like "
            "postgresql://user:password@host:5432/database, and an '@' in a password is %40."
        )
    try:
        psycopg.connect(url, connect_timeout=PATIENCE_SECONDS).close()
    except psycopg.Error as exc:
        # libpq names server, user and database here, and never a password.
        reason = str(exc).strip().splitlines()[0].removeprefix("connection failed: ").rstrip(".")
        raise LedgerUnreachableError(
            f"The ledger does not answer ({reason}); check PENSTOCK_LEDGER_URL and that its "
            "Postgres is up."
        ) from None
