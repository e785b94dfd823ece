"""Answers GoogleAdsService.Search from the book."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.ads.googleads.v26.services.types import google_ads_service
from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import FieldDescriptor

from sandbox.google_ads.book import Book
from sandbox.google_ads.gaql import Query, Value, parse, query_refused
from sandbox.google_ads.records import Job, UserList

GoogleAdsRow: Any = google_ads_service.GoogleAdsRow.pb()
RESOURCES = ("offline_user_data_job", "user_list", "customer")

_INTEGERS = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32}


def search(book: Book, customer_id: str, text: str) -> tuple[list[Any], field_mask_pb2.FieldMask]:
    """Give the rows, each with what was selected, and the mask of what was."""
    query = parse(text)
    if query.resource not in RESOURCES:
        raise query_refused(
            "BAD_RESOURCE_TYPE_IN_FROM_CLAUSE",
            f"The sandbox has only {', '.join(RESOURCES)}.",
        )
    paths = [_path(query, name) for name in query.fields]
    conditions = [
        (path, _wanted(leaf, value))
        for name, value in query.conditions
        for path, leaf in [_resolve(query, name)]
    ]
    # Google gives the resource's own name whether it was asked for or not.
    mask = field_mask_pb2.FieldMask(paths=[*paths, f"{query.resource}.resource_name"])
    rows = []
    for full in _rows(book, customer_id, query.resource):
        if all(_value(full, path) == wanted for path, wanted in conditions):
            row = GoogleAdsRow()
            mask.MergeMessage(full, row)
            rows.append(row)
    return rows[: query.limit], field_mask_pb2.FieldMask(paths=list(query.fields))


def _rows(book: Book, customer_id: str, resource: str) -> Iterator[Any]:
    if resource == "customer":
        yield _row(customer_id)
    elif resource == "user_list":
        for user_list in book.lists_of(customer_id):
            yield _list_row(user_list)
    else:
        for job in book.jobs_of(customer_id):
            yield _job_row(job)


def _row(customer_id: str) -> Any:
    row = GoogleAdsRow()
    row.customer.resource_name = f"customers/{customer_id}"
    row.customer.id = int(customer_id)
    return row


def _list_row(user_list: UserList) -> Any:
    row = _row(user_list.customer_id)
    answer = row.user_list
    answer.resource_name = user_list.resource_name
    answer.id = int(user_list.id)
    answer.name = user_list.name
    answer.size_for_display = len(user_list.members)
    answer.size_for_search = len(user_list.members)
    _set_enum(answer, "type_", "CRM_BASED")
    _set_enum(answer, "membership_status", "OPEN")
    answer.description = user_list.description
    if user_list.life_span is not None:
        answer.membership_life_span = user_list.life_span
    _set_enum(answer.crm_based_user_list, "upload_key_type", user_list.key_type)
    answer.crm_based_user_list.app_id = user_list.app_id
    return row


def _job_row(job: Job) -> Any:
    row = _row(job.customer_id)
    answer = row.offline_user_data_job
    answer.resource_name = job.resource_name
    answer.id = job.id
    if job.external_id is not None:
        answer.external_id = job.external_id
    _set_enum(answer, "type_", "CUSTOMER_MATCH_USER_LIST")
    _set_enum(answer, "status", job.status)
    _set_enum(answer, "failure_reason", job.failure_reason)
    _set_enum(answer.operation_metadata, "match_rate_range", job.match_rate_range)
    metadata = answer.customer_match_user_list_metadata
    metadata.user_list = job.user_list.resource_name
    for purpose, status in job.consent.items():
        _set_enum(metadata.consent, purpose, status)
    return row


def _set_enum(message: Any, field: str, name: str) -> None:
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_name
    setattr(message, field, values[name].number)


def _path(query: Query, name: str) -> str:
    return _resolve(query, name)[0]


def _resolve(query: Query, name: str) -> tuple[str, FieldDescriptor]:
    """Turn a field's name in the language into its path in the row, and find its descriptor."""
    # The SDK's descriptors end Python's own words with an underscore, the language does not.
    steps = [step + "_" if step == "type" else step for step in name.split(".")]
    if steps[0] in RESOURCES and steps[0] not in (query.resource, "customer"):
        raise query_refused(
            "PROHIBITED_RESOURCE_TYPE_IN_SELECT_CLAUSE", "The field is another resource's."
        )
    message, leaf = GoogleAdsRow.DESCRIPTOR, None
    for step in steps:
        leaf = message.fields_by_name.get(step) if message is not None else None
        if leaf is None or (message is GoogleAdsRow.DESCRIPTOR and step not in RESOURCES):
            raise query_refused("UNRECOGNIZED_FIELD", "The query has a field that is unknown.")
        message = leaf.message_type
    if leaf is None or message is not None:
        raise query_refused("PROHIBITED_FIELD_IN_SELECT_CLAUSE", "Name a field, not a message.")
    return ".".join(steps), leaf


def _wanted(leaf: FieldDescriptor, value: Value) -> str | int:
    if leaf.enum_type is not None:
        if value.text not in leaf.enum_type.values_by_name:
            raise query_refused("BAD_ENUM_CONSTANT", "The enum has no such constant.")
        return int(leaf.enum_type.values_by_name[value.text].number)
    if leaf.cpp_type in _INTEGERS:
        if not value.text.removeprefix("-").isdigit():
            raise query_refused("BAD_NUMBER", "The field is a whole number.")
        return int(value.text)
    if leaf.cpp_type != FieldDescriptor.CPPTYPE_STRING:
        raise query_refused("PROHIBITED_FIELD_IN_WHERE_CLAUSE", "The field cannot be compared.")
    if value.kind != "string":
        raise query_refused("INVALID_STRING_VALUE", "A string stands in quotes.")
    return value.text


def _value(row: Any, path: str) -> Any:
    for step in path.split("."):
        row = getattr(row, step)
    return row
