"""Mirror to both sandboxes: everyone, then again after one in a hundred was replaced by another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import psycopg

from bench.rig import GOOGLE, META, Rig, Run, cpu_of
from sandbox.customers import create_customers
from sandbox.servers import GoogleAdsSandbox, MetaSandbox, Process

UPLOADS = ("upload.google_ads", "upload.meta")
DESTINATIONS = [{**GOOGLE, "mode": "mirror"}, {**META, "mode": "mirror"}]
LISTS = {"google_ads": GOOGLE["user_list_id"], "meta": META["audience_id"]}


def run(rows: int) -> None:
    replaced = rows // 100
    print(
        f"mirror: {rows:,} members to the sandboxes of Google and Meta, one worker each; then "
        f"{replaced:,} deleted and {replaced:,} others inserted"
    )
    with Rig() as rig, rig.workers("jobs", "extract", *UPLOADS, platforms=True) as workers:
        bench = _Bench(workers, {"postgres": rig.postgres, **workers.servers}, rows)
        # What a worker imports at its first task is not the job's doing.
        warm_up = rig.customers(20_000)
        workers.job(name="warm-up", source=warm_up, destinations=[GOOGLE, META])
        for sandbox in bench.sandboxes.values():
            sandbox.reset()

        # All are made at once, so that those who come later are others; and put aside until then.
        create_customers(rig.source_url, rows + replaced, clean=True)
        _source(rig, f"create table newcomers as select * from customers where id > {rows}")
        _source(rig, f"delete from customers where id > {rows}")
        _source(rig, "vacuum analyze customers")
        empty = bench.state_bytes()
        first = bench.go("first run", rows)
        bench.tell_size(empty)

        _source(rig, f"delete from customers where id % 100 = 0 and id <= {100 * replaced}")
        _source(rig, "insert into customers select * from newcomers")
        second = bench.go("one in a hundred replaced", 2 * replaced)
        print(f"  the second run took {second / first:.2f} of the first one's time")


@dataclass
class _Bench:
    workers: Run
    servers: dict[str, Process]
    rows: int

    @property
    def sandboxes(self) -> dict[str, GoogleAdsSandbox | MetaSandbox]:
        servers = self.workers.servers
        return {
            "google_ads": cast("GoogleAdsSandbox", servers["sandbox google"]),
            "meta": cast("MetaSandbox", servers["sandbox meta"]),
        }

    def go(self, what: str, expected: int) -> float:
        """One run of the job; its seconds."""
        before, cpu = self._operations(), self._cpu()
        source = {"connection": "warehouse", "table": "customers", "key": "id"}
        status, seconds = self.workers.job(source=source, destinations=DESTINATIONS)
        sent = {name: total - before[name] for name, total in self._operations().items()}
        print(f"  {what}: {seconds:.1f} s, {self.rows / seconds:,.0f} rows/s into both")
        for lane in status["lanes"]:
            kind = lane["kind"]
            members = self.sandboxes[kind].count(LISTS[kind])
            print(
                f"    {kind}: {sent[kind]:,} operations by the sandbox's count"
                f" ({lane['accepted']:,} added, {lane['details'].get('removed', 0):,} removed)"
                f", {members:,} members then"
            )
            if (members, sent[kind]) != (self.rows, expected):
                raise SystemExit(f"{self.rows:,} members and {expected:,} operations were expected")
        used = {name: total - cpu[name] for name, total in self._cpu().items()}
        print("    CPU: " + " · ".join(f"{name} {used[name]:.1f} s" for name in used))
        peaks = self.workers.peaks()
        print("    peak so far: " + " · ".join(f"{name} {peaks[name]:.0f} MB" for name in UPLOADS))
        return seconds

    def state_bytes(self) -> dict[str, int]:
        """What lies in the ledger: the states of both audiences, and all of it."""
        with self.workers.client.ledger.transaction() as db:
            row = db.execute(
                "select pg_total_relation_size('penstock.mirror_entry') as state, "
                "pg_database_size(current_database()) as ledger"
            ).fetchone()
        return dict(row or {})

    def tell_size(self, empty: dict[str, int]) -> None:
        now = self.state_bytes()
        each = {name: (now[name] - empty[name]) / self.rows / len(LISTS) for name in now}
        print(
            f"    ledger: {each['state']:.0f} bytes for a member and audience with its indexes, "
            f"{each['ledger']:.0f} with what a run leaves behind for the next to reuse"
        )

    def _cpu(self) -> dict[str, float]:
        """Of the servers too: with two cores it is theirs that the time goes to."""
        return self.workers.cpu() | {name: cpu_of(one.pid) for name, one in self.servers.items()}

    def _operations(self) -> dict[str, int]:
        """As the sandboxes counted them since the last reset."""
        state: dict[str, Any] = {name: one.state() for name, one in self.sandboxes.items()}
        return {
            "google_ads": sum(job["operations"] for job in state["google_ads"]["jobs"]),
            "meta": sum(session["received"] for session in state["meta"]["sessions"]),
        }


def _source(rig: Rig, statement: str) -> None:
    with psycopg.connect(rig.source_url, autocommit=True) as db:
        db.execute(statement)
