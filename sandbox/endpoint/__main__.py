"""`python -m sandbox.endpoint`: serve until told to stop, and say on which ports."""

from __future__ import annotations

import argparse
import json
import signal
import threading

from sandbox.control import ControlServer
from sandbox.endpoint.platform import EndpointPlatform
from sandbox.endpoint.server import EndpointServer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the endpoint; 0 is any free one")
    parser.add_argument("--control", type=int, default=0, help="of the control port; 0 likewise")
    parser.add_argument("--secret", default="", help="requests must be signed with it")
    options = parser.parse_args()

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    platform = EndpointPlatform(options.secret)
    server = EndpointServer(platform, options.port)
    control = ControlServer(platform, platform.faults, platform.calls, options.control)
    server.start()
    control.start()
    print(json.dumps({"port": server.port, "control": control.port}), flush=True)
    stopped.wait()
    control.stop()
    server.stop()


if __name__ == "__main__":
    main()
