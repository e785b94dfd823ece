#!/usr/bin/env python
"""Writes the pages of docs/reference that say what the code says: `python docs/generate.py`.

With --check it writes nothing, names the pages that are stale, and exits 1 if there are any.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from penstock.connections import KINDS as CONNECTIONS
from penstock.params import TypedParam
from penstock.settings import ClientSettings
from penstock.spec import KINDS as DESTINATIONS
from penstock.spec import Consent, Identity, JobSpec, Source
from services.export.settings import ExportSettings
from services.extract.settings import ExtractSettings
from services.jobs.settings import JobsSettings
from services.runtime.settings import LaneSettings, WorkerSettings
from services.upload.settings import UploadSettings

REFERENCE = Path(__file__).resolve().parent / "reference"
NOTICE = "<!-- Written by docs/generate.py: change the code, not this page. -->\n"

SETTINGS: dict[str, type[WorkerSettings]] = {
    "jobs and beat": JobsSettings,
    "extract": ExtractSettings,
    "upload and export": LaneSettings,
    "upload": UploadSettings,
    "export": ExportSettings,
}
SETTINGS_HEAD = """\
# Settings

Penstock is set by environment variables, read once, when a process starts. Each may be given as
`<NAME>_FILE` instead, the path of a file that holds the value; where both are set, the variable
wins. A URL may hold a password: treat it as a secret. `deploy/env.example` has all of them, to
copy.
"""
CLIENTS = """\
The apps that submit and follow jobs, the command line, and every worker. `penstock preview` also
reads `PENSTOCK_PAYLOAD_URL` and `PENSTOCK_PAYLOAD_KEY`, which must be what the workers have."""
WORKERS = "All of the above, and a worker needs `PENSTOCK_LEDGER_URL` and `PENSTOCK_CONNECTIONS`."
CONNECTIONS_HEAD = """\
# Connections

`connections.toml` has a table for each connection; a job names the table. `PENSTOCK_CONNECTIONS`
is the file's path. `${NAME}` in a text is filled in from the environment, and any key may be given
as `<key>_file`, the path of a file that holds the value. Both are read when a connection is first
used, so a worker needs only what its own connections ask for. `deploy/connections.example.toml` has
one of each kind.
"""
JOB_HEAD = """\
# The job

A job is one document: TOML or JSON in a file, a dict in Python. A key that is not listed here is
refused. A destination's `kind` may be left out where it shows in its keys: of `google_ads`, `meta`
and `s3`.
"""
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} long",
    "maxLength": "at most {} long",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "pattern": "matches `{}`",
}
_WORDS = {
    "string": "text",
    "password": "secret text",
    "path": "path",
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
}


def pages() -> dict[Path, str]:
    """Each generated page's path and text."""
    texts = {"settings.md": _settings(), "connections.md": _connections(), "job.md": _job()}
    return {REFERENCE / name: f"{NOTICE}\n{text}" for name, text in texts.items()}


def _settings() -> str:
    sections = [
        SETTINGS_HEAD,
        f"## Clients\n\n{CLIENTS}\n\n{_table(ClientSettings, 'Variable')}",
        f"## Every worker\n\n{WORKERS}\n\n{_table(WorkerSettings, 'Variable', ClientSettings)}",
    ]
    for service, settings in SETTINGS.items():
        table = _table(settings, "Variable", settings.__base__)
        sections.append(f"## {service[0].upper()}{service[1:]}\n\n{table}")
    return "\n".join(sections)


def _connections() -> str:
    sections = [CONNECTIONS_HEAD]
    for kinds, model in _by_model(CONNECTIONS):
        sections.append(f"## {kinds}\n\n{_about(model)}\n\n{_table(model, 'Key')}")
    return "\n".join(sections)


def _job() -> str:
    parts: dict[str, type[BaseModel]] = {
        "The document": JobSpec,
        "source": Source,
        "params, where a value's type is told": TypedParam,
        "identity": Identity,
        "consent": Consent,
        **{f"destinations: {kinds}": model for kinds, model in _by_model(DESTINATIONS)},
    }
    sections = [JOB_HEAD]
    for name, model in parts.items():
        sections.append(f"## {name}\n\n{_about(model)}\n\n{_table(model, 'Key')}")
    return "\n".join(sections)


def _by_model(kinds: Mapping[str, type[BaseModel]]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Each model once: platforms without keys of their own share one."""
    for model in dict.fromkeys(kinds.values()):
        yield ", ".join(kind for kind, its in kinds.items() if its is model), model


def _about(model: type[BaseModel]) -> str:
    return inspect.getdoc(model) or ""


def _table(model: type[BaseModel], first_column: str, base: type[BaseModel] | None = None) -> str:
    """A row for each field; with a `base`, only for what it adds."""
    schema = model.model_json_schema(by_alias=False)
    required = schema.get("required", [])
    prefix = str(model.model_config.get("env_prefix", ""))
    lines = [f"| {first_column} | Type | Default | What it is |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if base and name in base.model_fields:
            continue
        shown = f"{prefix}{name.upper()}" if prefix else name
        if name == "mode" and hasattr(model, "modes"):
            # The field's type has every mode, and not each platform does.
            field = {**field, "enum": model.modes}  # noqa: PLW2901
        default = "needed" if name in required else _default(field)
        kind = ", ".join([_type(field, schema), *_bounds(field)])
        about = _description(field, schema)
        lines.append(f"| `{shown}` | {_cell(kind)} | {_cell(default)} | {_cell(about)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or isinstance(default, dict | list):
        # A nested table has its defaults in a table of its own.
        return ""
    text = default if isinstance(default, str) else json.dumps(default)
    return f"`{text.removesuffix('.0')}`"


def _description(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """The field's own, or that of the one part it refers to."""
    if "description" in field:
        return str(field["description"])
    return str(_resolved(field, schema).get("description", "")).replace("\n", " ")


def _resolved(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = field.get("$ref")
    if reference is None:
        return field
    found: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[-1]]
    return found


def _bounds(field: dict[str, Any]) -> Iterator[str]:
    """Those of the value, also where it may be left out."""
    for one in [field, *(x for x in field.get("anyOf", []) if x.get("type") != "null")]:
        for key, text in _BOUNDS.items():
            if key in one:
                bound = one[key]
                number = int(bound) if isinstance(bound, float) and bound.is_integer() else bound
                yield text.format(number)


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return "table"
    for key in ("anyOf", "oneOf"):
        if key in field:
            types = [_type(x, schema) for x in field[key] if x.get("type") != "null"]
            return " or ".join(dict.fromkeys(types))
    return _plain(field, schema)


def _plain(field: dict[str, Any], schema: dict[str, Any]) -> str:
    kind = field["type"]
    if kind == "array":
        item = _type(field["items"], schema)
        return f"list of {item}" if item.startswith("`") else f"list of {item}s"
    if kind == "object":
        return f"table, each value {_type(field['additionalProperties'], schema)}"
    return _WORDS[field.get("format", kind)]


def main(arguments: list[str]) -> int:
    stale = [
        path
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if "--check" in arguments:
            sys.stdout.write(f"{path.name} is stale; run docs/generate.py\n")
        else:
            path.write_text(pages()[path], encoding="utf-8")
            sys.stdout.write(f"{path.name} written\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
