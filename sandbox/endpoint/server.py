"""The endpoint's end of the wire: HTTP/1.1, a thread for each connection, faults on demand."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from sandbox.endpoint.platform import POST, EndpointPlatform
from sandbox.endpoint.post import Refused
from sandbox.faults import Fault

_STILL_DONE = ("slow", "drop_after", "answer")
_PIECE = b" " * 65_536


class EndpointServer:
    def __init__(self, platform: EndpointPlatform, port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), platform)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], platform: EndpointPlatform) -> None:
        super().__init__(address, _Handler)
        self.platform = platform

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is an everyday thing here; all else is a fault of ours.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent: stdout carries the ready line and stderr the real errors."""

    def do_POST(self) -> None:
        # Read to the end whatever comes: the rest would be taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        fault = self.server.platform.faults.take(POST)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.name not in _STILL_DONE:
                self._suffer(fault)
                return
        self._work(body, fault)

    def _work(self, body: bytes, fault: Fault | None) -> None:
        # Calls are counted before the answer leaves: who has the answer finds it counted.
        calls, name = self.server.platform.calls, fault.name if fault else ""
        try:
            answer = self.server.platform.take(dict(self.headers.items()), body)
        except Refused as no:
            calls.record(POST, no.why)
            self._send(no.status, b"", {})
            return
        calls.record(POST, name if name == "drop_after" else None)
        if name == "drop_after":
            self._reset()
        elif fault and name == "answer":
            self._told(fault)
        else:
            self._send(HTTPStatus.OK, orjson.dumps(answer), {})

    def _suffer(self, fault: Fault) -> None:
        """Do what the fault says in place of the work."""
        self.server.platform.calls.record(POST, fault.name)
        if fault.name == "status":
            self._told(fault)
        elif fault.name == "endless":
            self.close_connection = True
            self.send_response(HTTPStatus.OK)
            self.end_headers()
            while True:
                self.wfile.write(_PIECE)
        elif fault.name == "hang":
            self.close_connection = True
            while self.rfile.read1(4096):
                pass
        else:
            self._reset()

    def _told(self, fault: Fault) -> None:
        data = fault.data
        self._send(
            int(data.get("status", 200)),
            str(data.get("body", "")).encode(),
            data.get("headers", {}),
        )

    def _reset(self) -> None:
        """Cut the connection so that the client sees a reset, not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Left open, http.server shuts it down before it closes it: an orderly end after all.
        self.connection.close()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
