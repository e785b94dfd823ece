"""`penstock`: the command line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from penstock.command import doctor, erase, jobs, preview, rejected, tables
from penstock.command.exits import HELP, Exit, exit_of
from penstock.contract import json_schema
from penstock.errors import PenstockError


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    # Celery, kombu and the pool log what they then raise: it is told once, in a sentence.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        code: Exit = args.run(args)
        sys.stdout.flush()
    except PenstockError as exc:
        print(f"penstock: {exc}", file=sys.stderr)
        code = exit_of(exc)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would tell of the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.NOBODY_READS
    return int(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Customers from a database to ad platforms and files.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {version('penstock')}")
    commands = parser.add_subparsers(metavar="command", required=True)

    command = commands.add_parser("init", help="make or update the ledger's tables")
    command.set_defaults(run=lambda _: tables.init())

    command = commands.add_parser("submit", help="start a job; prints its id")
    command.add_argument("spec", help="a .toml or .json file, or - for JSON on standard input")
    command.add_argument("--id", help="the job's id: the same id twice is the same job")
    command.add_argument(
        "--dry-run", action="store_true", help="read, hash, cut and count; change nothing anywhere"
    )
    command.add_argument(
        "--full", action="store_true", help="mirrors send everyone, not the difference"
    )
    _waits(command)
    command.set_defaults(
        run=lambda args: jobs.submit(
            args.spec,
            args.id,
            wait=args.wait,
            timeout=args.timeout,
            changes={"dry_run": args.dry_run, "full": args.full},
        )
    )

    command = commands.add_parser("status", help="a job's figures, or the recent jobs")
    command.add_argument("id", nargs="?", help="the job; without it, the recent ones are listed")
    command.add_argument("--json", action="store_true", help="as one JSON document")
    command.add_argument("--limit", type=_count, default=20, help="how many recent jobs (20)")
    command.set_defaults(run=lambda args: jobs.status(args.id, as_json=args.json, limit=args.limit))

    command = commands.add_parser("watch", help="follow a job to its end; exits by its outcome")
    command.add_argument("id")
    command.add_argument("--json", action="store_true", help="one JSON document for each change")
    _times_out(command)
    command.set_defaults(
        run=lambda args: jobs.watch(args.id, as_json=args.json, timeout=args.timeout)
    )

    command = commands.add_parser("cancel", help="stop a job")
    command.add_argument("id")
    command.set_defaults(run=lambda args: jobs.cancel(args.id))

    command = commands.add_parser(
        "retry", help="a new job for the lanes that failed; prints its id"
    )
    command.add_argument("id")
    _waits(command)
    command.set_defaults(run=lambda args: jobs.retry(args.id, wait=args.wait, timeout=args.timeout))

    command = commands.add_parser(
        "rejected", help="rows that were not taken whole, by their keys, as CSV"
    )
    command.add_argument("id")
    command.add_argument("lane", nargs="?", help="one lane; without it, all of them")
    command.add_argument("--json", action="store_true", help="one JSON document for each row")
    command.set_defaults(run=lambda args: rejected.rejected(args.id, args.lane, as_json=args.json))

    command = commands.add_parser("preview", help="the first rows as they would be sent, hashed")
    command.add_argument("spec", help="a .toml or .json file, or - for JSON on standard input")
    command.add_argument("--rows", type=_count, default=10, help="how many rows to read (10)")
    command.add_argument("--json", action="store_true", help="as one JSON document")
    _times_out(command)
    command.set_defaults(
        run=lambda args: preview.preview(
            args.spec, args.rows, timeout=args.timeout, as_json=args.json
        )
    )

    _people_commands(commands)

    command = commands.add_parser("schema", help="the JSON Schema of a job's spec")
    command.set_defaults(run=lambda _: _schema())

    command = commands.add_parser("doctor", help="try all that a job needs")
    command.add_argument("--json", action="store_true", help="as one JSON document")
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=20.0,
        metavar="S",
        help="how long to wait for workers (20)",
    )
    command.add_argument(
        "--without", action="append", default=[], choices=doctor.KINDS,
        help="a kind of destination that is not used here; may be given again",
    )  # fmt: skip
    command.set_defaults(
        run=lambda args: doctor.doctor(args.timeout, args.without, as_json=args.json)
    )
    for command in commands.choices.values():
        command.epilog = HELP
        command.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _waits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--wait", action="store_true", help="follow it on stderr, and exit by its outcome"
    )
    _times_out(command)


def _people_commands(commands: Any) -> None:
    """What is done to people, and not to lists of them."""
    command = commands.add_parser(
        "erase", help="remove a person from every audience, and suppress them; prints the job's id"
    )
    _takes_people(command)
    _waits(command)
    command.set_defaults(
        run=lambda args: erase.erase(args.email, args.phone, wait=args.wait, timeout=args.timeout)
    )

    command = commands.add_parser(
        "suppress", help="keep people out of whatever is sent from now on"
    )
    _takes_people(command)
    command.add_argument(
        "--file", help="one of them a line, or its SHA-256 in hex; - for standard input"
    )
    command.add_argument("--remove", action="store_true", help="let them be sent again")
    command.set_defaults(
        run=lambda args: erase.suppress(args.email, args.phone, args.file, remove=args.remove)
    )


def _takes_people(command: argparse.ArgumentParser) -> None:
    for name, what in (("email", "an e-mail address"), ("phone", "a phone: +, country code, rest")):
        command.add_argument(
            f"--{name}", action="append", default=[], help=f"{what}; may be given again"
        )


def _times_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=_seconds, metavar="S", help="wait no longer than so many seconds"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("it must be more than 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


def _schema() -> Exit:
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
