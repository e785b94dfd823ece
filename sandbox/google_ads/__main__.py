"""Run with `python -m sandbox.google_ads`: one line of JSON on stdout says where it listens."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path
from typing import Any

from sandbox.control import ControlServer
from sandbox.google_ads.book import Book
from sandbox.google_ads.server import GoogleAdsServer

DEFAULT_CONTENT = {"customers": {"1234567890": {"111": "Newsletter"}}}


def main() -> None:
    options = _options()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    content: dict[str, Any] = DEFAULT_CONTENT
    if options.config is not None:
        content = json.loads(options.config.read_text())
    book = Book(options.processing)
    book.load(content["customers"])
    server = GoogleAdsServer(book, options.host, options.port)
    control = ControlServer(server, server.faults, server.calls, options.control, options.host)
    server.start()
    control.start()
    print(json.dumps({"port": server.port, "control": control.port}), flush=True)
    stopped.wait()
    control.stop()
    server.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.google_ads")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="gRPC; 0 is any free one")
    parser.add_argument("--control", type=int, default=0, help="HTTP control; 0 is any free one")
    parser.add_argument("--processing", type=float, default=1.0, help="seconds a job runs")
    parser.add_argument(
        "--config",
        type=Path,
        help='JSON such as {"customers": {"1234567890": {"111": "Newsletter"}}}',
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
