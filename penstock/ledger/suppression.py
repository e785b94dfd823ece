"""Verbs on who must not be sent anywhere: digests, never what they were made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from penstock.ledger.base import Connection, Ledger, by_index

#: Digests in one statement: each is an index probe, and their array has to fit in memory.
PAGE = 20_000


class Suppression:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, digests: Iterable[bytes], erasure_id: str | None = None) -> int:
        """Suppress them; how many were not yet. Any number: a page is a transaction of its own."""
        added = 0
        for page in _pages(digests):
            with self._ledger.transaction() as db:
                added += suppress(db, page, erasure_id)
        return added

    def remove(self, digests: Iterable[bytes]) -> int:
        """Suppress them no longer, erased ones included; how many had been."""
        removed = 0
        for page in _pages(digests):
            with self._ledger.transaction() as db:
                removed += db.execute(
                    "delete from penstock.suppressed where digest = any(%b)", (page,)
                ).rowcount
        return removed

    def any(self) -> bool:
        """Whether there is anybody to look for."""
        with self._ledger.transaction() as db:
            row = db.execute("select exists (select from penstock.suppressed) as found").fetchone()
            return bool(row and row["found"])

    def known(self, digests: Sequence[bytes]) -> set[bytes]:
        """Which of them are suppressed."""
        found: set[bytes] = set()
        for page in _pages(digests):
            with self._ledger.transaction() as db:
                by_index(db)
                found |= look_up(db, page)
        return found


def look_up(db: Connection, digests: list[bytes]) -> set[bytes]:
    # The planner would rather read millions of rows than probe twenty thousand times.
    db.execute("set local enable_seqscan = off")
    rows = db.execute(
        "select digest from penstock.suppressed where digest = any(%b)", (digests,), binary=True
    )
    return {row["digest"] for row in rows}


def suppress(db: Connection, digests: Iterable[bytes], erasure_id: str | None) -> int:
    """In a transaction of the caller's."""
    # In order, so that two that suppress the same people wait for each other in no circle.
    return db.execute(
        "insert into penstock.suppressed (digest, erasure_id) "
        "select distinct digest, %s::text from unnest(%b::bytea[]) as digest order by digest "
        "on conflict (digest) do nothing",
        (erasure_id, list(digests)),
    ).rowcount


def _pages(digests: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(digests)
    while page := list(islice(rest, PAGE)):
        yield page
