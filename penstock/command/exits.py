"""The exit codes that scripts may rely on."""

from __future__ import annotations

from enum import IntEnum

from penstock.errors import (
    BrokerUnreachableError,
    LedgerRefusedError,
    LedgerSchemaError,
    LedgerUnreachableError,
    PenstockError,
    UnknownJobError,
    WaitTimeoutError,
)


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    CANCELLED = 4
    UNKNOWN_JOB = 5
    UNREACHABLE = 6
    TIMEOUT = 7
    INTERRUPTED = 130
    NOBODY_READS = 141


OF_STATE = {
    "succeeded": Exit.DONE,
    "partial": Exit.PARTIAL,
    "failed": Exit.FAILED,
    "cancelled": Exit.CANCELLED,
}

HELP = """\
exit codes:
    0  done; of a job that was waited for: every lane succeeded
    1  the job failed, no lane succeeded; of `doctor`: something is wrong
    2  wrong usage, or a spec or setting that is not valid
    3  some of the job's lanes succeeded, some did not
    4  the job was cancelled
    5  there is no such job
    6  the broker or the ledger cannot be reached, or has no tables yet
    7  the job had not ended when --timeout was over
  130  interrupted; a job goes on
"""


def exit_of(error: PenstockError) -> Exit:
    match error:
        case UnknownJobError():
            return Exit.UNKNOWN_JOB
        case WaitTimeoutError():
            return Exit.TIMEOUT
        case (
            BrokerUnreachableError()
            | LedgerUnreachableError()
            | LedgerSchemaError()
            | LedgerRefusedError()
        ):
            return Exit.UNREACHABLE
        case _:
            return Exit.USAGE
