"""`python -m sandbox.linkedin`: serve until told to stop, and say on which ports."""

from __future__ import annotations

from sandbox.control import ControlServer
from sandbox.linkedin.platform import LinkedInPlatform
from sandbox.linkedin.server import LinkedInServer
from sandbox.program import parser_for, serve, told_to_stop


def main() -> None:
    parser = parser_for("sandbox.linkedin", __doc__, "the API")
    options = parser.parse_args()
    stopped = told_to_stop()
    platform = LinkedInPlatform()
    server = LinkedInServer(platform, options.port)
    control = ControlServer(platform, platform.faults, platform.calls, options.control)
    serve(server, control, stopped)


if __name__ == "__main__":
    main()
