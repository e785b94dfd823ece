"""Meta's Graph API through the SDK's session: its token, proof, certificates, version.

The calls go to that session's own `requests.Session`. The SDK's `call` would form-encode the
payload at a hundred times the CPU, take pages of HTML for success, and raise errors whose text
holds token and payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from facebook_business.api import FacebookAdsApi
from facebook_business.session import FacebookSession

from penstock.connections import MetaConnection
from services.runtime.verdicts import Retryable, Verdict
from services.upload.platforms.clients import OfThread
from services.upload.platforms.meta_errors import verdict_of
from services.upload.platforms.web_api import call, json_of, unanswered

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
        response = call(
            self._http, verb, f"{self._root}/{path}", _unanswered, timeout=self._timeout, **what
        )
        answer = json_of(response.content)
        error = answer.get("error") if isinstance(answer, dict) else None
        if response.status_code == requests.codes.ok and isinstance(answer, dict) and not error:
            return Answer(answer, response.headers)
        raise verdict_of(response.status_code, response.headers, error)


def _unanswered(exc: requests.RequestException) -> Verdict:
    if isinstance(exc, requests.exceptions.SSLError):
        return Retryable("No secure connection to Meta could be made.")
    if isinstance(exc, requests.ConnectTimeout):
        return Retryable("Meta could not be reached in time.")
    return unanswered(exc, "Meta", "graph_url")


_graphs = OfThread(Graph)


def graph_of(connection: MetaConnection) -> Graph:
    return _graphs.get(connection)


def check(connection: MetaConnection) -> str:
    graph_of(connection).get("me", fields="id")
    return f"Meta accepts the access token (Graph API {FacebookAdsApi.API_VERSION})."
