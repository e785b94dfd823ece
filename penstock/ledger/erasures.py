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


_SENT_TO = """
    select destination, coalesce(l.details ->> 'audience', l.memo ->> 'audience') as audience,
           coalesce(l.details ->> 'list', l.memo ->> 'list') as list
    from penstock.job as j
    cross join jsonb_array_elements(j.spec -> 'destinations')
        with ordinality as d (destination, place)
    left join penstock.lane as l on l.job_id = j.job_id and l.idx = d.place - 1
    where j.digest <> 'refused' and not coalesce((j.spec ->> 'dry_run')::boolean, false)
    group by 1, 2, 3 order by max(j.created_at) desc
"""


def _by_id(row: dict[str, Any]) -> dict[str, Any] | None:
    """An audience by the id that the lane found it under. None where it found none: then nobody was
    sent, and who is suppressed will not be.
    """
    told: dict[str, Any] = row["destination"]
    key, found = (
        ("user_list_id", row["list"])
        if told["kind"] in ("google_ads", "data_manager")
        else ("audience_id", row["audience"])
    )
    if found is None:
        return None
    if not told.get("audience"):
        return told
    rest = {k: v for k, v in told.items() if k not in ("audience", "create", "description")}
    return {**rest, key: found.rpartition("/")[2]}


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
            destinations = db.execute(_SENT_TO).fetchall()
            running = db.execute(
                "select job_id from penstock.job where state = 'running' "
                "and spec -> 'source' ->> 'erasure' is null order by created_at"
            ).fetchall()
            known = [told for r in destinations if (told := _by_id(r)) is not None]
            sent = Sent(known, [r["job_id"] for r in running])
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
