"""The door by which a test or the demo steers a sandbox and looks inside it.

One small HTTP JSON server for every platform. Faults and calls are its own; members, jobs and
sessions belong to the platform, which is asked through `Platform`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from sandbox.calls import Calls
from sandbox.faults import Faults
from sandbox.http_door import HttpDoor

MEMBERS_PER_WRITE = 10_000


class Platform(Protocol):
    """What a platform's server offers to its control port. Called from many threads.

    A `KeyError` becomes 404, a `ValueError` or `TypeError` 400, with its text.
    """

    def members(self, audience_id: str) -> Iterable[str]:
        """Give the canonical keys the audience holds now, in no order; KeyError if unknown."""
        ...

    def member_count(self, audience_id: str) -> int: ...

    def state(self) -> Mapping[str, Any]: ...

    def reset(self) -> None:
        """Forget members, jobs and sessions, and keep the audiences."""
        ...

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take what the body names and give all settings as they are now."""
        ...


class ControlServer(HttpDoor):
    def __init__(
        self,
        platform: Platform,
        faults: Faults,
        calls: Calls,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.platform = platform
        self.faults = faults
        self.calls = calls
        super().__init__(_Server((host, port), self))

    def reset(self) -> None:
        self.platform.reset()
        self.faults.clear()
        self.calls.clear()

    def add_fault(self, body: Mapping[str, Any]) -> None:
        unknown = body.keys() - {"method", "fault", "times", "after", "delay", "data"}
        if unknown:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
        if "fault" not in body:
            raise ValueError("a fault needs its name in 'fault'")
        self.faults.add(
            str(body.get("method", "*")),
            str(body["fault"]),
            times=int(body.get("times", 1)),
            after=int(body.get("after", 0)),
            delay=float(body.get("delay", 0.0)),
            data=body.get("data"),
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], control: ControlServer) -> None:
        super().__init__(address, _Handler)
        self.control = control


class _Handler(BaseHTTPRequestHandler):
    """One request a connection (HTTP/1.0), so that a long answer needs no length beforehand."""

    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent: stdout carries the ready line and stderr the real errors."""

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _get(self, path: str, _: dict[str, Any]) -> Any:
        control = self.server.control
        match path.split("/")[1:]:
            case ["health"]:
                return {"ok": True}
            case ["faults"]:
                return control.faults.listing()
            case ["calls"]:
                return control.calls.listing()
            case ["state"]:
                return control.platform.state()
            case ["members", audience]:
                audience = unquote(audience)
                if parse_qs(urlsplit(self.path).query).get("count") == ["1"]:
                    return {"count": control.platform.member_count(audience)}
                return _Members(control.platform.members(audience))
        raise KeyError(f"no GET {path}")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        control = self.server.control
        match path:
            case "/faults":
                control.add_fault(body)
                return control.faults.listing()
            case "/reset":
                control.reset()
                return {"ok": True}
            case "/audiences":
                return control.platform.add_audience(body)
            case "/settings":
                return control.platform.change_settings(body)
        raise KeyError(f"no POST {path}")

    def _delete(self, path: str, _: dict[str, Any]) -> Any:
        if path != "/faults":
            raise KeyError(f"no DELETE {path}")
        self.server.control.faults.clear()
        return {"ok": True}

    def _serve(self, answer_to: Callable[[str, dict[str, Any]], Any]) -> None:
        status, answer = HTTPStatus.OK, None
        # Read even where nobody asks for it: closing on an unread body resets the connection.
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = answer_to(urlsplit(self.path).path, _json_object(raw))
        except KeyError as error:
            status, answer = HTTPStatus.NOT_FOUND, {"error": str(error.args[0])}
        except (ValueError, TypeError) as error:
            status, answer = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        for part in answer.parts() if isinstance(answer, _Members) else [json.dumps(answer)]:
            self.wfile.write(part.encode())


def _json_object(raw: bytes) -> dict[str, Any]:
    body = json.loads(raw or b"{}")
    if not isinstance(body, dict):
        raise TypeError("the body is a JSON object")
    return body


@dataclass(frozen=True)
class _Members:
    keys: Iterable[str]

    def parts(self) -> Iterator[str]:
        """Give the JSON piece by piece: a million keys must not exist a second time as text."""
        yield '{"members": ['
        count = 0
        for keys in _chunks(self.keys, MEMBERS_PER_WRITE):
            yield (", " if count else "") + json.dumps(keys)[1:-1]
            count += len(keys)
        yield f'], "count": {count}}}'


def _chunks(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(keys)
    while chunk := list(islice(rest, size)):
        yield chunk
