"""The connection to the ledger, its migrations, and what a verb leaves to be done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from penstock.contract import JobSpec
from penstock.errors import LedgerRefusedError, LedgerSchemaError, LedgerUnreachableError

if TYPE_CHECKING:
    from penstock.ledger.closings import Closings
    from penstock.ledger.deliveries import Deliveries
    from penstock.ledger.erasures import Erasures
    from penstock.ledger.jobs import Jobs
    from penstock.ledger.mirrors import Mirrors
    from penstock.ledger.parts import Parts
    from penstock.ledger.reports import Reports
    from penstock.ledger.stream import Stream
    from penstock.ledger.suppression import Suppression
    from penstock.ledger.sweep import Sweep

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Policy:
    """The times and bounds that the verbs decide by."""

    #: A worker that is not heard of for so long has died.
    lease_seconds: float = 30
    #: A message that nobody took up for so long is looked for.
    grace_seconds: float = 20
    #: So often may work die with its worker before it is given up.
    max_crashes: int = 5
    #: So often may a stream without a key start over.
    max_restarts: int = 5
    #: So many rejected rows of a lane are kept by their keys; all are counted.
    report_rows: int = 10_000


@dataclass(slots=True)
class Next:
    """What a verb leaves to be done once its transaction stands. Any of it may get lost: the sweep
    finds it again.
    """

    job_id: str
    extract: bool = False
    open: bool = False
    finalize: bool = False
    #: (kind, lane, seq, generation)
    deliver: list[tuple[str, str, int, int]] = field(default_factory=list)
    #: (seq, generation): batches whose payload is to be read again
    refill: list[tuple[int, int]] = field(default_factory=list)
    #: (kind, lane, index, how many lanes the job has)
    close: list[tuple[str, str, int, int]] = field(default_factory=list)
    #: (epoch, seq, view): payloads that nobody reads any more
    drop: list[tuple[int, int, str]] = field(default_factory=list)


class Ledger:
    def __init__(
        self,
        url: str,
        policy: Policy | None = None,
        *,
        connections: int = 4,
        patience_seconds: float = 30,
    ) -> None:
        self.policy = policy or Policy()
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            min_size=0,
            max_size=connections,
            max_idle=60,
            timeout=patience_seconds,
            # A link that died silently is found before it is handed out.
            check=ConnectionPool.check_connection,
            kwargs={
                "row_factory": dict_row,
                "connect_timeout": 10,
                "application_name": "penstock",
                "keepalives_idle": 30,
                # The server may be told of a short limit; a verb waits for a job's lock at times.
                "options": "-c statement_timeout=60000 -c idle_in_transaction_session_timeout=60000"
                " -c client_min_messages=warning",
            },
            open=False,
            name="penstock-ledger",
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        try:
            # Opening twice is harmless; opening here keeps it out of a parent that forks.
            self._pool.open()
            with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise LedgerUnreachableError from None
        except psycopg.errors.UndefinedTable:
            raise LedgerSchemaError from None
        except psycopg.OperationalError as exc:
            state = f" (SQLSTATE {exc.sqlstate})" if exc.sqlstate else ""
            raise LedgerUnreachableError(f"The ledger's Postgres broke off{state}.") from None
        except psycopg.Error as exc:
            raise LedgerRefusedError(
                f"The ledger refused a statement ({exc.sqlstate} {type(exc).__name__})."
            ) from None

    def close(self) -> None:
        self._pool.close()

    def migrate(self) -> list[str]:
        """Apply what is missing; returns what was applied. Safe to run many at once."""
        done = []
        with self.transaction() as db:
            db.execute("select pg_advisory_xact_lock(hashtext('penstock.migrate'))")
            have = self._applied(db)
            for number, name, text in _migrations():
                if number not in have:
                    db.execute(text)
                    if number == 1:
                        db.execute(
                            "create table penstock.migration (number integer primary key, "
                            "applied_at timestamptz not null default clock_timestamp())"
                        )
                    db.execute("insert into penstock.migration (number) values (%s)", (number,))
                    done.append(name)
        return done

    def check(self) -> None:
        """Raise a LedgerSchemaError where the tables are not those of this release."""
        with self.transaction() as db:
            have = self._applied(db)
        need = {number for number, _, _ in _migrations()}
        if not have:
            raise LedgerSchemaError("The ledger has no tables yet; run `penstock init`.")
        if need - have:
            raise LedgerSchemaError(
                f"The ledger is at migration {max(have)} and this release needs {max(need)}; "
                "run `penstock init`."
            )

    @staticmethod
    def _applied(db: Connection) -> set[int]:
        if db.execute("select to_regclass('penstock.migration') as t").fetchone() == {"t": None}:
            return set()
        return {row["number"] for row in db.execute("select number from penstock.migration")}

    @cached_property
    def jobs(self) -> Jobs:
        from penstock.ledger.jobs import Jobs  # noqa: PLC0415 - the groups know this module

        return Jobs(self)

    @cached_property
    def stream(self) -> Stream:
        from penstock.ledger.stream import Stream  # noqa: PLC0415

        return Stream(self)

    @cached_property
    def deliveries(self) -> Deliveries:
        from penstock.ledger.deliveries import Deliveries  # noqa: PLC0415

        return Deliveries(self)

    @cached_property
    def parts(self) -> Parts:
        from penstock.ledger.parts import Parts  # noqa: PLC0415

        return Parts(self)

    @cached_property
    def closings(self) -> Closings:
        from penstock.ledger.closings import Closings  # noqa: PLC0415

        return Closings(self)

    @cached_property
    def mirrors(self) -> Mirrors:
        from penstock.ledger.mirrors import Mirrors  # noqa: PLC0415

        return Mirrors(self)

    @cached_property
    def reports(self) -> Reports:
        from penstock.ledger.reports import Reports  # noqa: PLC0415

        return Reports(self)

    @cached_property
    def suppression(self) -> Suppression:
        from penstock.ledger.suppression import Suppression  # noqa: PLC0415

        return Suppression(self)

    @cached_property
    def erasures(self) -> Erasures:
        from penstock.ledger.erasures import Erasures  # noqa: PLC0415

        return Erasures(self)

    @cached_property
    def sweep(self) -> Sweep:
        from penstock.ledger.sweep import Sweep  # noqa: PLC0415

        return Sweep(self)


def spec_of(job: dict[str, Any]) -> JobSpec:
    """The job's spec, which a client of a newer release may have written."""
    return JobSpec.from_wire(job["spec"])[0]


def lock_job(db: Connection, job_id: str) -> dict[str, Any] | None:
    return db.execute(
        "select *, lease_until > clock_timestamp() as leased, "
        "wake_at > clock_timestamp() as early from penstock.job "
        "where job_id = %s for update",
        (job_id,),
    ).fetchone()


def by_index(db: Connection) -> None:
    """For the rest of the transaction: tables that fill by the million are larger than the planner
    has heard, and a scan of one for each key asked would take minutes.
    """
    db.execute("set local enable_seqscan = off")


def in_flight(db: Connection, job_id: str) -> int:
    """How many batches the window counts: those of the slowest lane that still runs."""
    row = db.execute(
        "select coalesce(max(recorded - released), 0) as n from penstock.lane "
        "where job_id = %s and state = 'open' and error is null",
        (job_id,),
    ).fetchone()
    return int(row["n"]) if row else 0


def after_settling(db: Connection, job: dict[str, Any]) -> Next:
    """What a settle may have made possible: a parked stream goes on, a finished lane closes."""
    todo = Next(job["job_id"])
    if job["stream"] == "parked" and in_flight(db, job["job_id"]) <= job["spec"]["window"] // 2:
        db.execute(
            "update penstock.job set stream = 'waiting', wake_at = clock_timestamp() "
            "where job_id = %s",
            (job["job_id"],),
        )
        todo.extract = True
    todo.close = closable(db, job["job_id"])
    return todo


def closable(db: Connection, job_id: str) -> list[tuple[str, str, int, int]]:
    rows = db.execute(
        """
        update penstock.lane as l set close_at = clock_timestamp() + interval '5 seconds'
        from penstock.job as j
        where j.job_id = l.job_id and l.job_id = %s and l.state = 'open' and l.close_at is null
          and (j.cancelling
               or (l.settled = l.recorded and (j.stream = 'ended' or l.error is not null)))
        returning l.kind, l.lane, l.idx,
                  (select count(*) from penstock.lane as o where o.job_id = l.job_id) as lanes
        """,
        (job_id,),
    ).fetchall()
    return [(r["kind"], r["lane"], r["idx"], r["lanes"]) for r in rows]


def _migrations() -> list[tuple[int, str, str]]:
    found = []
    for entry in resources.files("penstock.ledger").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append((int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    return sorted(found)
