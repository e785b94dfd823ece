"""`python -m sandbox.endpoint`: serve until told to stop, and say on which ports."""

from __future__ import annotations

from sandbox.control import ControlServer
from sandbox.endpoint.platform import EndpointPlatform
from sandbox.endpoint.server import EndpointServer
from sandbox.program import parser_for, serve, told_to_stop


def main() -> None:
    parser = parser_for("sandbox.endpoint", __doc__, "the endpoint")
    parser.add_argument("--secret", default="", help="requests must be signed with it")
    options = parser.parse_args()
    stopped = told_to_stop()
    platform = EndpointPlatform(options.secret)
    server = EndpointServer(platform, options.port)
    control = ControlServer(platform, platform.faults, platform.calls, options.control)
    serve(server, control, stopped)


if __name__ == "__main__":
    main()
