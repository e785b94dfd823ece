"""LinkedIn's end of the wire: HTTP/1.1, a thread for each connection, faults on demand."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import orjson

from sandbox.faults import Fault
from sandbox.http_door import HttpDoor, PlatformHandler, PlatformListener
from sandbox.linkedin import faults as known
from sandbox.linkedin.api import Answer, Call
from sandbox.linkedin.errors import ApiError
from sandbox.linkedin.platform import LinkedInPlatform

_STILL_DONE = ("slow", "drop_after", "user_status", "one_status_short")


class LinkedInServer(HttpDoor):
    def __init__(self, platform: LinkedInPlatform, port: int = 0) -> None:
        super().__init__(PlatformListener(platform, _Handler, port))


class _Handler(PlatformHandler):
    server: PlatformListener[LinkedInPlatform]

    def _handle(self) -> None:
        body = self.whole_body()
        if body is None:
            return
        call = Call.read(self.command, self.path, self.headers, body)
        fault = self.server.platform.faults.take(call.method)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.name not in _STILL_DONE:
                self._suffer(fault, call.method)
                return
        self._work(call, fault)

    do_GET = do_POST = _handle  # noqa: N815 - http.server's names

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
            self.reset()
            return
        if name == "one_status_short":
            answer = Answer({"elements": answer.body["elements"][:-1]})
        platform.calls.record(call.method)
        made = {} if answer.created is None else {"x-restli-id": str(answer.created)}
        if answer.body is None:
            self.answer(answer.status, "application/json", b"", made)
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
            self.answer(status, "text/html; charset=utf-8", known.page(status).encode(), {})
        elif fault.name == "empty_200":
            self._json(HTTPStatus.OK, {})
        elif fault.name == "hang":
            self.hang()
        else:
            self.reset()

    def _json(self, status: HTTPStatus, body: Any, headers: dict[str, str] | None = None) -> None:
        kind = "application/json; charset=UTF-8"
        self.answer(status, kind, orjson.dumps(body), headers or {})
