"""`make bench`, or `python -m bench export|sync|memory|hash` for one of them."""

from __future__ import annotations

import argparse

from bench import export, hash_identities, memory, sync


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=["export", "sync", "memory", "hash", []])
    parser.add_argument("--rows", type=int, help="instead of a bench's own size")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    chosen = args.what or ["hash", "export", "sync", "memory"]
    if "hash" in chosen:
        hash_identities.main([])
    if "export" in chosen:
        export.run(args.rows or 2_000_000, args.rounds)
    if "sync" in chosen:
        sync.run(args.rows or 1_000_000)
    if "memory" in chosen:
        memory.run([args.rows] if args.rows else [200_000, 1_000_000, 4_000_000])


if __name__ == "__main__":
    main()
