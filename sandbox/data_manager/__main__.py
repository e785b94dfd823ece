"""Run with `python -m sandbox.data_manager`: one line of JSON on stdout says where it listens."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path
from typing import Any

from sandbox.control import ControlServer
from sandbox.data_manager.book import Book
from sandbox.data_manager.server import DataManagerServer

DEFAULT_CONTENT = {
    "customers": {
        "1234567890": {
            "managers": ["9876543210"],
            "lists": {
                "111": {"name": "Newsletter"},
                "112": {"name": "Loyalty", "key_type": "USER_ID"},
                "113": {"name": "App", "key_type": "MOBILE_ID"},
            },
        }
    }
}


def main() -> None:
    options = _options()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    content: dict[str, Any] = DEFAULT_CONTENT
    if options.config is not None:
        content = json.loads(options.config.read_text())
    book = Book(options.polls)
    book.load(content["customers"])
    server = DataManagerServer(book, options.host, options.port)
    control = ControlServer(server, server.faults, server.calls, options.control, options.host)
    server.start()
    control.start()
    print(json.dumps({"port": server.port, "control": control.port}), flush=True)
    stopped.wait()
    control.stop()
    server.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.data_manager")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="gRPC; 0 is any free one")
    parser.add_argument("--control", type=int, default=0, help="HTTP control; 0 is any free one")
    parser.add_argument(
        "--polls", type=int, default=1, help="how often a request is found processing"
    )
    parser.add_argument(
        "--config",
        type=Path,
        help='JSON such as {"customers": {"1234567890": {"lists": {"111": {"name": "News"}}}}}',
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
