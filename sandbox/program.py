"""A platform's sandbox as a program: serve until told to stop, and say on which ports."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path
from typing import Any, Protocol

from sandbox.control import ControlServer


class Door(Protocol):
    @property
    def port(self) -> int: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


def parser_for(program: str, description: str | None, serves: str) -> argparse.ArgumentParser:
    """Knows the two ports; `serves` is what the first is of."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--port", type=int, default=0, help=f"of {serves}; 0 is any free one")
    parser.add_argument("--control", type=int, default=0, help="of the control port; 0 likewise")
    return parser


def content_parser_for(program: str, example: str) -> argparse.ArgumentParser:
    """Knows the host and a file with the platform's first content too."""
    parser = parser_for(program, None, "the gRPC port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--config", type=Path, help=f"JSON such as {example}")
    return parser


def content_of(config: Path | None, default: dict[str, Any]) -> dict[str, Any]:
    return default if config is None else dict(json.loads(config.read_text()))


def told_to_stop() -> threading.Event:
    """Set by the signals that end a process; asked for first, so that none is missed."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def serve(door: Door, control: ControlServer, stopped: threading.Event) -> None:
    """One line of JSON on stdout says where it listens."""
    door.start()
    control.start()
    print(json.dumps({"port": door.port, "control": control.port}), flush=True)
    stopped.wait()
    control.stop()
    door.stop()
