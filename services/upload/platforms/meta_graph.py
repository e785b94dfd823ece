"""Meta's Graph API through the SDK's session: its token, proof, certificates, version.

The calls go to that session's own `requests.Session`. The SDK's `call` would form-encode the
payload at a hundred times the CPU, take pages of HTML for success, and raise errors whose text
holds token and payload.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import requests
from facebook_business.api import FacebookAdsApi
from facebook_business.session import FacebookSession

from penstock.connections import MetaConnection
from services.runtime.verdicts import Fatal, Retryable, Verdict
from services.upload.platforms.meta_errors import verdict_of

CONNECT_SECONDS = 10.0
READ_SECONDS = 120.0
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: its object, and its headers for what they say of the account's limits."""

    fields: dict[str, Any]
    headers: Mapping[str, str]


class Graph:
    """Each call gives the answer or raises a verdict. For one thread."""

    def __init__(self, connection: MetaConnection, read_seconds: float = READ_SECONDS) -> None:
        self._timeout = (CONNECT_SECONDS, read_seconds)
        secret = connection.app_secret
        session = FacebookSession(
            app_id=connection.app_id,
            app_secret=secret.get_secret_value() if secret else None,
            access_token=connection.access_token.get_secret_value(),
        )
        session.requests.headers.update(FacebookAdsApi.HTTP_DEFAULT_HEADERS)
        self._http: requests.Session = session.requests
        self._root = (
            f"{(connection.graph_url or session.GRAPH).rstrip('/')}/{FacebookAdsApi.API_VERSION}"
        )

    def get(self, path: str, **params: str) -> dict[str, Any]:
        return self._call("GET", path, params=params).fields

    def post(self, path: str, body: bytes) -> Answer:
        return self._call("POST", path, data=body, headers=_JSON)

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def _call(self, verb: str, path: str, **what: Any) -> Answer:
        try:
            response = self._http.request(
                verb,
                f"{self._root}/{path}",
                timeout=self._timeout,
                allow_redirects=False,  # the token must not follow one
                **what,
            )
        except requests.RequestException as exc:
            raise _unanswered(exc) from None
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            answer = None
        error = answer.get("error") if isinstance(answer, dict) else None
        if response.status_code == requests.codes.ok and isinstance(answer, dict) and not error:
            return Answer(answer, response.headers)
        raise verdict_of(response.status_code, response.headers, error)


def _unanswered(exc: requests.RequestException) -> Verdict:
    if isinstance(exc, requests.exceptions.SSLError):
        return Retryable("No secure connection to Meta could be made.")
    if isinstance(exc, requests.ConnectTimeout):
        return Retryable("Meta could not be reached in time.")
    if isinstance(exc, requests.Timeout):
        return Retryable("Meta did not answer in time.")
    if isinstance(exc, ValueError):  # the kinds of an address that is none
        return Fatal("`graph_url` of the connection is not an address of a web server.")
    return Retryable("Meta could not be reached, or the connection was lost.")


class _Threads(threading.local):
    def __init__(self) -> None:
        self.graphs: dict[tuple[int, MetaConnection], Graph] = {}


_threads = _Threads()


def graph_of(connection: MetaConnection) -> Graph:
    """One for each thread, whose connections it keeps open; and none from before a fork."""
    key = (os.getpid(), connection)
    if key not in _threads.graphs:
        _threads.graphs[key] = Graph(connection)
    return _threads.graphs[key]


def check(connection: MetaConnection) -> str:
    graph_of(connection).get("me", fields="id")
    return f"Meta accepts the access token (Graph API {FacebookAdsApi.API_VERSION})."
