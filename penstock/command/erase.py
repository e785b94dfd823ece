"""Erase and suppress: who must not be in any audience, and who must not get into one."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TextIO

from penstock import person
from penstock.command.exits import Exit
from penstock.command.jobs import told
from penstock.command.reach import open_client, open_ledger
from penstock.erase import Erased
from penstock.errors import SpecError

_MOST_NAMED = 5


def erase(
    emails: Sequence[str], phones: Sequence[str], *, wait: bool, timeout: float | None
) -> Exit:
    with open_client() as client:
        erased = client.erase(emails, phones)
        for line in _plan(erased):
            sys.stderr.write(f"{line}\n")
        ends = [told(client, job_id, wait=wait, timeout=timeout) for job_id in erased.jobs]
    return next((end for end in ends if end is not Exit.DONE), Exit.DONE)


def suppress(
    emails: Sequence[str], phones: Sequence[str], file: str | None, *, remove: bool
) -> Exit:
    people = person.of_all(emails, phones)
    if not people and not file:
        raise SpecError("Whom to suppress is not said: give --email, --phone or --file.")
    with ExitStack() as stack:
        lines = _Lines(file or "", stack.enter_context(_opened(file)) if file else ())
        ledger = stack.enter_context(open_ledger())
        verb = ledger.suppression.remove if remove else ledger.suppression.add
        changed = verb(chain(*(digests.values() for digests in people), lines.digests()))
    done = "suppressed no longer" if remove else "newly suppressed"
    read = len(people) + lines.read
    sys.stdout.write(f"Read {read:,} identifiers; {changed:,} digests are {done}.\n")
    if not lines.bad:
        return Exit.DONE
    more = ", …" if lines.bad > len(lines.first_bad) else ""
    sys.stderr.write(
        f"penstock: {lines.bad:,} lines were left out, because they hold neither an e-mail address "
        "nor a phone number with its country code nor a SHA-256 in hex: line "
        f"{', '.join(map(str, lines.first_bad))}{more}.\n"
    )
    return Exit.PARTIAL


@dataclass(slots=True)
class _Lines:
    """A file as long as it likes, and what was read of it so far."""

    name: str
    lines: Iterable[str]
    read: int = 0
    bad: int = 0
    first_bad: list[int] = field(default_factory=list)

    def digests(self) -> Iterator[bytes]:
        try:
            for number, line in enumerate(self.lines, 1):
                digests = person.of_line(line)
                self.read += bool(digests)
                yield from digests
                if not digests and line.strip():
                    self.bad += 1
                    if len(self.first_bad) < _MOST_NAMED:
                        self.first_bad.append(number)
        except UnicodeDecodeError:
            raise SpecError(
                f"{self.name} is not UTF-8 text; what comes before that may be done in part."
            ) from None


def _opened(path: str) -> TextIO:
    try:
        # Not through a `with` of its own: whoever reads it line by line closes it.
        return open(0 if path == "-" else path, encoding="utf-8-sig", closefd=path != "-")
    except OSError as exc:
        raise SpecError(f"{path} cannot be read: {exc.strerror}.") from None


def _plan(erased: Erased) -> Iterator[str]:
    yield (
        f"Erasure {erased.erasure_id}: {erased.identifiers} "
        f"identifier{'s' * (erased.identifiers != 1)}, suppressed from now on."
    )
    if not erased.jobs:
        yield "No audience was ever sent to that could hold them: there is nothing to remove."
    for job_id, lanes in erased.jobs.items():
        yield f"Job {job_id} removes them from:"
        for lane, destination in lanes.items():
            yield f"  {lane}: {_named(destination.model_dump(exclude_none=True))}"
    for audience in erased.beyond:
        yield (
            f"Not from {audience['connection']}: {_named(audience)}; its members are known by "
            f"{audience['list_type']}, so look them up there by hand."
        )
    if erased.running:
        named = ", ".join(erased.running[:_MOST_NAMED]) + ", …" * (
            len(erased.running) > _MOST_NAMED
        )
        yield (
            f"Still sending: {named}. What is on its way may arrive after the removal: erase once "
            "more when these have ended."
        )


def _named(audience: dict[str, str]) -> str:
    account = audience.get("customer_id") or audience.get("account_id")
    of = f" of account {account}" if account else ""
    if audience.get("everywhere"):
        return f"{audience['kind']}, every audience{of}"
    identity = audience.get("user_list_id") or audience.get("audience_id")
    which = identity or repr(audience["audience"])
    return f"{audience['kind']}, audience {which}{of}"
