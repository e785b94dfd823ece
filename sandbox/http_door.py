"""HTTP as the sandboxes speak it: the door of a platform, and what every handler behind it does."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar

Platform = TypeVar("Platform")


class HttpDoor:
    """Serves from `start` to `stop`; port 0 is any free port and `port` then tells which."""

    def __init__(self, listener: ThreadingHTTPServer) -> None:
        self._listener = listener
        self._thread = threading.Thread(
            target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._listener.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


class PlatformListener(ThreadingHTTPServer, Generic[Platform]):
    """A thread for each connection, and the platform for all of their handlers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, platform: Platform, handler: type[BaseHTTPRequestHandler], port: int
    ) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.platform = platform

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is an everyday thing here; all else is a fault of ours.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class PlatformHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent: a request line may hold the access token, or the payload."""

    def whole_body(self) -> bytes | None:
        """None where the client died while it sent: half a body could look like a whole one."""
        # Read to the end whatever comes: the rest would be taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return None
        return body

    def answer(self, status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def hang(self) -> None:
        """Say nothing until the client gives up."""
        self.close_connection = True
        while self.rfile.read1(4096):
            pass

    def reset(self) -> None:
        """Cut the connection so that the client sees a reset, not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Left open, http.server shuts it down before it closes it: an orderly end after all.
        self.connection.close()
