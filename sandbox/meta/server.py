"""Meta's end of the wire: HTTP/1.1, a thread for each connection, faults on demand."""

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
from sandbox.meta import faults as known
from sandbox.meta.accounts import FIRST
from sandbox.meta.call import GraphCall
from sandbox.meta.errors import GraphError, throttled
from sandbox.meta.graph import method_of
from sandbox.meta.platform import MetaPlatform

MAX_TARGET = 24_000
# A query that removes holds the rows themselves, and ends at about a hundred of them.
MAX_REMOVING_TARGET = 8_192


class MetaServer:
    def __init__(self, platform: MetaPlatform, port: int = 0) -> None:
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

    def __init__(self, address: tuple[str, int], platform: MetaPlatform) -> None:
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
    # Whose figures the answer carries.
    _account = FIRST

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent: a request line holds the access token, and may hold the payload."""

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        # Calls are counted before the answer leaves: who has the answer finds it counted.
        platform = self.server.platform
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            self.close_connection = True
            self._page(HTTPStatus.LENGTH_REQUIRED)
            return
        # Read to the end whatever comes: the rest would be taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # The client died while it sent: half a form could still look like a whole one.
            self.close_connection = True
            return
        self._account = FIRST
        if len(self.path) > (MAX_REMOVING_TARGET if self.command == "DELETE" else MAX_TARGET):
            platform.calls.record("other", "414")
            self._page(HTTPStatus.REQUEST_URI_TOO_LONG)
            return
        try:
            call = GraphCall.read(self.command, self.path, self.headers, body)
        except GraphError as error:
            platform.calls.record("other", error.label)
            self._refuse(error)
            return
        method = method_of(call)
        self._account = platform.graph.account_of(call)
        fault = platform.faults.take(method)
        if fault is not None:
            time.sleep(fault.delay)
            if self._suffer(fault, method):
                return
        self._work(call, method, fault)

    def _work(self, call: GraphCall, method: str, fault: Fault | None) -> None:
        platform = self.server.platform
        try:
            if not platform.usage.admit(self._account):
                raise throttled()
            answer = platform.graph.answer(
                call,
                base_url=f"http://{self.headers.get('Host', '')}",
                mischief=known.Mischief.of(fault),
            )
        except GraphError as error:
            platform.calls.record(method, error.label)
            self._refuse(error)
            return
        if fault is not None and fault.name == "drop_after":
            platform.calls.record(method, fault.name)
            self._reset()
            return
        platform.calls.record(method)
        if fault is not None and fault.name == "success_200":
            answer = {"success": True}
        self._json(HTTPStatus.OK, answer)

    def _suffer(self, fault: Fault, method: str) -> bool:
        """Do what the fault says in place of the call; False when the call is still to be done."""
        if fault.name in known.AFTER_ALL:
            return False
        self.server.platform.calls.record(method, fault.name)
        if fault.name in known.REFUSALS:
            minutes = known.minutes_to_wait(fault.name, fault.data)
            self._refuse(known.REFUSALS[fault.name](), minutes_to_wait=minutes)
        elif fault.name in known.PAGES:
            self._page(known.PAGES[fault.name])
        elif fault.name == "empty_200":
            self._json(HTTPStatus.OK, {})
        elif fault.name == "hang":
            self._hang()
        else:
            self._reset()
        return True

    def _hang(self) -> None:
        self.close_connection = True
        while self.rfile.read1(4096):
            pass

    def _reset(self) -> None:
        """Cut the connection so that the client sees a reset, not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Left open, http.server shuts it down before it closes it: an orderly end after all.
        self.connection.close()

    def _refuse(self, error: GraphError, minutes_to_wait: int | None = None) -> None:
        self._json(error.status, error.body(), minutes_to_wait)

    def _json(self, status: HTTPStatus, body: Any, minutes_to_wait: int | None = None) -> None:
        self._send(status, "application/json; charset=UTF-8", orjson.dumps(body), minutes_to_wait)

    def _page(self, status: HTTPStatus) -> None:
        self._send(status, "text/html; charset=utf-8", known.page(status).encode())

    def _send(
        self, status: HTTPStatus, kind: str, body: bytes, minutes_to_wait: int | None = None
    ) -> None:
        platform = self.server.platform
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in platform.usage.headers(self._account, minutes_to_wait).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
