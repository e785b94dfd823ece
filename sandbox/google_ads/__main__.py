"""Run with `python -m sandbox.google_ads`: one line of JSON on stdout says where it listens."""

from __future__ import annotations

from sandbox.control import ControlServer
from sandbox.google_ads.book import Book
from sandbox.google_ads.server import GoogleAdsServer
from sandbox.program import content_of, content_parser_for, serve, told_to_stop

DEFAULT_CONTENT = {"customers": {"1234567890": {"111": "Newsletter"}}}
EXAMPLE = '{"customers": {"1234567890": {"111": "Newsletter"}}}'


def main() -> None:
    parser = content_parser_for("sandbox.google_ads", EXAMPLE)
    parser.add_argument("--processing", type=float, default=1.0, help="seconds a job runs")
    options = parser.parse_args()
    stopped = told_to_stop()
    book = Book(options.processing)
    book.load(content_of(options.config, DEFAULT_CONTENT)["customers"])
    server = GoogleAdsServer(book, options.host, options.port)
    control = ControlServer(server, server.faults, server.calls, options.control, options.host)
    serve(server, control, stopped)


if __name__ == "__main__":
    main()
