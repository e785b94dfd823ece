"""Meta's end of the wire: HTTP/1.1, a thread for each connection, faults on demand."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import orjson

from sandbox.faults import Fault
from sandbox.http_door import HttpDoor, PlatformHandler, PlatformListener
from sandbox.meta import faults as known
from sandbox.meta.accounts import FIRST
from sandbox.meta.call import GraphCall
from sandbox.meta.errors import GraphError, throttled
from sandbox.meta.graph import method_of
from sandbox.meta.platform import MetaPlatform

MAX_TARGET = 24_000
# A query that removes holds the rows themselves, and ends at about a hundred of them.
MAX_REMOVING_TARGET = 8_192


class MetaServer(HttpDoor):
    def __init__(self, platform: MetaPlatform, port: int = 0) -> None:
        super().__init__(PlatformListener(platform, _Handler, port))


class _Handler(PlatformHandler):
    server: PlatformListener[MetaPlatform]
    # Whose figures the answer carries.
    _account = FIRST

    def _handle(self) -> None:
        # Calls are counted before the answer leaves: who has the answer finds it counted.
        platform = self.server.platform
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            self.close_connection = True
            self._page(HTTPStatus.LENGTH_REQUIRED)
            return
        body = self.whole_body()
        if body is None:
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

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - http.server's names

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
            self.reset()
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
            self.hang()
        else:
            self.reset()
        return True

    def _refuse(self, error: GraphError, minutes_to_wait: int | None = None) -> None:
        self._json(error.status, error.body(), minutes_to_wait)

    def _json(self, status: HTTPStatus, body: Any, minutes_to_wait: int | None = None) -> None:
        self._send(status, "application/json; charset=UTF-8", orjson.dumps(body), minutes_to_wait)

    def _page(self, status: HTTPStatus) -> None:
        self._send(status, "text/html; charset=utf-8", known.page(status).encode())

    def _send(
        self, status: HTTPStatus, kind: str, body: bytes, minutes_to_wait: int | None = None
    ) -> None:
        self.answer(
            status, kind, body, self.server.platform.usage.headers(self._account, minutes_to_wait)
        )
