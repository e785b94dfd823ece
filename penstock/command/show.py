"""What a person reads: figures, aligned columns, and a job's whole status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from penstock.command.pace import FIGURES

STYLES = {
    "succeeded": "green",
    "rejected_some": "yellow",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "skipped": "dim",
}
_FIGURE_STYLES = {"rejected": "yellow", "failed": "red"}


def console(file: TextIO) -> Console:
    # Nothing is guessed from the text, and no line is broken: links must survive being copied.
    return Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)


def clean(text: object) -> str:
    """A name or a sentence from elsewhere, without what would steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def number(value: int) -> str:
    return f"{value:,}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(value: int) -> str:
    scaled, units = float(value), ["bytes", "kB", "MB", "GB", "TB"]
    while scaled >= 1000 and len(units) > 1:  # noqa: PLR2004 - SI units
        scaled /= 1000
        del units[0]
    return f"{value} bytes" if units[0] == "bytes" else f"{scaled:.1f} {units[0]}"


def moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M:%S}"


def state(name: str, said: str | None = None) -> Text:
    return Text(clean(said or name), STYLES.get(name, ""))


def figure(name: str, value: int) -> Text:
    return Text(number(value), _FIGURE_STYLES.get(name, "") if value else "dim")


def columns(rows: Sequence[Sequence[Text]], right: Iterable[int] = ()) -> list[Text]:
    """One line a row, its cells aligned; `right` names the columns that end together."""
    widths = [max(cell_len(cell.plain) for cell in column) for column in zip(*rows, strict=True)]
    to_right, lines = set(right), []
    for row in rows:
        line = Text()
        for n, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = Text(" " * (width - cell_len(cell.plain)))
            line.append_text(gap + cell if n in to_right else cell + gap).append("  ")
        line.rstrip()
        lines.append(line)
    return lines


def recent(jobs: Sequence[dict[str, Any]]) -> Iterator[Text]:
    if not jobs:
        yield Text("No jobs yet.")
        return
    heads = [Text(head, "dim") for head in ("job", "state", "rows read", "created", "name")]
    rows = [
        [
            Text(job["job_id"]),
            state(job["state"]),
            Text(number(job["extracted"])),
            Text(moment(job["created_at"]), "dim"),
            Text(clean(job["name"])),
        ]
        for job in jobs
    ]
    yield from columns([heads, *rows], right=[2])


def job(status: dict[str, Any]) -> Iterator[Text]:
    """All that is known of a job."""
    yield Text(clean(status["name"]), "bold")
    yield from columns([[Text(label, "dim"), value] for label, value in _facts(status)])
    if status["lanes"]:
        yield Text()
        yield from _lanes(status["lanes"])
    for lane in status["lanes"]:
        remarks = list(_remarks(lane))
        if remarks:
            yield Text()
            yield Text(lane["lane"], "bold")
            yield from (Text("  ") + line for line in remarks)


def _facts(status: dict[str, Any]) -> Iterator[tuple[str, Text]]:
    yield "job", Text(status["job_id"])
    if status.get("dry_run"):
        yield "dry run", Text("nothing was changed anywhere", "yellow")
    if status["retry_of"]:
        yield "retry of", Text(status["retry_of"])
    took = f" after {duration(status['seconds'])}" if status["seconds"] else ""
    yield "state", state(status["state"], status["stage"]) + Text(took)
    yield "read", Text(_read(status))
    if status["error"]:
        yield "error", Text(clean(status["error"]), "red")
    for warning in status["warnings"]:
        yield "warning", Text(clean(warning), "yellow")


def _read(status: dict[str, Any]) -> str:
    read, total = status["extracted"], status["total"]
    if status["ended_at"] or total is None or total < read:
        return f"{number(read)} rows"
    return f"{number(read)} of {'≈ ' if status['total_is_estimate'] else ''}{number(total)} rows"


def _lanes(lanes: list[dict[str, Any]]) -> list[Text]:
    heads = [Text(head, "dim") for head in ("lane", "kind", "state", "rows", *FIGURES)]
    rows = [
        [
            Text(lane["lane"]),
            Text(lane["kind"], "dim"),
            state(lane["state"]),
            Text(number(lane["rows"])),
            *(figure(name, lane[name]) for name in FIGURES),
        ]
        for lane in lanes
    ]
    return columns([heads, *rows], right=range(3, 8))


def _remarks(lane: dict[str, Any]) -> Iterator[Text]:
    if lane["error"]:
        yield Text(clean(lane["error"]), "red")
    if lane.get("waiting"):
        yield Text(f"waiting: {clean(lane['waiting'])}", "yellow")
    if lane["reasons"]:
        yield from columns(
            [[Text(number(r["count"])), Text(clean(r["reason"]))] for r in lane["reasons"]],
            right=[0],
        )
    for key, value in lane["details"].items():
        # A bare number may be an id; those in a table of figures are counts.
        said = str(value) if type(value) is int else _plain(value)
        yield Text(f"{clean(key).replace('_', ' ')}: ", "dim") + Text(said)
    for artifact in lane["artifacts"]:
        yield Text(artifact["url"] or f"s3://{artifact['bucket']}/{artifact['key']}", "cyan")
        until = f", link until {moment(artifact['expires_at'])}" if artifact["expires_at"] else ""
        yield Text(f"{size(artifact['bytes'])}, {number(artifact['rows'])} rows{until}", "dim")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, int):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{clean(k).replace('_', ' ')} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return clean(value)
