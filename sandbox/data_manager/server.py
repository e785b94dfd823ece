"""The gRPC server: lets faults act and limits bite, counts, and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.ads.datamanager_v1.types import ingestion_service, user_list_service
from grpc_status import rpc_status

from sandbox.data_manager.book import Book
from sandbox.data_manager.mishap import FAULT_NAMES, Mishap
from sandbox.data_manager.quota import Quota
from sandbox.data_manager.refusals import Refused
from sandbox.data_manager.service import Service
from sandbox.faults import Faults
from sandbox.grpc_door import GrpcDoor

INGESTION = "google.ads.datamanager.v1.IngestionService"
USER_LISTS = "google.ads.datamanager.v1.UserListService"
METHODS = ("ingest", "remove", "remove_all", "status", "get_user_list")

Work = Callable[[Any, Mishap, grpc.ServicerContext], Any]


class DataManagerServer(GrpcDoor[Book]):
    def __init__(self, book: Book, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(book, Faults(FAULT_NAMES, METHODS))
        self._quota = Quota()
        self._service = Service(book)
        self.listen("data-manager", f"{host}:{port}", [self._ingestion(), self._user_lists()])

    def reset(self) -> None:
        super().reset()
        self._quota.reset()

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        list_id = body.get("user_list_id")
        added = self.book.add_user_list(
            str(body.get("customer_id", "")),
            None if list_id is None else str(list_id),
            str(body.get("name", f"List {list_id}")),
            str(body.get("key_type", "CONTACT_ID")),
        )
        if "manager_id" in body:
            self.book.add_manager(added.customer_id, str(body["manager_id"]))
        return {"customer_id": added.customer_id, "user_list_id": added.id, "name": added.name}

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """polls, per_minute, per_day, violations; and `older`: by how many seconds everybody in a
        list is to have been added earlier.
        """
        unknown = body.keys() - {"polls", "per_minute", "per_day", "violations", "older"}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        self.book.polls = int(body.get("polls", self.book.polls))
        self._quota.per_minute = int(body.get("per_minute", self._quota.per_minute))
        self._quota.per_day = int(body.get("per_day", self._quota.per_day))
        self._service.violations = int(body.get("violations", self._service.violations))
        self.book.age(float(body.get("older", 0)))
        return {
            "polls": self.book.polls,
            "per_minute": self._quota.per_minute,
            "per_day": self._quota.per_day,
            "violations": self._service.violations,
        }

    def _ingestion(self) -> grpc.GenericRpcHandler:
        types, service = ingestion_service, self._service
        mutate = {
            "IngestAudienceMembers": ("ingest", types.IngestAudienceMembersRequest, service.ingest),
            "RemoveAudienceMembers": ("remove", types.RemoveAudienceMembersRequest, service.remove),
            "RemoveAllAudienceMembers": (
                "remove_all",
                types.RemoveAllAudienceMembersRequest,
                service.remove_all,
            ),
        }
        handlers = {
            name: self.unary(method, request.pb(), self._limited("Mutate", work))
            for name, (method, request, work) in mutate.items()
        }
        handlers["RetrieveRequestStatus"] = self.unary(
            "status",
            types.RetrieveRequestStatusRequest.pb(),
            self._limited("Read", service.status),
        )
        return grpc.method_handlers_generic_handler(INGESTION, handlers)

    def _user_lists(self) -> grpc.GenericRpcHandler:
        def get(request: Any, mishap: Mishap, context: grpc.ServicerContext) -> Any:
            mishap.before()
            login = str(dict(context.invocation_metadata()).get("login-account", ""))
            return self._service.get_user_list(request, login.rpartition("/")[2])

        request = user_list_service.GetUserListRequest.pb()
        return grpc.method_handlers_generic_handler(
            USER_LISTS, {"GetUserList": self.unary("get_user_list", request, get)}
        )

    def _limited(self, operation: str, work: Callable[[Any, Mishap], Any]) -> Work:
        def answer(request: Any, mishap: Mishap, _: grpc.ServicerContext) -> Any:
            mishap.before()
            self._quota.take(operation)
            found = work(request, mishap)
            mishap.after()
            return found

        return answer

    def call(self, method: str, work: Work, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            answer = work(request, Mishap(self.faults.take(method), context), context)
        except Refused as no:
            self.calls.record(method, no.name)
            context.abort_with_status(rpc_status.to_status(no.packed()))
        self.calls.record(method)
        return answer
