"""Submit, status, watch, cancel, retry."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from penstock.client import Client
from penstock.command.exits import OF_STATE, Exit
from penstock.command.reach import open_client, open_ledger
from penstock.contract import JobSpec
from penstock.errors import SpecError
from penstock.follow import follow
from penstock.ledger import Ledger

_LINES_EVERY = 1.0
_DRAWN_EVERY = 0.5


def submit(
    path: str,
    job_id: str | None,
    *,
    wait: bool,
    timeout: float | None,
    changes: Mapping[str, bool] | None = None,
) -> Exit:
    """`changes`: keys of the spec that the command line turns on."""
    spec = read_spec(path)
    turned_on = {key: True for key, on in (changes or {}).items() if on}
    if turned_on:
        spec = JobSpec.parse({**spec.wire(), **turned_on})
    with open_client(needs_ledger=wait) as client:
        return told(client, client.submit(spec, job_id), wait=wait, timeout=timeout)


def retry(job_id: str, *, wait: bool, timeout: float | None) -> Exit:
    with open_client() as client:
        return told(client, client.retry(job_id), wait=wait, timeout=timeout)


def cancel(job_id: str) -> Exit:
    with open_client() as client:
        client.cancel(job_id)
    return Exit.DONE


def status(job_id: str | None, *, as_json: bool, limit: int) -> Exit:
    with open_ledger() as ledger:
        found: Any = ledger.jobs.recent(limit) if job_id is None else ledger.jobs.status(job_id)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return Exit.DONE
    from penstock.command import show  # noqa: PLC0415 - rich is loaded where something is drawn

    console = show.console(sys.stdout)
    for line in show.recent(found) if job_id is None else show.job(found):
        console.print(line)
    return Exit.DONE


def watch(job_id: str, *, as_json: bool, timeout: float | None) -> Exit:
    with open_ledger() as ledger:
        return _watch(ledger, job_id, timeout, sys.stdout, as_json=as_json)


def told(client: Client, job_id: str, *, wait: bool, timeout: float | None) -> Exit:
    """The id alone on stdout: what is watched goes to stderr."""
    sys.stdout.write(job_id + "\n")
    sys.stdout.flush()
    return _watch(client.ledger, job_id, timeout, sys.stderr) if wait else Exit.DONE


def _watch(
    ledger: Ledger, job_id: str, timeout: float | None, out: TextIO, *, as_json: bool = False
) -> Exit:
    drawn = out.isatty() and not as_json
    every = _DRAWN_EVERY if drawn or as_json else _LINES_EVERY
    statuses = follow(ledger, job_id, every, timeout)
    try:
        return OF_STATE[_documents(statuses, out) if as_json else _read(statuses, out, drawn)]
    except KeyboardInterrupt:
        sys.stderr.write(
            f"penstock: Job {job_id!r} goes on: `penstock watch {job_id}` follows it again, "
            f"`penstock cancel {job_id}` stops it.\n"
        )
        return Exit.INTERRUPTED


def _read(statuses: Iterator[dict[str, Any]], out: TextIO, drawn: bool) -> str:
    from penstock.command.watch import lines, live  # noqa: PLC0415 - draws, so it loads rich

    return live(statuses, out) if drawn else lines(statuses, out)


def _documents(statuses: Iterator[dict[str, Any]], out: TextIO) -> str:
    """One JSON document a line; returns the last state."""
    state = ""
    for document in statuses:
        state = document["state"]
        out.write(json.dumps(document, ensure_ascii=False) + "\n")
        out.flush()
    return state


def read_spec(path: str) -> JobSpec:
    if path != "-":
        try:
            return JobSpec.load(path)
        except UnicodeDecodeError:
            raise SpecError(f"{path} is not UTF-8 text.") from None
    try:
        document = json.loads(sys.stdin.buffer.read())
    except ValueError as exc:
        said = exc.msg if isinstance(exc, json.JSONDecodeError) else "it is not UTF-8"
        raise SpecError(f"Standard input is not valid JSON: {said}.") from None
    return JobSpec.parse(document)
