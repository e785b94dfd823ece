"""`penstock preview`: the first rows as they would be sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from penstock.command.exits import Exit
from penstock.command.jobs import read_spec
from penstock.command.reach import open_client

if TYPE_CHECKING:
    from rich.text import Text

_DIGEST_HEX = 64
_SHOWN = 12


def preview(path: str, rows: int, *, timeout: float | None, as_json: bool) -> Exit:
    spec = read_spec(path)
    with open_client(needs_ledger=False) as client:
        found = client.preview(spec, rows, **({} if timeout is None else {"timeout": timeout}))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return Exit.DONE
    from penstock.command import show  # noqa: PLC0415 - rich is loaded where something is drawn

    console = show.console(sys.stdout)
    for line in _lines(found):
        console.print(line)
    return Exit.DONE


def _lines(found: dict[str, Any]) -> Iterator[Text]:
    from rich.text import Text  # noqa: PLC0415

    from penstock.command import show  # noqa: PLC0415

    read = f"the first {show.number(found['rows'])} rows" if found["rows"] else "there are no rows"
    yield Text(show.clean(found["name"]), "bold") + Text(f"  {read}", "dim")
    for lane in found["lanes"]:
        yield Text()
        yield Text(lane["lane"], "bold") + Text(f"  {lane['kind']} {lane['mode'] or ''}", "dim")
        if "members" not in lane:
            yield Text(f"  {show.number(lane['rows'])} rows of {len(lane['columns'])} columns:")
            yield Text(f"  {', '.join(map(show.clean, lane['columns']))}")
            continue
        if lane["members"]:
            heads = [Text(show.clean(name), "dim") for name in lane["columns"]]
            cells = [
                [Text(_cell(name, value)) for name, value in zip(lane["columns"], row, strict=True)]
                for row in lane["members"]
            ]
            yield from (Text("  ") + line for line in show.columns([heads, *cells]))
        for row, field, reason in lane["left_out"]:
            what = f"row {row + 1} is left out" if not field else f"row {row + 1}, {field}"
            yield Text(f"  {what}: {show.clean(reason)}", "yellow")


def _cell(name: str, value: Any) -> str:
    """Places count from 1 for people; a digest is known by how it begins, and --json has it all."""
    from penstock.command import show  # noqa: PLC0415

    if value is None:
        return ""
    if name == "row":
        return str(value + 1)
    text = show.clean(value)
    return f"{text[:_SHOWN]}…" if len(text) == _DIGEST_HEX else text
