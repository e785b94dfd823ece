"""Customer Match lists of Google Ads: one OfflineUserDataJob for a lane, run when all is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pyarrow as pa
from google.ads.googleads.v26.enums.types.consent_status import ConsentStatusEnum
from google.ads.googleads.v26.enums.types.offline_user_data_job_type import (
    OfflineUserDataJobTypeEnum,
)
from google.ads.googleads.v26.services.types import offline_user_data_job_service as messages

from penstock.connections import GoogleAdsConnection
from penstock.contract import GoogleAds, LaneOutcome
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal
from services.upload.platform import LaneEnd, Limits, Sent
from services.upload.platforms.digests import hex_column
from services.upload.platforms.google_ads_api import GoogleAdsApi, api_of
from services.upload.platforms.google_ads_errors import AlreadyStarted, row_errors

# The protobuf class under the SDK's: with its wrappers a request costs sixteen times the CPU.
_AddRequest: Any = messages.AddOfflineUserDataJobOperationsRequest.pb()

# With tags and lengths, as the wire has them; a postal code may be longer, but seldom is.
_WIRE_BYTES = {
    "email": 68, "phone": 68, "first_name": 66, "last_name": 66, "country": 4, "postal_code": 34,
}  # fmt: skip
_WIRE_BYTES_AROUND = 12
_UNSET = ("UNSPECIFIED", "UNKNOWN")
_JOB = (
    "SELECT offline_user_data_job.status, offline_user_data_job.failure_reason, "
    "offline_user_data_job.operation_metadata.match_rate_range FROM offline_user_data_job"
)


class GoogleAdsPlatform:
    # 10,000 operations a request is what Google recommends; at three identifiers each they stay
    # below its 100,000. It names no size: 4 MiB is what a gRPC server takes unless told otherwise.
    limits: ClassVar[Limits] = Limits(rows=10_000, bytes=4 * 1024 * 1024)

    def __init__(
        self, connection: GoogleAdsConnection, destination: GoogleAds, poll_seconds: float = 30.0
    ) -> None:
        self._connection = connection
        self._destination = destination
        self._poll_seconds = poll_seconds

    @property
    def _api(self) -> GoogleAdsApi:
        return api_of(self._connection)

    def prepare(self, memo: Mapping[str, Any]) -> dict[str, Any]:
        if "job" in memo:
            return {}
        user_list = memo.get("list") or self._find_list()
        # Twice after a kill: the job that nobody remembers is never run and adds nobody.
        return {"list": user_list, "job": self._create_job(user_list)}

    def sender(self, memo: Mapping[str, Any], rows: int) -> GoogleAdsSender:  # noqa: ARG002
        return GoogleAdsSender(self._api, memo["job"])

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait:
        if not end.accepted:
            return LaneOutcome()
        if "job" not in memo:
            raise Fatal("The lane has sent members, but the id of Google's job is lost.")
        details = {"list": memo["list"], "job": memo["job"]}
        if end.error is not None:
            # A job that is not run adds nobody: a part of a list is not what was asked for.
            return LaneOutcome(lost_to="failed", details=details)
        job = self._job(memo["job"])
        status = job.status.name
        if status == "PENDING" and end.cancelled:
            return LaneOutcome(lost_to="skipped", details=details)
        # A cancel that came after the run stops nothing: the outcome is what Google makes of it.
        if status == "PENDING":
            self._run(memo["job"])
        if status not in ("SUCCESS", "FAILED"):
            return Wait(self._poll_seconds)
        details |= _findings(job)
        if status == "SUCCESS":
            return LaneOutcome(details=details)
        told = details.get("failure_reason", "it gave no reason")
        return LaneOutcome(error=f"Google's job failed: {told}.", lost_to="failed", details=details)

    def row_bytes(self, columns: list[str]) -> int:
        return _WIRE_BYTES_AROUND + sum(_WIRE_BYTES.get(name, 0) for name in columns)

    def _find_list(self) -> str:
        wanted, customer = self._destination, self._destination.customer_id
        if wanted.user_list_id is not None:
            condition, called = f"id = {wanted.user_list_id}", wanted.user_list_id
        else:
            condition = f"name = {_quoted(wanted.audience or '')}"
            called = f"named {wanted.audience!r}"
        rows = self._api.search(
            customer,
            # Digits or a quoted name.
            f"SELECT user_list.resource_name FROM user_list WHERE user_list.{condition}",  # noqa: S608
        )
        if not rows:
            raise Fatal(f"Google Ads account {customer} has no user list {called}.")
        if len(rows) > 1:
            raise Fatal(
                f"Google Ads account {customer} has {len(rows)} user lists {called}: "
                "give `user_list_id`."
            )
        return str(rows[0].user_list.resource_name)

    def _create_job(self, user_list: str) -> str:
        destination = self._destination
        request = messages.CreateOfflineUserDataJobRequest(
            customer_id=destination.customer_id,
            # Without it the job never tells its match rate.
            enable_match_rate_range_preview=True,
        )
        kinds = OfflineUserDataJobTypeEnum.OfflineUserDataJobType
        request.job.type_ = kinds.CUSTOMER_MATCH_USER_LIST
        metadata = request.job.customer_match_user_list_metadata
        metadata.user_list = user_list
        statuses = ConsentStatusEnum.ConsentStatus
        if destination.ad_user_data is not None:
            metadata.consent.ad_user_data = statuses[destination.ad_user_data.upper()]
        if destination.ad_personalization is not None:
            metadata.consent.ad_personalization = statuses[destination.ad_personalization.upper()]
        return self._api.create_job(request)

    def _job(self, name: str) -> Any:
        rows = self._api.search(
            self._destination.customer_id,
            f"{_JOB} WHERE offline_user_data_job.resource_name = {_quoted(name)}",
        )
        if not rows:
            raise Fatal(f"Google no longer knows the job {name}.")
        return rows[0].offline_user_data_job

    def _run(self, job: str) -> None:
        try:
            self._api.run_job(job)
        except AlreadyStarted:
            # A run whose answer was lost, or a status that was behind.
            return


class GoogleAdsSender:
    """Safe to repeat: Google holds one person once, however often the job names them."""

    def __init__(self, api: GoogleAdsApi, job: str) -> None:
        self._api = api
        self._job = job

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        status = self._api.add_operations(add_request(self._job, chunk)).partial_failure_error
        if not (status.code or status.details):
            return Sent(chunk.num_rows)
        reasons = row_errors(status)
        return Sent(chunk.num_rows - len(reasons), Counter(reasons.values()))


def add_request(job: str, chunk: pa.RecordBatch) -> Any:
    """The raw message: one operation a member, in the order of the rows."""
    request = _AddRequest(resource_name=job, enable_partial_failure=True)
    add = request.operations.add
    columns = zip(
        *(_digests(chunk, name) for name in ("email", "phone", "first_name", "last_name")),
        *(_texts(chunk, name) for name in ("country", "postal_code")),
        strict=True,
    )
    for email, phone, first, last, country, postal in columns:
        member = add().create
        identify = member.user_identifiers.add
        if email is not None:
            identify().hashed_email = email
        if phone is not None:
            identify().hashed_phone_number = phone
        if first is not None:
            address = identify().address_info
            address.hashed_first_name = first
            address.hashed_last_name = last
            address.country_code = country
            address.postal_code = postal
        elif email is None and phone is None:
            # Untouched it would be no operation at all, for which Google refuses the whole request.
            member.SetInParent()
    return request


def _findings(job: Any) -> dict[str, str]:
    found = {}
    if (rate := job.operation_metadata.match_rate_range.name) not in _UNSET:
        found["match_rate_range"] = _words(rate.removeprefix("MATCH_RANGE_")) + " %"
    if (reason := job.failure_reason.name) not in _UNSET:
        # A job can succeed and still have one.
        found["failure_reason"] = _words(reason)
    return found


def _digests(chunk: pa.RecordBatch, name: str) -> list[str | None]:
    if name not in chunk.schema.names:
        return [None] * chunk.num_rows
    return hex_column(chunk.column(name), None)


def _texts(chunk: pa.RecordBatch, name: str) -> Iterable[str | None]:
    if name not in chunk.schema.names:
        return [None] * chunk.num_rows
    texts: list[str | None] = chunk.column(name).to_pylist()
    return texts


def _quoted(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def _words(name: str) -> str:
    return name.replace("_", " ").lower()
