"""Columns of members as the Data Manager API's requests, and its answers as figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from google.ads.datamanager_v1.types import consent as consents
from google.ads.datamanager_v1.types import destination as destinations
from google.ads.datamanager_v1.types import ingestion_service as messages
from google.ads.datamanager_v1.types import match_rate, processing_errors
from google.ads.datamanager_v1.types import request_status_per_destination as statuses
from google.ads.datamanager_v1.types import terms_of_service as terms

from penstock.contract import DataManager
from services.upload.platforms.data_manager_errors import row_reason
from services.upload.platforms.google_columns import contacts, texts

# The protobuf classes under the SDK's: with its wrappers a request costs thirty times the CPU.
_Ingest: Any = messages.IngestAudienceMembersRequest.pb()
_Remove: Any = messages.RemoveAudienceMembersRequest.pb()
_RemoveAll: Any = messages.RemoveAllAudienceMembersRequest.pb()
_Consent: Any = consents.Consent.pb()

_ACCOUNT = destinations.ProductAccount.AccountType
_STATUS = statuses.RequestStatusPerDestination.RequestStatus
_STILL = (_STATUS.PROCESSING, _STATUS.REQUEST_STATUS_UNKNOWN)
_SAID = {None: 0, "granted": 1, "denied": 2}
_NO_REASON = "Google: refused without a reason"


def add_request(destination: DataManager, chunk: pa.RecordBatch) -> Any:
    """The raw message: one member a row, in the order of the rows."""
    request = _Ingest(encoding=messages.Encoding.HEX)
    _aim(request, destination)
    if destination.terms_accepted:
        accepted = terms.TermsOfServiceStatus.ACCEPTED
        request.terms_of_service.customer_match_terms_of_service_status = accepted
    constants = _SAID[destination.ad_user_data], _SAID[destination.ad_personalization]
    if any(constants):
        request.consent.CopyFrom(_consent(*constants))
    _FILL[destination.list_type](request.audience_members.add, chunk)
    if "consent" in chunk.schema.names:
        _consent_of_rows(request.audience_members, chunk.column("consent"), constants)
    return request


def remove_request(destination: DataManager, chunk: pa.RecordBatch) -> Any:
    request = _Remove(encoding=messages.Encoding.HEX)
    _aim(request, destination)
    _FILL[destination.list_type](request.audience_members.add, chunk)
    return request


def remove_all_request(destination: DataManager, before: float) -> Any:
    """Removes whoever was last added before that time."""
    request = _RemoveAll()
    _aim(request, destination)
    request.remove_as_of_time.FromNanoseconds(int(before * 1e9))
    return request


def user_list_name(destination: DataManager) -> str:
    return f"{_account_name(destination.customer_id)}/userLists/{destination.user_list_id}"


def way_in(destination: DataManager) -> list[tuple[str, str]]:
    """The metadata by which calls that carry no destination say whose access they use."""
    login, linked = destination.login_customer_id, destination.linked_customer_id
    way = []
    if login is not None:
        way.append(("login-account", _account_name(login, _login_type(destination))))
    if linked is not None:
        way.append(("linked-account", _account_name(linked)))
    return way


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one request."""

    failed: bool
    #: Rows refused after all, by reason.
    rejected: dict[str, int] = field(default_factory=dict)
    #: Google refused some rows and does not say how many.
    unexplained: bool = False
    records: int = 0
    identifiers: int = 0
    match_rate: str = ""
    warnings: dict[str, int] = field(default_factory=dict)


def finding(status: Any, rows: int) -> Finding | None:
    """None while Google is still at it. `rows`: how many the request had."""
    if status is None or status.request_status in _STILL:
        return None
    failed = status.request_status == _STATUS.FAILED
    rejected = {}
    if status.request_status != _STATUS.SUCCESS:
        rejected = _counts(status.error_info.error_counts, processing_errors.ProcessingErrorReason)
    unexplained = status.request_status == _STATUS.PARTIAL_SUCCESS and not rejected
    figures = _figures(status)
    return Finding(
        failed,
        _bounded(rejected, rows, whole=failed),
        unexplained,
        int(getattr(figures, "record_count", 0)),
        sum(
            getattr(figures, name, 0)
            for name in ("user_identifier_count", "mobile_id_count", "user_id_count")
        ),
        _match_rate(getattr(figures, "upload_match_rate_range", 0)),
        _counts(status.warning_info.warning_counts, processing_errors.ProcessingWarningReason),
    )


def _aim(request: Any, destination: DataManager) -> None:
    aim = request.destinations.add(product_destination_id=destination.user_list_id)
    _account(aim.operating_account, destination.customer_id)
    if destination.login_customer_id is not None:
        login_type = _login_type(destination)
        _account(aim.login_account, destination.login_customer_id, login_type)
    if destination.linked_customer_id is not None:
        _account(aim.linked_account, destination.linked_customer_id)


def _account(account: Any, customer: str, kind: Any = _ACCOUNT.GOOGLE_ADS) -> None:
    account.account_id = customer
    account.account_type = kind


def _account_name(customer: str, kind: Any = _ACCOUNT.GOOGLE_ADS) -> str:
    return f"accountTypes/{kind.name}/accounts/{customer}"


def _login_type(destination: DataManager) -> Any:
    # Only a data partner may go through a linked account.
    partner = destination.linked_customer_id is not None
    return _ACCOUNT.DATA_PARTNER if partner else _ACCOUNT.GOOGLE_ADS


def _contacts(add: Any, chunk: pa.RecordBatch) -> None:
    for email, phone, first, last, country, postal in contacts(chunk):
        person = add().user_data
        identify = person.user_identifiers.add
        if email is not None:
            identify().email_address = email
        if phone is not None:
            identify().phone_number = phone
        if first is not None:
            address = identify().address
            address.given_name = first
            address.family_name = last
            address.region_code = country
            address.postal_code = postal
        elif email is None and phone is None:
            # Untouched it would be a member of no kind, and Google would not say which row it was.
            person.SetInParent()


def _user_ids(add: Any, chunk: pa.RecordBatch) -> None:
    for user_id in texts(chunk, "external_id"):
        add().user_id_data.user_id = user_id or ""


def _mobile_ids(add: Any, chunk: pa.RecordBatch) -> None:
    for mobile_id in texts(chunk, "mobile_ad_id"):
        add().mobile_data.mobile_ids.append(mobile_id or "")


_FILL = {"contact_info": _contacts, "crm_id": _user_ids, "mobile_advertising_id": _mobile_ids}


def _consent_of_rows(members: Any, codes: pa.Array, constants: tuple[int, int]) -> None:
    """A row that says one thing alone takes the other from the constants: what it carries itself
    stands in place of what the request says.
    """
    said = {}
    for code in range(1, 9):
        user_data, personalization = divmod(code, 3)
        said[code] = _consent(user_data or constants[0], personalization or constants[1])
    for member, code in zip(members, codes.to_pylist(), strict=True):
        if code:
            member.consent.CopyFrom(said[code])


def _consent(user_data: int, personalization: int) -> Any:
    return _Consent(ad_user_data=user_data, ad_personalization=personalization)


def _figures(status: Any) -> Any:
    """The innermost of the messages that say what the request held; None where there is none."""
    message = status
    while (names := message.DESCRIPTOR.oneofs_by_name) and "status" in names:
        inner = message.WhichOneof("status")
        if inner is None:
            return None
        message = getattr(message, inner)
    return message


def _counts(found: Iterable[Any], reasons: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in found:
        # A reason that this SDK does not know yet is a number without a name.
        name = reasons(one.reason).name if one.reason in reasons.__members__.values() else "UNKNOWN"
        reason = row_reason(name.partition("_REASON_")[2] or name)
        counts[reason] = counts.get(reason, 0) + int(one.record_count)
    return counts


def _bounded(rejected: Mapping[str, int], rows: int, *, whole: bool) -> dict[str, int]:
    """Counts that add up to no more than the rows, for a row may have two reasons; and to all of
    them where the whole request failed.
    """
    left, bounded = rows, {}
    for reason, count in rejected.items():
        if taken := min(count, left):
            bounded[reason] = taken
            left -= taken
    if whole and left:
        bounded[_NO_REASON] = left
    return bounded


def _match_rate(number: int) -> str:
    known = number in match_rate.MatchRateRange.__members__.values()
    name = match_rate.MatchRateRange(number).name if known and number else ""
    words = name.removeprefix("MATCH_RATE_RANGE_").replace("_", " ").lower()
    return f"{words} %" if any(map(str.isdigit, words)) else words
