"""The report of rows that lanes did not take whole, as CSV."""

from __future__ import annotations

import csv
import json
import sys

from penstock.command.exits import Exit
from penstock.command.reach import open_ledger

_COLUMNS = ("lane", "row", "field", "reason")


def rejected(job_id: str, lane: str | None, *, as_json: bool) -> Exit:
    """On stdout; what is counted but not kept is told of on stderr."""
    with open_ledger() as ledger:
        rows = ledger.reports.rejections(job_id, lane)
        if as_json:
            for row in rows:
                sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            out = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
            first = next(rows, None)  # an unknown job is refused before the head is written
            out.writeheader()
            if first is not None:
                out.writerow(first)
            out.writerows(rows)
        more = ledger.reports.not_kept(job_id, lane)
    if more:
        sys.stderr.write(
            f"penstock: {more} more rows are counted in the outcome, but their keys were not kept "
            "(PENSTOCK_REPORT_ROWS).\n"
        )
    return Exit.DONE
