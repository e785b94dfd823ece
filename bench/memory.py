"""Peak memory of each process and of Redis at growing sizes: flat is the claim."""

from __future__ import annotations

from bench.rig import FILE, GOOGLE, META, Rig

WINDOW, BATCH_ROWS = 16, 20_000
KINDS = ("jobs", "extract", "upload.google_ads", "upload.meta", "export")


def run(sizes: list[int]) -> None:
    print(f"memory: a file and both platforms, window {WINDOW} batches of {BATCH_ROWS:,} rows")
    table: dict[int, dict[str, float]] = {}
    with Rig() as rig:
        for rows in sizes:
            source = rig.customers(rows)
            with rig.workers(*KINDS, platforms=True) as workers:
                with workers.redis.client() as redis:
                    idle = redis.info("memory")["used_memory"]
                workers.job(
                    source=source,
                    destinations=[GOOGLE, META, FILE],
                    window=WINDOW,
                    batch_rows=BATCH_ROWS,
                )
                with workers.redis.client() as redis:
                    peak = redis.info("memory")["used_memory_peak"]
                with workers.client.ledger.transaction() as db:
                    row = db.execute("select max(bytes) as most from penstock.batch").fetchone()
                payload = (row["most"] if row else 0) / 1e6
                table[rows] = workers.peaks() | {"redis": (peak - idle) / 1e6}
                bound = WINDOW * payload + 20
                print(
                    f"  {rows:>10,} rows: "
                    + " · ".join(f"{name} {size:.0f} MB" for name, size in table[rows].items())
                    + f" (Redis' bound: {bound:.0f} MB = {WINDOW} x {payload:.2f} + 20)"
                )
    first, last = table[sizes[0]], table[sizes[-1]]
    print(
        f"  growth from {sizes[0]:,} to {sizes[-1]:,} rows: "
        + " · ".join(f"{name} {100 * (last[name] / first[name] - 1):+.0f}%" for name in first)
    )
