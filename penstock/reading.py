"""How a document becomes a spec: what is tolerated, and the sentence for what is not."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from penstock.audiences import Audience
from penstock.destinations import KINDS, PLAIN
from penstock.errors import SpecError, VersionError
from penstock.params import TypedParam
from penstock.parts import nearest
from penstock.spec import VERSIONS, WIRE_VERSION, Consent, Identity, JobSpec, Source

_HALF = re.compile(r"[\ud800-\udfff]")


def load(path: Path) -> JobSpec:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise SpecError(f"{path} cannot be read: {exc.strerror}.") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} cannot be read: it is not UTF-8 text.") from None
    try:
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as exc:
        raise SpecError(
            f"{path} is not valid {path.suffix.lstrip('.') or 'TOML'}: {exc}."
        ) from None
    return read(document)


def read(document: Any, unknown: list[str] | None = None) -> JobSpec:
    """The document's spec, or a SpecError. Where `unknown` is given, keys that are not known are
    left out and told of there.
    """
    if not isinstance(document, dict):
        raise SpecError("The spec must be one JSON object (or TOML document).")
    for path, flaw in _unstorable(document):
        raise SpecError(f"The spec's {path or 'document'}: its text must not hold {flaw}.")
    version = document.get("v", WIRE_VERSION)
    if version not in VERSIONS or isinstance(version, bool):
        raise VersionError(
            f"The spec has version {version!r}, and this release reads version "
            f"{' and '.join(map(str, VERSIONS))}: "
            "upgrade the workers first, then the apps that enqueue."
        )
    document = _with_kinds(document)
    if unknown is not None:
        document = _without_unknown(document, unknown)
    try:
        return JobSpec.model_validate(document)
    except ValidationError as exc:
        # The input is left out: it may hold parameters.
        raise SpecError(_sentence(exc)) from None


def _unstorable(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where there is text that Postgres has no form for, be it a key."""
    left: list[tuple[str, Any]] = [("", document)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                if flaw := _flaw(str(key)):
                    yield path, flaw
                left.append((f"{path}.{key}".lstrip("."), item))
        elif isinstance(value, list | tuple):
            left += [(f"{path}.{n}".lstrip("."), item) for n, item in enumerate(value, 1)]
        elif isinstance(value, str) and (flaw := _flaw(value)):
            yield path, flaw


def _flaw(text: str) -> str | None:
    if "\x00" in text:
        return "a NUL character"
    # What JSON calls "\\ud800" is half of a character.
    return None if text.isascii() or not _HALF.search(text) else "half of a surrogate pair"


def _with_kinds(document: dict[str, Any]) -> dict[str, Any]:
    """A destination's kind shows in its keys; nobody has to write it."""
    destinations = document.get("destinations")
    if isinstance(destinations, dict):
        raise SpecError(
            "The spec's 'destinations' must be a list: in TOML, begin each with [[destinations]]."
        )
    if not isinstance(destinations, list | tuple):
        return document
    out = []
    for n, item in enumerate(destinations, 1):
        if not isinstance(item, dict):
            raise SpecError(f"Destination {n} must be a table of keys.")
        kind = item.get("kind")
        if kind is None:
            kind = (
                "s3" if "bucket" in item
                else "google_ads" if "customer_id" in item or "user_list_id" in item
                else "meta" if "audience_id" in item or "account_id" in item or "audience" in item
                else None
            )  # fmt: skip
        if kind is None:
            raise SpecError(
                f"Destination {n} names no platform{_typo(item)}: give it `customer_id` "
                "(Google Ads), `audience_id` (Meta) or `bucket` (S3), or say which by `kind`."
            )
        if not isinstance(kind, str) or kind not in KINDS:
            raise SpecError(
                f"Destination {n} has the unknown kind {kind!r}"
                f"{nearest(str(kind), tuple(KINDS))}; known are {', '.join(KINDS)}."
            )
        out.append({**item, "kind": kind})
    return {**document, "destinations": out}


def _without_unknown(document: dict[str, Any], unknown: list[str]) -> dict[str, Any]:
    def keep(part: Any, model: type[BaseModel], where: str) -> Any:
        if not isinstance(part, dict):
            return part
        kept = {}
        for key, value in part.items():
            if key in model.model_fields:
                kept[key] = value
            else:
                known = tuple(model.model_fields)
                unknown.append(f"The unknown key {where}{key} was ignored{nearest(key, known)}.")
        return kept

    out: dict[str, Any] = keep(document, JobSpec, "")
    for name, model in (("source", Source), ("identity", Identity), ("consent", Consent)):
        if name in out:
            out[name] = keep(out[name], model, f"{name}.")
    source = out.get("source")
    if isinstance(source, dict) and isinstance(source.get("params"), dict):
        source["params"] = {
            name: keep(value, TypedParam, f"source.params.{name}.")
            for name, value in source["params"].items()
        }
    if isinstance(out.get("destinations"), list):
        out["destinations"] = [
            keep(d, KINDS[d["kind"]], f"destinations[{n}].")
            for n, d in enumerate(out["destinations"], 1)
        ]
    return out


def _typo(destination: dict[str, Any]) -> str:
    """Where a destination's kind does not show, the key that should have shown it."""
    telling = ("customer_id", "user_list_id", "audience_id", "account_id", "bucket")
    known = {key for model in KINDS.values() for key in model.model_fields}
    hints = (f"; {key!r} is not known{hint}" for key in destination if key not in known
             if (hint := nearest(str(key), telling)))  # fmt: skip
    return next(hints, "")


# pydantic's words for what a person should not have to know the names of.
_PLAIN_WORDS = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_pattern_mismatch": "does not have the form it needs",
    "dict_type": "must be a table of keys",
    "model_type": "must be a table of keys",
    "model_attributes_type": "must be a table of keys",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
}


def _sentence(exc: ValidationError) -> str:
    errors = exc.errors(include_url=False, include_input=False)
    # An unknown key is the cause of the missing one beside it: say it first.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    # pydantic names the members of a union in the path; the spec's author never wrote those.
    loc = [p for p in first["loc"] if p not in KINDS and p != PLAIN and "TypedParam" not in str(p)]
    loc = loc[:-1] if loc[-2:] == ["value", "str"] else loc
    path = ".".join(str(p + 1) if isinstance(p, int) else p for p in loc)
    model = _model_at(first["loc"])
    if first["type"] == "extra_forbidden":
        known = tuple(model.model_fields) if model else ()
        return f"The spec has an unknown key {path!r}{nearest(str(loc[-1]), known)}."
    if first["type"] == "missing":
        return f"The spec has no {path!r}, which is needed."
    if first["type"] == "value_error":
        return f"The spec's {path or 'document'}: {first['msg'].removeprefix('Value error, ')}."
    text = _PLAIN_WORDS.get(first["type"], first["msg"])
    field = model.model_fields.get(str(loc[-1])) if model and loc else None
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    return f"The spec's {path or 'document'}: {text}{meaning}."


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Whose key the last part of the path is."""
    if any("TypedParam" in str(p) for p in loc):
        return TypedParam
    match loc:
        case (_,):
            return JobSpec
        case ("source", _):
            return Source
        case ("identity", _):
            return Identity
        case ("consent", _):
            return Consent
        case ("destinations", int(), str(kind), _):
            return Audience if kind == PLAIN else KINDS.get(kind)
    return None
