"""`penstock doctor`: what a job needs, each tried by a real call, and how to mend what is wrong."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from celery import Celery
from celery.exceptions import CeleryError
from celery.exceptions import TimeoutError as ResultTimeoutError
from celery.result import AsyncResult
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from penstock import routes
from penstock.client import Client
from penstock.command.exits import Exit
from penstock.command.reach import find_ledger, hurried_client
from penstock.errors import PenstockError

_AWAY = (KombuError, RedisError, CeleryError, OSError)
#: Workers answer a roll-call at once unless their machine is busy.
_ROLL_CALL_SECONDS = 6.0
_ROLL_CALL_SHARE = 0.25

#: Without these, nothing else can be asked.
_HOPELESS = ("broker", "broker cluster")

KINDS = tuple(routes.LANE_QUEUES)
#: Their queues want a worker only where jobs send there.
_SELDOM = frozenset(KINDS) - {"google_ads", "meta", "s3"}


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    said: str
    #: How to put it right; empty where nothing is wrong.
    mend: str = ""


def doctor(timeout: float, without: Collection[str], *, as_json: bool) -> Exit:
    findings, code = [], Exit.DONE
    client = hurried_client()
    show = None if as_json else _printer()
    try:
        for finding in examine(client, timeout, without):
            findings.append(finding)
            if not finding.ok:
                away = finding.what in ("broker", "ledger")
                code = Exit.UNREACHABLE if away else (code or Exit.FAILED)
            if show:
                show(finding)
    finally:
        client.close()
    if as_json:
        document = {"ok": code is Exit.DONE, "findings": [asdict(f) for f in findings]}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return code


def examine(client: Client, timeout: float, without: Collection[str]) -> Iterator[Finding]:
    """Each finding as soon as it is made."""
    broker = list(_broker(client.app))
    yield from broker
    yield _ledger(client)
    if any(finding.what in _HOPELESS and not finding.ok for finding in broker):
        return
    unused = {routes.LANE_QUEUES[kind] for kind in without}
    queues = [queue for queue in routes.ALL_QUEUES if queue not in unused]
    try:
        patience = min(timeout, max(_ROLL_CALL_SECONDS, timeout * _ROLL_CALL_SHARE))
        serving = _roll_call(client.app, queues, patience)
        for queue in queues:
            finding = _queue(client.app, queue, serving.get(queue, set()))
            if finding is not None:
                yield finding
        yield from _connections(client.app, [q for q in queues if q in serving], timeout)
    except _AWAY as exc:
        yield Finding("broker", False, f"It broke off: {_reason(exc)}.", "Look at Redis' log.")


def _broker(app: Celery) -> Iterator[Finding]:
    try:
        with app.connection_for_read() as connection:
            redis = connection.default_channel.client
            redis.ping()
            info = redis.info()
    except _AWAY as exc:
        mend = "Check PENSTOCK_BROKER_URL and that its Redis is up."
        yield Finding("broker", False, f"It does not answer: {_reason(exc)}.", mend)
        return
    yield Finding("broker", True, _product(info))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(
            "broker eviction", False, f"{policy}: when memory is short, Redis drops messages.",
            "Set `maxmemory-policy noeviction`.",
        )  # fmt: skip
    if info.get("cluster_enabled"):
        yield Finding(
            "broker cluster", False, "Cluster mode is on, and Celery cannot work with it.",
            "Use a Redis without cluster mode; Sentinel is fine.",
        )  # fmt: skip


def _product(info: dict[str, Any]) -> str:
    for name, key in (("Valkey", "valkey_version"), ("Dragonfly", "dragonfly_version")):
        if key in info:
            return f"{name} {info[key]}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"


def _ledger(client: Client) -> Finding:
    try:
        ledger = client.ledger
        find_ledger(client.settings.ledger_url or "")
        ledger.check()
        with ledger.transaction() as db:
            row = db.execute("select current_setting('server_version') as version").fetchone()
    except PenstockError as exc:
        return Finding("ledger", False, str(exc))
    version = row["version"].split()[0] if row else "of unknown version"
    return Finding("ledger", True, f"PostgreSQL {version}, tables up to date")


def _roll_call(app: Celery, queues: list[str], seconds: float) -> dict[str, set[str]]:
    """queue -> its workers. Ends early when every queue has one."""
    until = time.monotonic() + seconds
    serving: dict[str, set[str]] = {}
    while True:
        answers = app.control.inspect(timeout=1.0).active_queues() or {}
        for worker, taken in answers.items():
            for queue in taken:
                serving.setdefault(queue["name"], set()).add(worker)
        if all(queue in serving for queue in queues) or time.monotonic() > until:
            return serving


def _queue(app: Celery, queue: str, workers: set[str]) -> Finding | None:
    """None where nobody serves it, nothing waits, and few have a use for it."""
    with app.connection_for_read() as connection:
        waiting = connection.default_channel.client.llen(queue)
    waits = f", {waiting:,} message{'s' * (waiting != 1)} waiting" if waiting else ""
    if workers:
        return Finding(
            f"queue {queue}", True, f"{len(workers)} worker{'s' * (len(workers) != 1)}{waits}"
        )
    service, kind = _service_of(queue)
    if kind in _SELDOM and not waiting:
        return None
    mend = f"Start `celery -A services.{service}.app worker -Q {queue}`"
    unused = f", or say `--without {kind}`" if kind else ""
    return Finding(f"queue {queue}", False, f"No worker{waits}.", f"{mend}{unused}.")


def _service_of(queue: str) -> tuple[str, str]:
    """The service that takes from a queue, and the kind of destination where it is a lane's."""
    kind = next((k for k, q in routes.LANE_QUEUES.items() if q == queue), "")
    return queue.split(".")[1], kind


def _connections(app: Celery, queues: list[str], timeout: float) -> Iterator[Finding]:
    """All are asked at once; one worker of each queue answers for its connections."""
    asked: list[tuple[str, AsyncResult]] = [
        (
            queue,
            app.send_task(routes.CHECK[queue], queue=queue, ignore_result=False, expires=timeout),
        )
        for queue in queues
        if queue in routes.CHECK
    ]
    until = time.monotonic() + timeout
    for queue, result in asked:
        try:
            answer = result.get(timeout=max(until - time.monotonic(), 0.1), propagate=False)
        except ResultTimeoutError:
            yield Finding(
                f"checks of {queue}", False, f"No answer within {timeout:g} s.",
                "Its workers may be busy: try again with a longer --timeout, or look at their log.",
            )  # fmt: skip
            continue
        result.forget()
        yield from _answers(queue, answer)


def _answers(queue: str, answer: Any) -> Iterator[Finding]:
    if not isinstance(answer, list):
        # An exception, by name and without its text: other releases may not keep it clean.
        yield Finding(
            f"checks of {queue}", False, f"The check stopped ({type(answer).__name__}).",
            "Look at the worker's log; its release may differ from this one.",
        )  # fmt: skip
    elif not answer:
        yield Finding(f"checks of {queue}", True, "none configured")
    else:
        for item in answer:
            mend = "" if item["ok"] else f"Mend [{item['connection']}] in connections.toml."
            what = f"connection {item['connection']} ({item['kind']})"
            yield Finding(what, item["ok"], item["message"], mend)


def _reason(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0].rstrip(".")


def _printer() -> Any:
    from rich.text import Text  # noqa: PLC0415 - rich is loaded where something is drawn

    from penstock.command import show  # noqa: PLC0415

    console = show.console(sys.stdout)
    width = max(len(f"checks of {queue}") for queue in routes.ALL_QUEUES) + 2

    def line(finding: Finding) -> None:
        mark = Text("ok    ", "green") if finding.ok else Text("WRONG ", "bold red")
        console.print(mark + Text(f"{finding.what:<{width}}") + Text(show.clean(finding.said)))
        if finding.mend:
            console.print(Text(" " * (6 + width) + finding.mend, "yellow"))

    return line
