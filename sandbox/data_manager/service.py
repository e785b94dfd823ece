"""The API's methods: what a request must be, and what becomes of it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from google.ads.datamanager_v1.types import consent, ingestion_service, match_rate, user_list
from google.ads.datamanager_v1.types import destination as destinations
from google.ads.datamanager_v1.types import request_status_per_destination as statuses
from google.ads.datamanager_v1.types.processing_errors import ProcessingErrorReason

from sandbox.data_manager.book import Book, Request, UserList
from sandbox.data_manager.members import Invalid, pack
from sandbox.data_manager.mishap import Mishap
from sandbox.data_manager.refusals import Violation, invalid, refused

MEMBERS_PER_REQUEST = 10_000
DESTINATIONS_PER_REQUEST = 10
DENIED = "PROCESSING_ERROR_REASON_DENIED_CONSENT"
# The larger an upload, the better it matches: any rule serves that a test can foretell.
MATCH_RATES = ((1_000, "91_TO_100"), (100, "61_TO_70"), (10, "31_TO_40"), (0, "LESS_THAN_20"))

# The SDK's proto-plus classes are for applications; a server wants what lies under them.
IngestResponse: Any = ingestion_service.IngestAudienceMembersResponse.pb()
RemoveResponse: Any = ingestion_service.RemoveAudienceMembersResponse.pb()
RemoveAllResponse: Any = ingestion_service.RemoveAllAudienceMembersResponse.pb()
StatusResponse: Any = ingestion_service.RetrieveRequestStatusResponse.pb()
UserListMessage: Any = user_list.UserList.pb()

_GOOGLE_ADS = destinations.ProductAccount.AccountType.GOOGLE_ADS
_ACCEPTED = 1
_CONSENT = {status.value: status.name.removeprefix("CONSENT_") for status in consent.ConsentStatus}
_KEY_TYPES = {"user_data": "CONTACT_ID", "mobile_data": "MOBILE_ID", "user_id_data": "USER_ID"}
_UPLOAD_KEYS = user_list.IngestedUserListInfo.UploadKeyType


class Service:
    def __init__(self, book: Book) -> None:
        self._book = book
        #: How many wrong rows a refusal names.
        self.violations = 20

    def ingest(self, request: Any, mishap: Mishap) -> Any:
        opened = self._open("ingest", request, mishap)
        return IngestResponse(request_id=opened.id if opened else "")

    def remove(self, request: Any, mishap: Mishap) -> Any:
        opened = self._open("remove", request, mishap)
        return RemoveResponse(request_id=opened.id if opened else "")

    def remove_all(self, request: Any, mishap: Mishap) -> Any:
        lists = self._user_lists(request.destinations)
        now = time.time()
        given = request.HasField("remove_as_of_time")
        before = request.remove_as_of_time.ToNanoseconds() / 1e9 if given else now
        if before > now:
            raise invalid([Violation("remove_as_of_time", "INVALID_REMOVE_AS_OF_TIME")])
        if request.validate_only:
            return RemoveAllResponse()
        opened = self._book.open("remove_all", lists, before=before, failed=mishap.fails)
        return RemoveAllResponse(request_id=opened.id)

    def status(self, request: Any, _: Mishap) -> Any:
        if not request.request_id:
            raise invalid([Violation("request_id", "REQUIRED_FIELD_MISSING")])
        work = self._book.look(request.request_id)
        answer = StatusResponse()
        for one in work.user_lists:
            _report(work, answer.request_status_per_destination.add(), one)
        return answer

    def get_user_list(self, request: Any, login: str) -> Any:
        # accountTypes/GOOGLE_ADS/accounts/1/userLists/2
        _, kind, _, customer, _, list_id = request.name.split("/")
        if kind != "GOOGLE_ADS" or not self._book.may(customer, login or customer):
            raise refused("PERMISSION_DENIED", "The user may not access this account.")
        found = self._book.list_of(customer, list_id)
        if found is None:
            raise refused("NOT_FOUND", "There is no such user list.")
        answer = UserListMessage(name=request.name, id=int(found.id), display_name=found.name)
        answer.ingested_user_list_info.upload_key_types.append(_UPLOAD_KEYS[found.key_type])
        return answer

    def _user_lists(self, wanted: Any) -> list[UserList]:
        if not wanted:
            raise invalid([Violation("destinations", "REQUIRED_FIELD_MISSING")])
        if len(wanted) > DESTINATIONS_PER_REQUEST:
            raise invalid([Violation("destinations", "TOO_MANY_DESTINATIONS")])
        return [self._user_list(one, f"destinations[{at}]") for at, one in enumerate(wanted)]

    def _user_list(self, wanted: Any, where: str) -> UserList:
        operating, login = wanted.operating_account, wanted.login_account
        if operating.account_type != _GOOGLE_ADS or not operating.account_id:
            raise invalid([Violation(f"{where}.operating_account", "INVALID_DESTINATION")])
        if wanted.HasField("linked_account") and login.account_type == _GOOGLE_ADS:
            reason = "LINKED_ACCOUNT_ONLY_ALLOWED_WITH_DATA_PARTNER_LOGIN_ACCOUNT"
            raise invalid([Violation(f"{where}.linked_account", reason)])
        customer = operating.account_id
        if not self._book.may(customer, login.account_id or customer):
            raise refused("PERMISSION_DENIED", "The user may not access this account.")
        found = self._book.list_of(customer, wanted.product_destination_id)
        if found is None:
            field = f"{where}.product_destination_id"
            raise invalid([Violation(field, "INVALID_USER_LIST_ID")])
        return found

    def _data(self, request: Any, lists: list[UserList]) -> str:
        """Give the one kind of data that the members have, right for all the lists."""
        members = request.audience_members
        if not members:
            raise invalid([Violation("audience_members", "REQUIRED_FIELD_MISSING")])
        if len(members) > MEMBERS_PER_REQUEST:
            raise invalid([Violation("audience_members", "TOO_MANY_AUDIENCE_MEMBERS")])
        found = {member.WhichOneof("data") for member in members}
        if len(found) > 1:
            raise invalid([Violation("audience_members", "MULTIPLE_DATA_TYPES_NOT_ALLOWED")])
        data = found.pop() or ""
        if data == "user_data" and not request.encoding:
            raise invalid([Violation("encoding", "REQUIRED_FIELD_MISSING")])
        if data and any(one.key_type != _KEY_TYPES.get(data) for one in lists):
            raise invalid([Violation("destinations[0]", "INVALID_USER_LIST_TYPE")])
        return data

    def _packed(self, request: Any) -> list[bytes]:
        packed, wrong = [], []
        for place, member in enumerate(request.audience_members):
            try:
                _check_consent(member.consent)
                packed.append(pack(member, request.encoding))
            except Invalid as no:
                wrong.append(no.violation(place))
                if len(wrong) == self.violations:
                    break
        if wrong:
            # The API takes all of a request or nothing.
            raise invalid(wrong)
        return packed

    def _open(self, verb: str, request: Any, mishap: Mishap) -> Request | None:
        lists = self._user_lists(request.destinations)
        data = self._data(request, lists)
        if verb == "ingest" and data in ("user_data", "mobile_data"):
            _check_terms(request.terms_of_service)
        keys = self._packed(request)
        if request.validate_only:
            return None
        consents, refuses, taken = Counter[str](), Counter[str](), []
        for row, (member, key) in enumerate(zip(request.audience_members, keys, strict=True)):
            said = _consent(member, request) if verb == "ingest" else None
            if said is not None:
                consents["/".join(said)] += 1
            if said is not None and said[0] == "DENIED":
                refuses[DENIED] += 1
            elif mishap.refuses(row):
                refuses[mishap.reason] += 1
            else:
                taken.append(key)
        return self._book.open(
            verb, lists, data=data, keys=taken, identifiers=_identifiers(request, data),
            consents=consents, refuses=refuses, failed=mishap.fails, counts=mishap.counts,
        )  # fmt: skip


def _check_terms(terms: Any) -> None:
    if terms.customer_match_terms_of_service_status != _ACCEPTED:
        raise refused("TERMS_AND_CONDITIONS_NOT_SIGNED", "The terms are not accepted.")


def _check_consent(said: Any) -> None:
    for field in ("ad_user_data", "ad_personalization"):
        if getattr(said, field) not in _CONSENT:
            raise Invalid("INVALID_ENUM_VALUE", f"consent.{field}")


def _consent(member: Any, request: Any) -> tuple[str, str]:
    """Give the member's own consent where it has any, else the request's."""
    said = member.consent if member.HasField("consent") else request.consent
    return _CONSENT[said.ad_user_data], _CONSENT[said.ad_personalization]


def _identifiers(request: Any, data: str) -> int:
    if data == "user_data":
        return sum(len(member.user_data.user_identifiers) for member in request.audience_members)
    if data == "mobile_data":
        return sum(len(member.mobile_data.mobile_ids) for member in request.audience_members)
    return len(request.audience_members)


def _report(work: Request, answer: Any, user_list: UserList) -> None:
    answer.destination.operating_account.account_id = user_list.customer_id
    answer.destination.operating_account.account_type = _GOOGLE_ADS
    answer.destination.product_destination_id = user_list.id
    states = statuses.RequestStatusPerDestination.RequestStatus
    answer.request_status = states[work.status]
    if work.status == "PROCESSING":
        return
    if work.counts:
        for reason, count in work.refuses.items():
            answer.error_info.error_counts.add(
                record_count=count, reason=ProcessingErrorReason[reason]
            )
    if work.verb == "remove_all":
        answer.remove_all_audience_members_status.SetInParent()
        return
    if work.verb == "ingest":
        figures = getattr(answer.audience_members_ingestion_status, f"{work.data}_ingestion_status")
    else:
        figures = getattr(answer.audience_members_removal_status, f"{work.data}_removal_status")
    figures.record_count = work.records
    counted = {
        "user_data": "user_identifier",
        "mobile_data": "mobile_id",
        "user_id_data": "user_id",
    }
    setattr(figures, f"{counted[work.data or '']}_count", work.identifiers)
    if work.verb == "ingest" and work.data == "user_data":
        rate = next(name for size, name in MATCH_RATES if work.records >= size)
        figures.upload_match_rate_range = match_rate.MatchRateRange[f"MATCH_RATE_RANGE_{rate}"]
