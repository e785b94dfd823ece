"""The `payload` of a users request: which rows are members and which are invalid entries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from sandbox.meta.errors import GraphError, bad_parameter

MAX_ROWS = 10_000
MAX_SAMPLES = 100

_AS_GIVEN = frozenset({"EXTERN_ID", "MADID"})
_HASHED = frozenset(
    {"EMAIL", "PHONE", "FN", "LN", "CT", "ST", "ZIP", "COUNTRY", "DOBY", "DOBM", "DOBD", "GEN"}
)
# Both spellings name the same identifier: what one added, the other removes.
_SPELLINGS = {"EMAIL_SHA256": "EMAIL", "PHONE_SHA256": "PHONE"}

_is_hash = re.compile("[0-9a-f]{64}").fullmatch


class _Column(NamedTuple):
    place: int
    prefix: str
    hashed: bool


@dataclass(frozen=True)
class Rows:
    members: list[str]
    received: int
    invalid: int
    # An entry that was refused, as sent, and why: personal, as in the real answer.
    samples: dict[str, str]


def read_rows(payload: Any, *, spoil_every: int | None = None) -> Rows:
    """Sort the rows; with `spoil_every` n, each n-th is called invalid whatever it holds."""
    if not isinstance(payload, dict):
        raise bad_parameter("Param payload must be a JSON object with schema and data")
    schema, data = payload.get("schema"), payload.get("data")
    columns = _columns(schema)
    if not isinstance(data, list) or not data:
        raise _mismatch()
    if len(data) > MAX_ROWS:
        raise bad_parameter(f"Param payload.data takes at most {MAX_ROWS} rows in one request")
    if isinstance(schema, str):
        data = [row if isinstance(row, list) else [row] for row in data]

    members: list[str] = []
    samples: dict[str, str] = {}
    width = len(columns)
    for number, row in enumerate(data, start=1):
        if type(row) is not list or len(row) != width:
            raise _mismatch()
        member, reason = _member(row, columns)
        if spoil_every is not None and number % spoil_every == 0:
            reason = "The entry was called invalid on demand"
        if not reason:
            members.append(member)
        elif len(samples) < MAX_SAMPLES:
            samples[orjson.dumps(row).decode()] = reason
    return Rows(members, len(data), len(data) - len(members), samples)


def _columns(schema: Any) -> list[_Column]:
    keys = [schema] if isinstance(schema, str) else schema
    if not isinstance(keys, list) or not keys:
        raise bad_parameter("Param payload.schema must be a key or a list of keys")
    columns: dict[str, _Column] = {}
    for place, key in enumerate(keys):
        name = _SPELLINGS.get(key, key) if isinstance(key, str) else None
        if name is None or name not in _HASHED | _AS_GIVEN:
            raise bad_parameter(f"Param payload.schema has an unknown key at position {place}")
        if name in columns:
            raise bad_parameter(f"Param payload.schema has the key {name} twice")
        columns[name] = _Column(place, f"{name}:", name in _HASHED)
    return [columns[name] for name in sorted(columns)]


def _member(row: list[Any], columns: list[_Column]) -> tuple[str, str]:
    parts = []
    for place, prefix, hashed in columns:
        value = row[place]
        if value == "":
            continue
        if type(value) is not str:
            return "", "The entry is not a string"
        if hashed and not _is_hash(value):
            return "", "The entry is not a SHA256 hash in lower-case hex"
        parts.append(prefix + value)
    return "|".join(parts), "" if parts else "The entry has no identifier"


def _mismatch() -> GraphError:
    return bad_parameter("Data is missing or does not match schema")
