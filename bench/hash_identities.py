"""What normalising and hashing cost: rows per CPU second, and as a multiple of a plain loop.

The loop is what one writes first: for each row and field strip, lower-case, encode and hash with
hashlib. It runs in turn with the others, so that the ratios hold on a busy machine too.

    python bench/hash_identities.py [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.extract.identity import IDENTITIES, Rules
from services.extract.identity.digest import sha256
from services.extract.identity.text import over_distinct

FIRST = [f"{a}{b}" for a in ("Mar", "Jo", "Val", "Ann", "Kir", "Pé") for b in "abdeiknrty"]
LAST = [f"{a}{b}" for a in FIRST for b in ("son", "ez", "mann", "-Smith", "ova", "í")]
MAIL = ("gmail.com", "example.com", "example.org", "googlemail.com", "mail.example.net")
FIELDS = ("email", "phone", "first_name")


def phone(dice: random.Random) -> str:
    area, line = dice.randrange(201, 989), f"{dice.randrange(10_000_000):07}"
    forms = ("+1 {a} {p}-{q}", "({a}) {p}-{q}", "1-{a}-{p}-{q}", "{a}{p}{q}", "+1{a}{p}{q}")
    return dice.choice(forms).format(a=area, p=line[:3], q=line[3:])


def people(count: int) -> pa.RecordBatch:
    dice = random.Random(7)
    rows: list[tuple[str, ...]] = []
    for number in range(count):
        first, last = dice.choice(FIRST), dice.choice(LAST)
        email = f"{first}.{last}{number}@{dice.choice(MAIL)}"
        code = f"{dice.randrange(100_000):05}"
        rows.append((email, phone(dice), first, last, "San José", code, "US", str(number)))
    names = ("email", "phone", "first_name", "last_name", "city", "postal_code", "country")
    return pa.record_batch(
        [pa.array(column, pa.string()) for column in zip(*rows, strict=True)],
        names=[*names, "external_id"],
    )


def plain_loop(batch: pa.RecordBatch) -> None:
    hashed: list[tuple[str, ...]] = []
    for row in batch.to_pylist():
        clean = (value.strip().lower().encode() for value in row.values())
        hashed.append(tuple(hashlib.sha256(value).hexdigest() for value in clean))


def digests(batch: pa.RecordBatch) -> None:
    sha256(batch.column("email"))
    sha256(batch.column("phone"))
    over_distinct(batch.column("first_name"), sha256)


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args(argv)

    wide = people(chosen.rows)
    three = wide.select(FIELDS)
    rules = Rules(default_country="us")
    google, meta = IDENTITIES["google"], IDENTITIES["meta"]
    works: dict[str, Callable[[], object]] = {
        "plain hashlib loop, three fields": lambda: plain_loop(three),
        "digest alone, three fields": lambda: digests(three),
        "google.identify, three fields": lambda: google(three, rules),
        "meta.identify, three fields": lambda: meta(three, rules),
        "google.identify, all fields": lambda: google(wide, rules),
        "meta.identify, all fields": lambda: meta(wide, rules),
    }
    best = dict.fromkeys(works, float("inf"))
    for _ in range(chosen.rounds):
        for name, work in works.items():
            best[name] = min(best[name], cpu_seconds(work))
    floor = best["plain hashlib loop, three fields"]
    print(f"{chosen.rows:,} rows a batch, best of {chosen.rounds}; rows per CPU second")
    for name, seconds in best.items():
        print(f"{name:34} {chosen.rows / seconds:>11,.0f}   {floor / seconds:5.2f} x the loop")


if __name__ == "__main__":
    main()
