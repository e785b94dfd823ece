"""The gRPC server: checks the caller's metadata, lets faults act, counts and answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.ads.googleads.v26.services.types import google_ads_service, user_list_service
from google.ads.googleads.v26.services.types import offline_user_data_job_service as job_service
from google.longrunning import operations_pb2

from sandbox.faults import Faults
from sandbox.google_ads.book import Book
from sandbox.google_ads.failures import FAILURE_TRAILER, Refused, refused
from sandbox.google_ads.jobs import JobService, require_customer
from sandbox.google_ads.lists import ListService
from sandbox.google_ads.mishap import FAULT_NAMES, Mishap
from sandbox.google_ads.search import search
from sandbox.grpc_door import MESSAGE_BYTES, GrpcDoor

JOB_SERVICE = "google.ads.googleads.v26.services.OfflineUserDataJobService"
LIST_SERVICE = "google.ads.googleads.v26.services.UserListService"
SEARCH_SERVICE = "google.ads.googleads.v26.services.GoogleAdsService"
METHODS = ("create", "add", "run", "search", "mutate")

SearchResponse: Any = google_ads_service.SearchGoogleAdsResponse.pb()
StreamResponse: Any = google_ads_service.SearchGoogleAdsStreamResponse.pb()

Work = Callable[[Any, Mishap, str], Any]


class GoogleAdsServer(GrpcDoor[Book]):
    def __init__(self, book: Book, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(book, Faults(FAULT_NAMES, METHODS))
        self._jobs = JobService(book)
        self._lists = ListService(book)
        self.listen(
            "google-ads",
            f"{host}:{port}",
            [self._job_handlers(), self._list_handlers(), self._search_handlers()],
            [("grpc.max_send_message_length", MESSAGE_BYTES)],
        )

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        customer_id = str(body.get("customer_id", ""))
        list_id = body.get("user_list_id")
        user_list = self.book.add_user_list(
            customer_id,
            None if list_id is None else str(list_id),
            str(body.get("name", f"List {list_id}")),
            key_type=str(body.get("key_type", "CONTACT_INFO")),
        )
        if "manager_id" in body:
            self.book.set_manager(customer_id, str(body["manager_id"]))
        return {
            "customer_id": user_list.customer_id,
            "user_list_id": user_list.id,
            "resource_name": user_list.resource_name,
            **user_list.listing(),
        }

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        unknown = body.keys() - {"processing"}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        if "processing" in body:
            self.book.processing = float(body["processing"])
        return {"processing": self.book.processing}

    def _job_handlers(self) -> grpc.GenericRpcHandler:
        create = job_service.CreateOfflineUserDataJobRequest.pb()
        add = job_service.AddOfflineUserDataJobOperationsRequest.pb()
        run = job_service.RunOfflineUserDataJobRequest.pb()
        operation = operations_pb2.Operation
        jobs = self._jobs
        return grpc.method_handlers_generic_handler(
            JOB_SERVICE,
            {
                "CreateOfflineUserDataJob": self.unary("create", create, jobs.create),
                "AddOfflineUserDataJobOperations": self.unary("add", add, jobs.add),
                "RunOfflineUserDataJob": self.unary("run", run, jobs.run, operation),
            },
        )

    def _list_handlers(self) -> grpc.GenericRpcHandler:
        mutate = user_list_service.MutateUserListsRequest.pb()
        return grpc.method_handlers_generic_handler(
            LIST_SERVICE, {"MutateUserLists": self.unary("mutate", mutate, self._lists.mutate)}
        )

    def _search_handlers(self) -> grpc.GenericRpcHandler:
        stream = google_ads_service.SearchGoogleAdsStreamRequest.pb()

        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield self.call("search", self._search_stream, request, context)

        return grpc.method_handlers_generic_handler(
            SEARCH_SERVICE,
            {
                "Search": self.unary(
                    "search", google_ads_service.SearchGoogleAdsRequest.pb(), self._search
                ),
                "SearchStream": grpc.unary_stream_rpc_method_handler(
                    answer, stream.FromString, StreamResponse.SerializeToString
                ),
            },
        )

    def _search(self, request: Any, mishap: Mishap, _: str) -> Any:
        require_customer(self.book, request.customer_id)
        mishap.before()
        rows, mask = search(self.book, request.customer_id, request.query)
        mishap.after()
        return SearchResponse(results=rows, field_mask=mask, total_results_count=len(rows))

    def _search_stream(self, request: Any, mishap: Mishap, request_id: str) -> Any:
        found = self._search(request, mishap, request_id)
        return StreamResponse(
            results=found.results, field_mask=found.field_mask, request_id=request_id
        )

    def call(self, method: str, work: Work, request: Any, context: grpc.ServicerContext) -> Any:
        request_id = secrets.token_urlsafe(16)
        trailers: list[tuple[str, str | bytes]] = [("request-id", request_id)]
        try:
            login = _check_caller(dict(context.invocation_metadata()))
            if not self.book.lets_in(_customer_of(request), login):
                raise refused(
                    "authorization_error.USER_PERMISSION_DENIED",
                    "The customer is reached through its manager account alone.",
                )
            answer = work(request, Mishap(self.faults.take(method), context), request_id)
        except Refused as no:
            self.calls.record(method, no.name)
            if no.failure is not None:
                no.failure.request_id = request_id
                trailers.append((FAILURE_TRAILER, no.failure.SerializeToString()))
                context.set_trailing_metadata(tuple(trailers))
            context.abort(no.status, no.details)
        self.calls.record(method)
        context.set_trailing_metadata(tuple(trailers))
        return answer


def _customer_of(request: Any) -> str:
    if "customer_id" in request.DESCRIPTOR.fields_by_name:
        return str(request.customer_id)
    return (*request.resource_name.split("/"), "")[1]


def _check_caller(metadata: Mapping[str, str | bytes]) -> str | None:
    """Give the account the caller comes through, where it names one."""
    if metadata.get("authorization") == "Bearer bad":
        raise refused("authentication_error.OAUTH_TOKEN_INVALID", "The token is not valid.")
    if not metadata.get("developer-token"):
        raise refused(
            "request_error.DEVELOPER_TOKEN_PARAMETER_MISSING", "The developer token is missing."
        )
    login = metadata.get("login-customer-id")
    if login is None:
        return None
    login = str(login)
    if not (login.isascii() and login.isdigit()):
        raise refused(
            "header_error.INVALID_LOGIN_CUSTOMER_ID", "The login customer id is digits alone."
        )
    return login
