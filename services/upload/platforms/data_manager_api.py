"""Google's SDK on one channel per connection, without what it would retry or log by itself.

Over gRPC and with raw messages: the SDK's REST transport turns each request into JSON, which for
10,000 members costs twenty times the CPU of building them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.ads.datamanager_v1.services.ingestion_service import IngestionServiceClient
from google.ads.datamanager_v1.services.ingestion_service.transports import (
    IngestionServiceGrpcTransport,
)
from google.ads.datamanager_v1.services.user_list_service import UserListServiceClient
from google.ads.datamanager_v1.services.user_list_service.transports import (
    UserListServiceGrpcTransport,
)
from google.ads.datamanager_v1.types import ingestion_service as messages
from google.ads.datamanager_v1.types import user_list
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2 import credentials, service_account

from penstock.connections import DataManagerConnection
from services.runtime.verdicts import Retryable
from services.upload.platforms.clients import OfProcess
from services.upload.platforms.data_manager_errors import NotFound, verdict_of
from services.upload.platforms.google_calls import (
    CHANNEL_OPTIONS,
    no_key,
    secret,
    unreadable_key,
    verdicts,
)

SEND_SECONDS = 120.0
CALL_SECONDS = 60.0
SCOPE = "https://www.googleapis.com/auth/datamanager"
_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
# At DEBUG, which an operator can set by GOOGLE_SDK_PYTHON_LOGGING_SCOPE, these write whole requests
# with hashes.
for _transport in (IngestionServiceGrpcTransport, UserListServiceGrpcTransport):
    logging.getLogger(_transport.__module__).disabled = True


class UnknownRequest(Retryable):
    """Google does not know a request's id, or not yet."""


class DataManagerApi:
    """The few calls that a Customer Match upload needs. They take raw messages and give them.
    Each raises verdicts alone. Thread-safe.
    """

    def __init__(
        self, connection: DataManagerConnection, send_seconds: float = SEND_SECONDS
    ) -> None:
        self._send_seconds = send_seconds
        channel = _channel(connection)
        self._ingestion = IngestionServiceClient(
            transport=IngestionServiceGrpcTransport(channel=channel)
        )
        self._lists = UserListServiceClient(transport=UserListServiceGrpcTransport(channel=channel))

    def ingest(self, request: Any) -> str:
        """Give the id of the request, or nothing where it was only to be checked."""
        wrapped = messages.IngestAudienceMembersRequest.wrap(request)
        with verdicts(verdict_of):
            answer = self._ingestion.ingest_audience_members(
                request=wrapped, retry=None, timeout=self._send_seconds
            )
        return str(answer.request_id)

    def remove(self, request: Any) -> str:
        wrapped = messages.RemoveAudienceMembersRequest.wrap(request)
        with verdicts(verdict_of):
            answer = self._ingestion.remove_audience_members(
                request=wrapped, retry=None, timeout=self._send_seconds
            )
        return str(answer.request_id)

    def remove_all(self, request: Any) -> str:
        wrapped = messages.RemoveAllAudienceMembersRequest.wrap(request)
        with verdicts(verdict_of):
            answer = self._ingestion.remove_all_audience_members(
                request=wrapped, retry=None, timeout=CALL_SECONDS
            )
        return str(answer.request_id)

    def status(self, request_id: str) -> Any:
        """Where the request stands at its one destination; None where Google does not say."""
        try:
            with verdicts(verdict_of):
                answer = self._ingestion.retrieve_request_status(
                    request={"request_id": request_id}, retry=None, timeout=CALL_SECONDS
                )
        except NotFound:
            raise UnknownRequest("Google does not know one of the lane's requests.") from None
        found = messages.RetrieveRequestStatusResponse.pb(answer).request_status_per_destination
        return found[0] if found else None

    def user_list(self, name: str, metadata: Sequence[tuple[str, str]]) -> Any:
        with verdicts(verdict_of):
            answer = self._lists.get_user_list(
                request={"name": name}, retry=None, timeout=CALL_SECONDS, metadata=metadata
            )
        return user_list.UserList.pb(answer)


_apis = OfProcess(DataManagerApi)


def api_of(connection: DataManagerConnection) -> DataManagerApi:
    return _apis.get(connection)


def check(connection: DataManagerConnection) -> str:
    """Asks after a request that never was: Google looks at the credentials before it says so."""
    with suppress(UnknownRequest):
        api_of(connection).status("penstock-doctor")
    return "The Data Manager API answers and takes the credentials."


def project_of(connection: DataManagerConnection) -> str:
    """Whose limits the connection's calls count against: Google counts by project."""
    if connection.quota_project:
        return connection.quota_project
    if connection.json_key_file_path:
        return str(_key(connection)["project_id"])
    if connection.client_id:
        # 1234-abcd.apps.googleusercontent.com: the number is the project's.
        return connection.client_id.partition("-")[0]
    return connection.endpoint or ""


def _channel(connection: DataManagerConnection) -> grpc.Channel:
    host = (connection.endpoint or IngestionServiceClient.DEFAULT_ENDPOINT).rpartition("://")[2]
    if connection.insecure:
        return grpc.insecure_channel(host, options=CHANNEL_OPTIONS)
    return IngestionServiceGrpcTransport.create_channel(
        host=host, credentials=_credentials(connection), options=CHANNEL_OPTIONS
    )


def _credentials(connection: DataManagerConnection) -> Any:
    """Signed in once here, so that a refusal shows as what it is; the channel renews them."""
    if connection.json_key_file_path:
        made = _service_account(connection)
    else:
        made = credentials.Credentials(
            None,
            refresh_token=secret(connection.refresh_token),
            client_id=connection.client_id,
            client_secret=secret(connection.client_secret),
            token_uri=_TOKEN_URI,
        )
    if connection.quota_project:
        # Before signing in: it makes a copy, that knows no token.
        made = made.with_quota_project(connection.quota_project)
    try:
        made.refresh(Request())
    except GoogleAuthError as exc:
        raise verdict_of(exc) from None
    return made


def _service_account(connection: DataManagerConnection) -> Any:
    try:
        return service_account.Credentials.from_service_account_info(
            _key(connection), scopes=[SCOPE]
        )
    except (GoogleAuthError, ValueError):
        raise no_key() from None


def _key(connection: DataManagerConnection) -> dict[str, Any]:
    path = connection.json_key_file_path
    if path is None:
        raise no_key()
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise unreadable_key(exc) from None
    except ValueError:
        raise no_key() from None
    if not isinstance(key, dict) or "project_id" not in key:
        raise no_key()
    return key
