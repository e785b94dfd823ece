"""`python -m sandbox.linkedin`: serve until told to stop, and say on which ports."""

from __future__ import annotations

import argparse
import json
import signal
import threading

from sandbox.control import ControlServer
from sandbox.linkedin.platform import LinkedInPlatform
from sandbox.linkedin.server import LinkedInServer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.linkedin", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the API; 0 is any free one")
    parser.add_argument("--control", type=int, default=0, help="of the control port; 0 likewise")
    options = parser.parse_args()

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    platform = LinkedInPlatform()
    server = LinkedInServer(platform, options.port)
    control = ControlServer(platform, platform.faults, platform.calls, options.control)
    server.start()
    control.start()
    print(json.dumps({"port": server.port, "control": control.port}), flush=True)
    stopped.wait()
    control.stop()
    server.stop()


if __name__ == "__main__":
    main()
