"""UserListService, as far as Customer Match goes: makes a list, with Google's rules for it."""

from __future__ import annotations

from typing import Any

from google.ads.googleads.v26.enums.types.customer_match_upload_key_type import (
    CustomerMatchUploadKeyTypeEnum,
)
from google.ads.googleads.v26.services.types import user_list_service as service

from sandbox.google_ads.book import Book
from sandbox.google_ads.failures import PathElement, Refused, refused
from sandbox.google_ads.jobs import require_customer
from sandbox.google_ads.members import KEY_TYPES
from sandbox.google_ads.mishap import Mishap

LONGEST_LIFE_SPAN = 540

MutateResponse: Any = service.MutateUserListsResponse.pb()
_KeyType = CustomerMatchUploadKeyTypeEnum.CustomerMatchUploadKeyType


class ListService:
    def __init__(self, book: Book) -> None:
        self._book = book

    def mutate(self, request: Any, mishap: Mishap, request_id: str) -> Any:  # noqa: ARG002
        require_customer(self._book, request.customer_id)
        mishap.before()
        if not request.operations:
            raise refused("request_error.OPERATION_REQUIRED", "The request has no operation.")
        response = MutateResponse()
        # One transaction: all of the lists are made or none, and no name twice.
        with self._book.lock:
            taken = {one.name for one in self._book.lists_of(request.customer_id)}
            facts = [
                _wanted(operation, index, taken)
                for index, operation in enumerate(request.operations)
            ]
            if not request.validate_only:
                for one in facts:
                    made = self._book.add_user_list(request.customer_id, None, **one)
                    response.results.add(resource_name=made.resource_name)
        mishap.after()
        return response


def _wanted(operation: Any, index: int, taken: set[str]) -> dict[str, Any]:
    """Give what the list is to be, or refuse; the name is taken from then on."""
    kind = operation.WhichOneof("operation")
    here = ("operations", index)
    if kind != "create":
        raise refused("mutate_error.MUTATE_NOT_ALLOWED", "The sandbox only creates lists.", here)
    wanted = operation.create
    if wanted.WhichOneof("user_list") != "crm_based_user_list":
        raise refused(
            "user_list_error.CONCRETE_TYPE_REQUIRED", "The sandbox has CRM-based lists alone.", here
        )
    key_type = _KeyType(wanted.crm_based_user_list.upload_key_type).name
    if key_type not in KEY_TYPES:
        raise _field(here, "field_error.REQUIRED", "crm_based_user_list", "upload_key_type")
    app_id = wanted.crm_based_user_list.app_id
    if key_type == "MOBILE_ADVERTISING_ID" and not app_id:
        raise _field(here, "user_list_error.APP_ID_NOT_SET", "crm_based_user_list", "app_id")
    if key_type != "MOBILE_ADVERTISING_ID" and app_id:
        raise _field(here, "user_list_error.APP_ID_NOT_ALLOWED", "crm_based_user_list", "app_id")
    if not wanted.name.strip():
        raise _field(here, "field_error.REQUIRED", "name")
    if wanted.name in taken:
        raise _field(here, "user_list_error.INVALID_NAME", "name")
    days = wanted.membership_life_span if wanted.HasField("membership_life_span") else None
    if days is not None and days > LONGEST_LIFE_SPAN:
        raise _field(here, "range_error.TOO_HIGH", "membership_life_span")
    if days is not None and days < 0:
        raise _field(here, "range_error.TOO_LOW", "membership_life_span")
    taken.add(wanted.name)
    return {
        "name": wanted.name,
        "key_type": key_type,
        "life_span": days,
        "description": wanted.description,
        "app_id": app_id,
    }


def _field(here: PathElement, name: str, *fields: str) -> Refused:
    path = (here, ("create", None), *((field, None) for field in fields))
    return refused(name, "The field's value is not allowed.", *path)
