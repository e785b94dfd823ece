#!/usr/bin/env python
"""The workers' health check: exits 1 when its servers are there and the worker does not answer.

A worker that waits for Redis or for the ledger is well, and starting it anew would not help.
It asks the worker of this host alone, by a glob, so that one check fits every service's name.
"""

from __future__ import annotations

import socket
import sys

from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from penstock.broker import make_app
from penstock.errors import LedgerSchemaError, LedgerUnreachableError, SettingsError
from penstock.ledger import Ledger
from penstock.payloads import redis_url
from penstock.settings import ClientSettings

ANSWER_SECONDS = 8
CONNECT_SECONDS = 5


def main() -> int:
    try:
        settings = ClientSettings.read()
    except SettingsError as exc:
        return _say(str(exc), 1)
    try:
        _reach_broker(settings.broker_url)
        if _answers(settings.broker_url):
            return _say("the worker answers", 0)
    except (RedisError, OperationalError, OSError):
        return _say("Redis cannot be reached: the worker waits for it", 0)
    if settings.ledger_url is not None and not _ledger_is_ready(settings.ledger_url):
        return _say("the ledger is not ready: the worker waits for it", 0)
    return _say("the worker does not answer", 1)


def _reach_broker(url: str) -> None:
    """Fails within seconds, where Celery's own connection would keep trying."""
    with Redis.from_url(
        redis_url(url), socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS
    ) as client:
        client.ping()


def _answers(url: str) -> bool:
    with make_app(url) as app:
        return bool(
            app.control.broadcast(
                "ping",
                reply=True,
                limit=1,
                timeout=ANSWER_SECONDS,
                pattern=f"*@{socket.gethostname()}",
                matcher="glob",
            )
        )


def _ledger_is_ready(url: str) -> bool:
    ledger = Ledger(url, connections=1, patience_seconds=CONNECT_SECONDS)
    try:
        ledger.check()
    except (LedgerUnreachableError, LedgerSchemaError):
        return False
    finally:
        ledger.close()
    return True


def _say(text: str, code: int) -> int:
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
