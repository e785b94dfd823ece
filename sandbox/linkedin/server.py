"""LinkedIn's end of the wire: HTTP/1.1, a thread for each connection, faults on demand."""

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

from sandbox.faults import Fault
from sandbox.linkedin import faults as known
from sandbox.linkedin.api import Answer, Call
from sandbox.linkedin.errors import ApiError
from sandbox.linkedin.platform import LinkedInPlatform

_STILL_DONE = ("slow", "drop_after", "user_status", "one_status_short")


class LinkedInServer:
    def __init__(self, platform: LinkedInPlatform, port: int = 0) -> None:
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

    def __init__(self, address: tuple[str, int], platform: LinkedInPlatform) -> None:
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

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        # Read to the end whatever comes: the rest would be taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        call = Call.read(self.command, self.path, self.headers, body)
        fault = self.server.platform.faults.take(call.method)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.name not in _STILL_DONE:
                self._suffer(fault, call.method)
                return
        self._work(call, fault)

    def _work(self, call: Call, fault: Fault | None) -> None:
        # Calls are counted before the answer leaves: who has the answer finds it counted.
        platform, name = self.server.platform, fault.name if fault else ""
        spoil = None
        if fault and name == "user_status":
            spoil = {"every": int(fault.data.get("every", 1)), "status": int(fault.data["status"])}
        try:
            answer = platform.api.answer(call, spoil)
        except ApiError as error:
            platform.calls.record(call.method, error.label)
            self._json(error.status, error.body())
            return
        if name == "drop_after":
            platform.calls.record(call.method, name)
            self._reset()
            return
        if name == "one_status_short":
            answer = Answer({"elements": answer.body["elements"][:-1]})
        platform.calls.record(call.method)
        made = {} if answer.created is None else {"x-restli-id": str(answer.created)}
        if answer.body is None:
            self._send(answer.status, "application/json", b"", made)
        else:
            self._json(answer.status, answer.body, made)

    def _suffer(self, fault: Fault, method: str) -> None:
        """Do what the fault says in place of the call."""
        self.server.platform.calls.record(method, fault.name)
        if fault.name in known.REFUSALS:
            error = known.REFUSALS[fault.name]()
            self._json(error.status, error.body(), known.headers_of(fault.name, fault.data))
        elif fault.name in known.PAGES:
            status = known.PAGES[fault.name]
            self._send(status, "text/html; charset=utf-8", known.page(status).encode())
        elif fault.name == "empty_200":
            self._json(HTTPStatus.OK, {})
        elif fault.name == "hang":
            self.close_connection = True
            while self.rfile.read1(4096):
                pass
        else:
            self._reset()

    def _reset(self) -> None:
        """Cut the connection so that the client sees a reset, not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Left open, http.server shuts it down before it closes it: an orderly end after all.
        self.connection.close()

    def _json(self, status: HTTPStatus, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json; charset=UTF-8", orjson.dumps(body), headers)

    def _send(
        self, status: HTTPStatus, kind: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
