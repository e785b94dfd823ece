"""Run with `python -m sandbox.data_manager`: one line of JSON on stdout says where it listens."""

from __future__ import annotations

from sandbox.control import ControlServer
from sandbox.data_manager.book import Book
from sandbox.data_manager.server import DataManagerServer
from sandbox.program import content_of, content_parser_for, serve, told_to_stop

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
EXAMPLE = '{"customers": {"1234567890": {"lists": {"111": {"name": "News"}}}}}'


def main() -> None:
    parser = content_parser_for("sandbox.data_manager", EXAMPLE)
    parser.add_argument(
        "--polls", type=int, default=1, help="how often a request is found processing"
    )
    options = parser.parse_args()
    stopped = told_to_stop()
    book = Book(options.polls)
    book.load(content_of(options.config, DEFAULT_CONTENT)["customers"])
    server = DataManagerServer(book, options.host, options.port)
    control = ControlServer(server, server.faults, server.calls, options.control, options.host)
    serve(server, control, stopped)


if __name__ == "__main__":
    main()
