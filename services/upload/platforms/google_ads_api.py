"""Google's SDK on one channel per connection, without what it would retry or log by itself."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.ads.googleads import oauth2
from google.ads.googleads.interceptors import MetadataInterceptor
from google.ads.googleads.v26.services.services.customer_service import CustomerServiceClient
from google.ads.googleads.v26.services.services.customer_service.transports import (
    CustomerServiceGrpcTransport,
)
from google.ads.googleads.v26.services.services.google_ads_service import GoogleAdsServiceClient
from google.ads.googleads.v26.services.services.google_ads_service.transports import (
    GoogleAdsServiceGrpcTransport,
)
from google.ads.googleads.v26.services.services.offline_user_data_job_service import (
    OfflineUserDataJobServiceClient,
)
from google.ads.googleads.v26.services.services.offline_user_data_job_service.transports import (
    OfflineUserDataJobServiceGrpcTransport,
)
from google.ads.googleads.v26.services.services.user_list_service import UserListServiceClient
from google.ads.googleads.v26.services.services.user_list_service.transports import (
    UserListServiceGrpcTransport,
)
from google.ads.googleads.v26.services.types import offline_user_data_job_service as messages
from google.auth.exceptions import GoogleAuthError

from penstock.connections import GoogleAdsConnection
from services.runtime.verdicts import Fatal, RowsRejected
from services.upload.platforms.clients import OfProcess
from services.upload.platforms.google_ads_errors import verdict_of
from services.upload.platforms.google_calls import (
    CHANNEL_OPTIONS,
    no_key,
    secret,
    unreadable_key,
    verdicts,
)

ADD_SECONDS = 120.0
CALL_SECONDS = 60.0
_TRANSPORTS = (
    CustomerServiceGrpcTransport,
    GoogleAdsServiceGrpcTransport,
    OfflineUserDataJobServiceGrpcTransport,
    UserListServiceGrpcTransport,
)
#: Names of an enum's values that say nothing.
UNSET = ("UNSPECIFIED", "UNKNOWN")
# At DEBUG, which an operator can set by GOOGLE_SDK_PYTHON_LOGGING_SCOPE, these write whole requests
# with hashes and developer token.
for _transport in _TRANSPORTS:
    logging.getLogger(_transport.__module__).disabled = True


class GoogleAdsApi:
    """The few calls that a Customer Match upload needs. Each raises verdicts alone. Thread-safe."""

    def __init__(
        self,
        connection: GoogleAdsConnection,
        login_customer_id: str | None = None,
        add_seconds: float = ADD_SECONDS,
    ) -> None:
        self._add_seconds = add_seconds
        # Only the interceptor that adds the tokens. The SDK's other two would log requests and turn
        # some refusals into another kind of exception, leaving the rest.
        channel = grpc.intercept_channel(
            _channel(connection),
            MetadataInterceptor(
                connection.developer_token.get_secret_value(),
                login_customer_id or _login(connection) or None,
            ),
        )
        self._customers = CustomerServiceClient(
            transport=CustomerServiceGrpcTransport(channel=channel)
        )
        self._ads = GoogleAdsServiceClient(transport=GoogleAdsServiceGrpcTransport(channel=channel))
        self._jobs = OfflineUserDataJobServiceClient(
            transport=OfflineUserDataJobServiceGrpcTransport(channel=channel)
        )
        self._lists = UserListServiceClient(transport=UserListServiceGrpcTransport(channel=channel))

    def search(self, customer_id: str, query: str) -> list[Any]:
        request = {"customer_id": customer_id, "query": query}
        with verdicts(verdict_of):
            return list(self._ads.search(request=request, retry=None, timeout=CALL_SECONDS))

    def create_list(self, request: Any) -> str:
        """The resource name of its only list; empty where the request is to be validated alone."""
        try:
            with verdicts(verdict_of):
                answer = self._lists.mutate_user_lists(
                    request=request, retry=None, timeout=CALL_SECONDS
                )
        except RowsRejected as no:
            # Google places the error at the request's operation, and here that is the list.
            told = no.reason.removeprefix("Google: ")
            raise Fatal(f"Google Ads refused to create the user list: {told}.") from None
        return str(answer.results[0].resource_name) if answer.results else ""

    def create_job(self, request: Any) -> str:
        with verdicts(verdict_of):
            answer = self._jobs.create_offline_user_data_job(
                request=request, retry=None, timeout=CALL_SECONDS
            )
        return str(answer.resource_name)

    def add_operations(self, request: Any) -> Any:
        """Takes the raw message and gives it: wrapped only where the SDK insists."""
        wrapped = messages.AddOfflineUserDataJobOperationsRequest.wrap(request)
        with verdicts(verdict_of):
            answer = self._jobs.add_offline_user_data_job_operations(
                request=wrapped, retry=None, timeout=self._add_seconds
            )
        return messages.AddOfflineUserDataJobOperationsResponse.pb(answer)

    def run_job(self, job: str) -> None:
        with verdicts(verdict_of):
            self._jobs.run_offline_user_data_job(
                request={"resource_name": job}, retry=None, timeout=CALL_SECONDS
            )

    def accessible_customers(self) -> int:
        with verdicts(verdict_of):
            answer = self._customers.list_accessible_customers(
                request={}, retry=None, timeout=CALL_SECONDS
            )
        return len(answer.resource_names)


def _made(key: tuple[GoogleAdsConnection, str | None]) -> GoogleAdsApi:
    return GoogleAdsApi(*key)


_apis = OfProcess(_made)


def api_of(connection: GoogleAdsConnection, login_customer_id: str | None = None) -> GoogleAdsApi:
    return _apis.get((connection, login_customer_id))


def check(connection: GoogleAdsConnection) -> str:
    login = _login(connection)
    if login:
        api_of(connection).search(login, "SELECT customer.id FROM customer LIMIT 1")
        return f"Google Ads answers for account {login}."
    count = api_of(connection).accessible_customers()
    return f"Google Ads answers; the credentials reach {count} accounts."


def quoted(text: str) -> str:
    """As the query language has strings."""
    quote = '"' if "'" in text else "'"
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def words(name: str) -> str:
    return name.replace("_", " ").lower()


def _login(connection: GoogleAdsConnection) -> str:
    return (connection.login_customer_id or "").replace("-", "")


def _channel(connection: GoogleAdsConnection) -> grpc.Channel:
    host = connection.endpoint or GoogleAdsServiceClient.DEFAULT_ENDPOINT
    if connection.insecure:
        return grpc.insecure_channel(host, options=CHANNEL_OPTIONS)
    return OfflineUserDataJobServiceGrpcTransport.create_channel(
        host=host, credentials=_credentials(connection), options=CHANNEL_OPTIONS
    )


def _credentials(connection: GoogleAdsConnection) -> Any:
    """Signed in once here, so that a refusal shows as what it is; the channel renews them."""
    given: dict[str, Any] = {
        "client_id": connection.client_id,
        "client_secret": secret(connection.client_secret),
        "refresh_token": secret(connection.refresh_token),
        "json_key_file_path": connection.json_key_file_path,
        "impersonated_email": connection.impersonated_email,
    }
    try:
        return oauth2.get_credentials({k: v for k, v in given.items() if v is not None})
    except OSError as exc:
        raise unreadable_key(exc) from None
    except ValueError:
        raise no_key() from None
    except GoogleAuthError as exc:
        raise verdict_of(exc) from None
