"""The endpoint's end of the wire: HTTP/1.1, a thread for each connection, faults on demand."""

from __future__ import annotations

import time
from http import HTTPStatus

import orjson

from sandbox.endpoint.platform import POST, EndpointPlatform
from sandbox.endpoint.post import Refused
from sandbox.faults import Fault
from sandbox.http_door import HttpDoor, PlatformHandler, PlatformListener

_STILL_DONE = ("slow", "drop_after", "answer")
_PIECE = b" " * 65_536


class EndpointServer(HttpDoor):
    def __init__(self, platform: EndpointPlatform, port: int = 0) -> None:
        super().__init__(PlatformListener(platform, _Handler, port))


class _Handler(PlatformHandler):
    server: PlatformListener[EndpointPlatform]

    def _handle(self) -> None:
        body = self.whole_body()
        if body is None:
            return
        fault = self.server.platform.faults.take(POST)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.name not in _STILL_DONE:
                self._suffer(fault)
                return
        self._work(body, fault)

    do_POST = _handle  # noqa: N815 - http.server's names

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
            self.reset()
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
            self.hang()
        else:
            self.reset()

    def _told(self, fault: Fault) -> None:
        data = fault.data
        self._send(
            int(data.get("status", 200)),
            str(data.get("body", "")).encode(),
            data.get("headers", {}),
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.answer(status, "application/json", body, headers)
