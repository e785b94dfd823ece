"""Sync to both platforms' sandboxes: rows per second, CPU of each service, and Celery's share."""

from __future__ import annotations

from bench.noop import cpu_per_message
from bench.rig import GOOGLE, META, Rig


def run(rows: int) -> None:
    print(f"sync: {rows:,} rows to the sandboxes of Google and Meta, one worker each")
    with (
        Rig() as rig,
        rig.workers(
            "jobs", "extract", "upload.google_ads", "upload.meta", platforms=True
        ) as workers,
    ):
        source = rig.customers(min(rows, 20_000))
        workers.job(source=source, destinations=[GOOGLE, META])
        source = rig.customers(rows)
        before = workers.cpu()
        status, seconds = workers.job(source=source, destinations=[GOOGLE, META])
        used = {name: cpu - before[name] for name, cpu in workers.cpu().items()}
        for lane in status["lanes"]:
            print(f"  {lane['lane']}: {lane['accepted']:,} accepted, {lane['skipped']:,} skipped")
        million = rows / 1e6
        print(f"  {seconds:.1f} s, {rows / seconds:,.0f} rows/s into both")
        for name, cpu in used.items():
            print(f"  CPU {name}: {cpu / million:.1f} s per million rows")
        # A message a batch and lane, and a handful for opening, closing and finalizing.
        messages = 2 * -(-rows // 20_000) + 8
        each = cpu_per_message(rig.directory / "noop", workers.redis.database_url(9))
        total = sum(used.values()) - used["beat"]
        print(
            f"  Celery: {messages} messages at {each * 1000:.1f} ms of CPU (sent and consumed, "
            f"measured here) are {100 * messages * each / total:.1f}% of {total:.1f} s"
        )
