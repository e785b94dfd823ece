"""`make bench`, or `python -m bench` with the names of some."""

from __future__ import annotations

import argparse

from bench import export, hash_identities, memory, mirror, sync

ALL = ("hash", "requests", "export", "sync", "mirror", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*ALL, []])
    parser.add_argument("--rows", type=int, help="instead of a bench's own size")
    parser.add_argument("--rounds", type=int, help="instead of a bench's own number")
    args = parser.parse_args()
    chosen = args.what or ALL
    if "hash" in chosen:
        hash_identities.main([])
    if "requests" in chosen:
        from bench import requests  # noqa: PLC0415 - the SDKs would be loaded for the others too

        requests.run(args.rows or 10_000, args.rounds or 9)
    if "export" in chosen:
        export.run(args.rows or 2_000_000, args.rounds or 3)
    if "sync" in chosen:
        sync.run(args.rows or 1_000_000)
    if "mirror" in chosen:
        mirror.run(args.rows or 1_000_000)
    if "memory" in chosen:
        memory.run([args.rows] if args.rows else [200_000, 1_000_000, 4_000_000])


if __name__ == "__main__":
    main()
