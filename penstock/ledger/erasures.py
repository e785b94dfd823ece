"""Verbs of erasing people: write down who, and read it again as the source of the job that does it.

Digests alone: whom they stand for is not to be found in the ledger.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.contract import JobSpec
from penstock.ledger.base import Ledger
from penstock.ledger.jobs import insert_job
from penstock.ledger.suppression import suppress

#: A person: digests by the names of `penstock.person.KNOWN_BY`.
Person = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Sent:
    """What may hold people, as far as this ledger knows."""

    #: Distinct destinations of its jobs, as their specs have them, the newest job's first.
    destinations: list[dict[str, Any]]
    #: Jobs that still send: what of them is on its way arrives after the erasure.
    running: list[str]


class Erasures:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(
        self, people: Sequence[Person], plan: Callable[[str, Sent], list[JobSpec]]
    ) -> tuple[str, Sent, list[JobSpec]]:
        """Write the erasure down, suppress its people, and submit the jobs that `plan` makes of
        its id and what was sent: all of it stands or none.
        """
        erasure_id = secrets.token_hex(6)
        with self._ledger.transaction() as db:
            db.execute(
                "insert into penstock.erasure (erasure_id, people) values (%s, %s)",
                (erasure_id, len(people)),
            )
            db.execute(
                "insert into penstock.erasure_person (erasure_id, place, digests) "
                "select %s, place, digests from unnest(%s::jsonb[]) with ordinality "
                "as given (digests, place)",
                (erasure_id, [Jsonb({k: v.hex() for k, v in p.items()}) for p in people]),
            )
            suppress(db, {digest for person in people for digest in person.values()}, erasure_id)
            destinations = db.execute(
                "select destination from penstock.job, "
                "jsonb_array_elements(spec -> 'destinations') as destination "
                "where digest <> 'refused' "
                "and not coalesce((spec ->> 'dry_run')::boolean, false) "
                "group by destination order by max(created_at) desc"
            ).fetchall()
            running = db.execute(
                "select job_id from penstock.job where state = 'running' "
                "and spec -> 'source' ->> 'erasure' is null order by created_at"
            ).fetchall()
            sent = Sent([r["destination"] for r in destinations], [r["job_id"] for r in running])
            jobs = plan(erasure_id, sent)
            for spec in jobs:
                insert_job(db, spec.job_id or "", spec, [])
        return erasure_id, sent, jobs

    def people(self, erasure_id: str) -> int | None:
        """How many, or None where there is no such erasure."""
        with self._ledger.transaction() as db:
            row = db.execute(
                "select people from penstock.erasure where erasure_id = %s", (erasure_id,)
            ).fetchone()
            return None if row is None else int(row["people"])

    def page(
        self, erasure_id: str, after: int, upto: int | None, most: int
    ) -> list[tuple[int, dict[str, str]]]:
        """Place and digests (in hex) of at most so many people, by their places."""
        with self._ledger.transaction() as db:
            rows = db.execute(
                "select place, digests from penstock.erasure_person where erasure_id = %s "
                "and place > %s and place <= coalesce(%s, place) order by place limit %s",
                (erasure_id, after, upto, most),
            ).fetchall()
        return [(row["place"], row["digests"]) for row in rows]
