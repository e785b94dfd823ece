"""`penstock init`."""

from __future__ import annotations

import sys

from penstock.command.exits import Exit
from penstock.command.reach import open_ledger


def init() -> Exit:
    with open_ledger() as ledger:
        applied = ledger.migrate()
        ledger.check()
    for name in applied:
        sys.stdout.write(f"applied {name}\n")
    if not applied:
        sys.stdout.write("The ledger is up to date.\n")
    return Exit.DONE
