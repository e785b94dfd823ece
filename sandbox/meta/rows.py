"""The `payload` of a users request: which rows are members and which are invalid entries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from sandbox.meta.errors import GraphError, bad_parameter
from sandbox.meta.faults import NO_MISCHIEF, Mischief

MAX_ROWS = 10_000
MAX_SAMPLES = 100

_AS_GIVEN = frozenset({"EXTERN_ID", "MADID"})
_HASHED = frozenset(
    {"EMAIL", "PHONE", "FN", "LN", "CT", "ST", "ZIP", "COUNTRY", "DOBY", "DOBM", "DOBD", "GEN"}
)
# What may be done with a row's data; customer lists know California alone, and 0 for "find out".
_LDU = "DATA_PROCESSING_OPTIONS"
_LDU_PLACES = {
    "DATA_PROCESSING_OPTIONS_COUNTRY": (0, 1),
    "DATA_PROCESSING_OPTIONS_STATE": (0, 1000),
}
_NO_IDENTIFIERS = frozenset({_LDU, *_LDU_PLACES})
# Both spellings name the same identifier: what one added, the other removes.
_SPELLINGS = {"EMAIL_SHA256": "EMAIL", "PHONE_SHA256": "PHONE"}

_is_hash = re.compile("[0-9a-f]{64}").fullmatch


class _Column(NamedTuple):
    place: int
    prefix: str
    hashed: bool


@dataclass(frozen=True)
class Rows:
    schema: tuple[str, ...]
    members: list[str]
    # Those of the members that come with Limited Data Use.
    limited: list[str]
    received: int
    invalid: int
    # An entry that was refused, as sent, and why: personal, as in the real answer.
    samples: dict[str, str]


def read_rows(payload: Any, mischief: Mischief = NO_MISCHIEF) -> Rows:
    """Sort the rows into members and invalid entries, or refuse them all."""
    if not isinstance(payload, dict):
        raise bad_parameter("Param payload must be a JSON object with schema and data")
    schema, data = payload.get("schema"), payload.get("data")
    places = _places(schema)
    if not isinstance(data, list) or not data:
        raise _mismatch()
    if len(data) > MAX_ROWS:
        raise bad_parameter(f"Param payload.data takes at most {MAX_ROWS} rows in one request")
    if isinstance(schema, str):
        data = [row if isinstance(row, list) else [row] for row in data]

    return _sorted(data, places, mischief)


def _sorted(data: list[Any], places: dict[str, int], mischief: Mischief) -> Rows:
    members: list[str] = []
    limited: list[str] = []
    samples: dict[str, str] = {}
    columns, width, every = _columns(places), len(places), mischief.spoil_every
    options = {name: places[name] for name in sorted(places.keys() & _NO_IDENTIFIERS)}
    for number, row in enumerate(data, start=1):
        if type(row) is not list or len(row) != width:
            raise _mismatch()
        if mischief.bad_value is not None and mischief.bad_value in row:
            raise bad_parameter(f"Param payload[data][{number - 1}] is not acceptable")
        member, reason = _member(row, columns)
        if every is not None and number % every == 0:
            reason = "The entry was called invalid on demand"
        under_limits = _limited(row, options)
        if not reason:
            members.append(member)
            if under_limits:
                limited.append(member)
        elif len(samples) < MAX_SAMPLES:
            samples[orjson.dumps(row).decode()] = reason
    return Rows(tuple(places), members, limited, len(data), len(data) - len(members), samples)


def _places(schema: Any) -> dict[str, int]:
    keys = [schema] if isinstance(schema, str) else schema
    if not isinstance(keys, list) or not keys:
        raise bad_parameter("Param payload.schema must be a key or a list of keys")
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        name = _SPELLINGS.get(key, key) if isinstance(key, str) else None
        if name is None or name not in _HASHED | _AS_GIVEN | _NO_IDENTIFIERS:
            raise bad_parameter(f"Param payload.schema has an unknown key at position {place}")
        if name in places:
            raise bad_parameter(f"Param payload.schema has the key {name} twice")
        places[name] = place
    if not places.keys() - _NO_IDENTIFIERS:
        raise bad_parameter("Param payload.schema has no key of a person")
    return places


def _columns(places: dict[str, int]) -> list[_Column]:
    return [
        _Column(places[name], f"{name}:", name in _HASHED)
        for name in sorted(places.keys() - _NO_IDENTIFIERS)
    ]


def _limited(row: list[Any], options: dict[str, int]) -> bool:
    """Whether the row comes with Limited Data Use; unknown options refuse the request."""
    for name, place in options.items():
        value = row[place]
        known = value in ([], ["LDU"]) if name == _LDU else value in _LDU_PLACES[name]
        if not known:
            raise bad_parameter(f"Param {name.lower()} has an unknown value")
    return _LDU in options and row[options[_LDU]] == ["LDU"]


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
