"""The user list of a lane: found by its id or its name, or made."""

from __future__ import annotations

from typing import Any

from google.ads.googleads.v26.enums.types.customer_match_upload_key_type import (
    CustomerMatchUploadKeyTypeEnum,
)
from google.ads.googleads.v26.services.types import user_list_service as messages

from penstock.contract import GoogleAds
from services.runtime.verdicts import Fatal, Retryable
from services.upload.platforms.google_ads_api import UNSET, GoogleAdsApi, quoted, words
from services.upload.platforms.google_ads_errors import NameTaken

#: The longest that Google keeps a member who is not sent again.
LONGEST_DAYS = 540

_KeyType = CustomerMatchUploadKeyTypeEnum.CustomerMatchUploadKeyType
_FIND = (
    "SELECT user_list.resource_name, user_list.id, user_list.name, "
    "user_list.crm_based_user_list.upload_key_type FROM user_list"
)


def find_or_create(api: GoogleAdsApi, wanted: GoogleAds) -> str:
    """The list's resource name."""
    if (found := find(api, wanted)) is not None:
        return str(found.resource_name)
    try:
        return api.create_list(_create_request(wanted))
    except NameTaken as no:
        # By another job in the same moment, or by us before a kill; a search may be behind.
        if (found := find(api, wanted)) is None:
            raise Retryable(no.reason) from None
        return str(found.resource_name)


def find(api: GoogleAdsApi, wanted: GoogleAds) -> Any | None:
    """None where there is none and the spec wants it created; else a verdict says what is wrong."""
    customer = wanted.customer_id
    if wanted.user_list_id is not None:
        condition, called = f"id = {wanted.user_list_id}", wanted.user_list_id
    else:
        condition = f"name = {quoted(wanted.audience or '')}"
        called = f"named {wanted.audience!r}"
    # Digits or a quoted name.
    rows = api.search(customer, f"{_FIND} WHERE user_list.{condition}")
    if not rows and wanted.create:
        return None
    if not rows:
        raise Fatal(f"Google Ads account {customer} has no user list {called}.")
    if len(rows) > 1:
        raise Fatal(
            f"Google Ads account {customer} has {len(rows)} user lists {called}: "
            "give `user_list_id`."
        )
    found = rows[0].user_list
    key_type = found.crm_based_user_list.upload_key_type.name
    if key_type not in (*UNSET, wanted.list_type.upper()):
        raise Fatal(
            f"The user list {called} holds members by {words(key_type)}, and the destination's "
            f"`list_type` is {wanted.list_type!r}."
        )
    return found


def try_to_create(api: GoogleAdsApi, wanted: GoogleAds) -> None:
    """Ask Google whether it would make the list, without making it."""
    request = _create_request(wanted)
    request.validate_only = True
    api.create_list(request)


def _create_request(wanted: GoogleAds) -> Any:
    request = messages.MutateUserListsRequest(customer_id=wanted.customer_id)
    operation = messages.UserListOperation()
    made = operation.create
    made.name = wanted.audience
    made.description = wanted.description or ""
    made.membership_life_span = wanted.membership_days or LONGEST_DAYS
    made.crm_based_user_list.upload_key_type = _KeyType[wanted.list_type.upper()]
    if wanted.app_id is not None:
        made.crm_based_user_list.app_id = wanted.app_id
    request.operations.append(operation)
    return request
