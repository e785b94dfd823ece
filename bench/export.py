"""Export to csv.gz against the floor, `psql COPY | gzip -6`, taken in turn in the same run."""

from __future__ import annotations

import subprocess
import time

from bench.rig import FILE, Rig


def run(rows: int, rounds: int) -> None:
    print(f"export: {rows:,} rows to csv.gz, one worker each of extract and export")
    with Rig() as rig:
        source = rig.customers(rows)
        with rig.workers("jobs", "extract", "export") as workers:
            # What a worker imports at its first task is not the job's doing.
            workers.job(source=source, destinations=[FILE])
            best: dict[str, float] = {}
            for number in range(rounds):
                floor = _shell(rig, "| gzip -6 > /dev/null")
                raw = _shell(rig, "> /dev/null")
                before = workers.cpu()
                status, seconds = workers.job(source=source, destinations=[FILE])
                used = {k: v - before[k] for k, v in workers.cpu().items()}
                size = status["lanes"][0]["artifacts"][0]["bytes"]
                print(
                    f"  round {number + 1}: penstock {seconds:.1f} s · psql | gzip -6 {floor:.1f} s"
                    f" · psql > /dev/null {raw:.1f} s · ratio to gzip -6 {seconds / floor:.2f}"
                    f" · to the server alone {seconds / raw:.2f}"
                    f" · CPU extract {used['extract']:.1f} s, export {used['export']:.1f} s"
                    f" · {size / 1e6:.0f} MB"
                )
                for name, value in (("penstock", seconds), ("gzip", floor), ("raw", raw)):
                    best[name] = min(value, best.get(name, value))
            print(
                f"  best: {rows / best['penstock']:,.0f} rows/s; penstock takes "
                f"{best['penstock'] / best['gzip']:.2f} of `psql | gzip -6`, "
                f"{best['penstock'] / best['raw']:.2f} of `psql > /dev/null`"
            )


def _shell(rig: Rig, rest: str) -> float:
    copy = "copy (select * from customers) to stdout (format csv, header)"
    started = time.perf_counter()
    subprocess.run(["sh", "-c", f'psql "{rig.source_url}" -c "{copy}" {rest}'], check=True)
    return time.perf_counter() - started
