"""`python -m sandbox.meta`: serve until told to stop, and say on which ports."""

from __future__ import annotations

from sandbox.control import ControlServer
from sandbox.meta.platform import MetaPlatform
from sandbox.meta.server import MetaServer
from sandbox.program import parser_for, serve, told_to_stop


def main() -> None:
    parser = parser_for("sandbox.meta", __doc__, "the Graph API")
    parser.add_argument("--app-secret", default="sandbox-secret")
    options = parser.parse_args()
    stopped = told_to_stop()
    platform = MetaPlatform(options.app_secret)
    server = MetaServer(platform, options.port)
    control = ControlServer(platform, platform.faults, platform.calls, options.control)
    serve(server, control, stopped)


if __name__ == "__main__":
    main()
