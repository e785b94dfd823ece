"""A job on its way: live bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from penstock.command import show
from penstock.command.pace import FIGURES, Extent, Rate, settled
from penstock.contract import JOB_ENDS

_BAR_LEAST, _BAR_MOST = 8, 36
_DONE, _READ, _LEFT = "━", "─", "┈"
_WHOLE = 100


def live(statuses: Iterable[dict[str, Any]], out: TextIO) -> str:
    """Bars while it runs, the whole status when it has ended; returns the last state."""
    console = show.console(out)
    board, state = Board(), ""
    # The bars are drawn by time as well as by change: a job that stands still must show it.
    with Live(board, console=console, refresh_per_second=4, transient=True):
        for status in statuses:
            board.see(status)
            state = status["state"]
    for line in show.job(board.status):
        console.print(line)
    return state


def lines(statuses: Iterable[dict[str, Any]], out: TextIO) -> str:
    """A line for each status; returns the last state."""
    paces, state, status = Paces(), "", {}
    for status in statuses:
        now = time.monotonic()
        paces.see(status, now)
        state = status["state"]
        out.write(" | ".join(_line(status, paces, now)) + "\n")
        out.flush()
    console = show.console(out)
    for line in show.job(status):
        console.print(line)
    return state


class Paces:
    """The rates of a job and its lanes."""

    def __init__(self) -> None:
        self._rates: dict[str, Rate] = {}

    def see(self, status: dict[str, Any], now: float) -> None:
        # No lane has an empty name: that one is the stream's.
        counts = {"": status["extracted"]} | {x["lane"]: settled(x) for x in status["lanes"]}
        for name, count in counts.items():
            self._rates.setdefault(name, Rate()).see(count, now)

    def of_stream(self, now: float) -> float | None:
        return self._rates[""].at(now)

    def of_lane(self, lane: dict[str, Any], now: float) -> float | None:
        # A lane that fails counts all that comes as failed, at once: that is no pace.
        goes = lane["state"] == "open" and not lane["error"]
        return self._rates[lane["lane"]].at(now) if goes else None


class Board:
    """What Live draws: the newest status, and the time that has gone by since."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self._paces = Paces()
        self._seen_at = 0.0
        self._lock = Lock()  # Live draws in a thread of its own

    def see(self, status: dict[str, Any]) -> None:
        with self._lock:
            self._seen_at = time.monotonic()
            self._paces.see(status, self._seen_at)
            self.status = status

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        with self._lock:
            drawn = list(self._draw(time.monotonic(), width, ascii_only=options.ascii_only))
        for line in drawn:
            line.truncate(width, overflow="ellipsis")
            yield line

    def _draw(self, now: float, width: int, *, ascii_only: bool) -> Iterator[Text]:
        if not self.status:
            return
        status, extent = self.status, Extent.of(self.status)
        yield Text(show.clean(status["name"]), "bold") + Text(f"  {status['job_id']}", "dim")
        yield self._stream(now, extent)
        yield Text()
        rows = [self._row(lane, now, extent) for lane in status["lanes"]]
        if not rows:
            return
        taken = sum(max(cell.cell_len for cell in column) + 2 for column in zip(*rows, strict=True))
        bar = min(max(width - taken, _BAR_LEAST), _BAR_MOST)
        for row, lane in zip(rows, status["lanes"], strict=True):
            row[1] = _bar(lane, extent, bar, ascii_only=ascii_only)
        for line, lane in zip(show.columns(rows, right=[2, 3, 4]), status["lanes"], strict=True):
            yield line
            yield Text("  ") + Text(" · ", "dim").join(
                Text(f"{name} ", "dim") + show.figure(name, lane[name]) for name in FIGURES
            )

    def _row(self, lane: dict[str, Any], now: float, extent: Extent) -> list[Text]:
        rate, rows = self._paces.of_lane(lane, now), settled(lane)
        return [
            Text(lane["lane"]),
            Text(),
            Text(_percent(extent, rows)),
            Text(show.number(rows)),
            Text(_rate(rate), "dim"),
            _prospect(self.status, lane, extent, rate),
        ]

    def _stream(self, now: float, extent: Extent) -> Text:
        status = self.status
        ended = status["state"] in JOB_ENDS
        seconds = status["seconds"] + (0 if ended or not status["seconds"] else now - self._seen_at)
        parts = [show.state(status["state"], status["stage"]), Text(f"{_read(extent)} rows read")]
        rate = self._paces.of_stream(now)
        if status["stage"] == "reading" and rate is not None:
            parts.append(Text(_rate(rate)))
        if seconds:
            parts.append(Text(show.duration(seconds)))
        return Text(" · ", "dim").join(parts)


def _bar(lane: dict[str, Any], extent: Extent, width: int, *, ascii_only: bool) -> Text:
    """Delivered, read, and what is still to be read."""
    done, read, left = ("#", "-", ".") if ascii_only else (_DONE, _READ, _LEFT)
    # Without a total, what is read is all that a lane can be measured by.
    known = extent if extent.total is not None else Extent(extent.read, extent.read, False)
    if known.total == 0 and lane["state"] == "open":
        return Text(left * width, "bright_black")
    upto = [int((known.fraction(rows) or 0) * width) for rows in (settled(lane), extent.read)]
    style = show.STYLES.get(lane["state"], "red" if lane["error"] else "cyan")
    return (
        Text(done * upto[0], style)
        + Text(read * (upto[1] - upto[0]), "bright_black")
        + Text(left * (width - upto[1]), "bright_black")
    )


def _prospect(
    status: dict[str, Any], lane: dict[str, Any], extent: Extent, rate: float | None
) -> Text:
    """What is to be expected of a lane, or what became of it."""
    if lane["state"] != "open":
        return show.state(lane["state"])
    if lane["error"]:
        return Text("failing", "red")
    if status["stage"] == "closing" and settled(lane) >= extent.read:
        return Text("closing")
    left = extent.seconds_left(settled(lane), rate)
    if left is None:
        return Text()
    # That the rate stays is an assumption; where the total is one as well, it is named as such.
    return Text(f"{'≈ ' if extent.estimated else ''}{show.duration(left)} left")


def _line(status: dict[str, Any], paces: Paces, now: float) -> Iterator[str]:
    extent = Extent.of(status)
    stream = f"{status['stage']}, {_read(extent)} rows read"
    yield f"{show.duration(status['seconds'])}  {stream}"
    for lane in status["lanes"]:
        rate = paces.of_lane(lane, now)
        figures = [f"{show.number(lane[name])} {name}" for name in FIGURES if lane[name]]
        told = [
            _percent(extent, settled(lane)),
            *(figures or ["0 rows"]),
            _rate(rate or None),
            _prospect(status, lane, extent, rate).plain,
        ]
        yield f"{lane['lane']} {', '.join(filter(None, told))}"


def _read(extent: Extent) -> str:
    if extent.total is None or extent.total == extent.read:
        return show.number(extent.read)
    return f"{show.number(extent.read)} of {'≈ ' * extent.estimated}{show.number(extent.total)}"


def _percent(extent: Extent, rows: int) -> str:
    percent = extent.percent(rows)
    if percent is None:
        return ""
    # All of an estimate is not yet all.
    return f"≈ {min(percent, _WHOLE - 1)}%" if extent.estimated else f"{percent}%"


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{show.number(round(rate))} rows/s"
