"""Customer Match lists through Google's Data Manager API: each request is taken at once, worked on
by Google by itself, and asked after until its verdict is there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from penstock.connections import DataManagerConnection
from penstock.contract import DataManager, LaneOutcome
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable, RowsRejected
from services.upload.platform import Checked, Context, LaneEnd, Limits, Lot, Pace, Sent
from services.upload.platforms.data_manager_api import DataManagerApi, api_of, check, project_of
from services.upload.platforms.data_manager_errors import NamedRows, NotFound
from services.upload.platforms.data_manager_requests import (
    Finding,
    add_request,
    finding,
    remove_all_request,
    remove_request,
    user_list_name,
    way_in,
)

__all__ = ["PLATFORM", "DataManagerPlatform", "check"]

# With tags and lengths, as the wire has them; ids and postal codes may be longer, but seldom are.
_WIRE_BYTES = {
    "email": 68, "phone": 68, "first_name": 66, "last_name": 66, "country": 4, "postal_code": 34,
    "external_id": 72, "mobile_ad_id": 40, "consent": 6,
}  # fmt: skip
_WIRE_BYTES_AROUND = 16
# Google refuses a request whole for any wrong row, and may name one at a time.
_RESENDS = 10
# One closing asks after so many requests, and stops where this many are still being worked on:
# those that were sent later are not likely to be done.
_LOOKS, _STILL = 20, 10
# By how much a worker's clock may be ahead of Google's. A swap removes whoever was last added
# before it began: with a clock ahead that would be new members.
_CLOCK_SECONDS = 60.0
# Names in the lane's memo.
_FAILED = "failed requests"
_BEGAN, _REMOVAL = "replace began", "removal request"
_KEYS = {
    "contact_info": "CONTACT_ID", "crm_id": "USER_ID", "mobile_advertising_id": "MOBILE_ID",
}  # fmt: skip


class DataManagerPlatform:
    # 10,000 members a request is Google's limit. It names no size: 4 MiB is what a gRPC server
    # takes unless told otherwise.
    limits: ClassVar[Limits] = Limits(rows=10_000, bytes=4 * 1024 * 1024)
    pace: ClassVar[Pace] = Pace(per_minute=300, per_day=100_000)
    # Each member carries its own.
    by_consent: ClassVar[bool] = False
    # Google works on requests by itself and names no order.

    def __init__(
        self,
        connection: DataManagerConnection,
        destination: DataManager,
        context: Context = Context(),  # noqa: B008 - frozen
    ) -> None:
        self._connection = connection
        self._destination = destination
        self._context = context

    @property
    def account(self) -> str:
        return f"data_manager/{project_of(self._connection)}"

    @property
    def _api(self) -> DataManagerApi:
        return api_of(self._connection)

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:
        # Known already; kept, so that an erasure finds where members were sent.
        new: dict[str, Any] = {} if "list" in memo else {"list": self._destination.user_list_id}
        if lot.action == "replace" and _BEGAN not in memo:
            new[_BEGAN] = time.time() - _CLOCK_SECONDS
        return new

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> DataManagerSender:  # noqa: ARG002
        return DataManagerSender(self._api, self._destination, lot)

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait | Checked:
        done = self._done(end.requests)
        if done:
            verdicts = {request: found.rejected for request, found in done.items()}
            return Checked(verdicts, keep=_added_up(memo, done.values()))
        details = {"list": self._destination.user_list_id, **_figures(memo)}
        if end.error is not None or end.cancelled:
            # What was sent stays sent; the lane does not wait for what Google makes of it.
            if end.requests:
                details["still_processing"] = f"at least {len(end.requests)} requests"
            if _BEGAN in memo:
                details["replaced"] = "no: the list holds who was in it before, and who was sent"
            return LaneOutcome(details=details)
        if end.requests:
            return Wait(self._context.poll_seconds)
        if self._destination.mode == "replace" or _BEGAN in memo:
            return self._swap(memo, end, details)
        return LaneOutcome(details=details)

    def look(self) -> dict[str, Any]:
        wanted = self._destination
        try:
            found = self._api.user_list(user_list_name(wanted), way_in(wanted))
        except NotFound:
            raise Fatal(
                f"Google Ads account {wanted.customer_id} has no user list {wanted.user_list_id} "
                "that the credentials can see."
            ) from None
        kinds = found.ingested_user_list_info
        field = kinds.DESCRIPTOR.fields_by_name["upload_key_types"].enum_type
        takes = {field.values_by_number[number].name for number in kinds.upload_key_types}
        if takes and _KEYS[wanted.list_type] not in takes:
            raise Fatal(f"User list {found.id} does not take members of `{wanted.list_type}`.")
        return {"audience": f"{found.display_name} (id {found.id})"}

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent:
        return DataManagerSender(self._api, self._destination, lot, only_check=True).send(
            chunk, last=True
        )

    def row_bytes(self, columns: list[str]) -> int:
        return _WIRE_BYTES_AROUND + sum(_WIRE_BYTES.get(name, 0) for name in columns)

    def _done(self, requests: Sequence[str]) -> dict[str, Finding]:
        """What became of those that Google is through with."""
        done: dict[str, Finding] = {}
        still = 0
        for request in requests[:_LOOKS]:
            rows, _, request_id = request.partition(":")
            try:
                found = finding(self._api.status(request_id), int(rows))
            except Retryable:
                if done:
                    break
                raise
            if found is not None:
                done[request] = found
                continue
            still += 1
            if still == _STILL:
                break
        return done

    def _swap(
        self, memo: Mapping[str, Any], end: LaneEnd, details: dict[str, Any]
    ) -> LaneOutcome | Wait | Checked:
        """Removes whoever was not sent by this lane, once Google holds all that were: so the list
        is never empty. Asked for twice it removes the same members.
        """
        if not end.accepted or _BEGAN not in memo:
            return LaneOutcome(
                error="Google took no member, so the list was left as it is.", details=details
            )
        if memo.get(_FAILED):
            # Whose members those were who did not get in for no fault of theirs nobody knows.
            return LaneOutcome(
                error="Google failed requests whole, so nobody was removed: the list holds who was "
                "in it before, and who was sent. Retry the job.",
                details=details,
            )
        if _REMOVAL not in memo:
            request = remove_all_request(self._destination, memo[_BEGAN])
            return Checked({}, keep={_REMOVAL: self._api.remove_all(request)})
        found = finding(self._api.status(memo[_REMOVAL]), 0)
        if found is None:
            return Wait(self._context.poll_seconds)
        if found.failed:
            return LaneOutcome(
                error="The members are in the list, but Google did not remove those from before.",
                details=details,
            )
        return LaneOutcome(details=details)


PLATFORM = DataManagerPlatform


class DataManagerSender:
    """Safe to repeat: Google holds one person once, however often requests name them."""

    def __init__(
        self, api: DataManagerApi, destination: DataManager, lot: Lot, *, only_check: bool = False
    ) -> None:
        removes = lot.action == "remove"
        self._build: Callable[[DataManager, pa.RecordBatch], Any] = (
            remove_request if removes else add_request
        )
        self._call = api.remove if removes else api.ingest
        self._destination = destination
        self._only_check = only_check

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        request = self._build(self._destination, chunk)
        request.validate_only = self._only_check
        places = list(range(chunk.num_rows))
        wrong: dict[int, tuple[str, str]] = {}
        for _ in range(_RESENDS):
            try:
                request_id = self._call(request)
            except NamedRows as no:
                if max(no.rows) >= len(places):
                    break
                for place in sorted(no.rows, reverse=True):
                    wrong[places.pop(place)] = no.rows[place]
                    del request.audience_members[place]
                if places:
                    continue
                return _sent(0, wrong, None)
            work = None if self._only_check else f"{len(places)}:{request_id}"
            return _sent(len(places), wrong, work)
        # More than one by one is worth: halves are the quicker way.
        raise RowsRejected(_most_common(wrong))


def _sent(accepted: int, wrong: Mapping[int, tuple[str, str]], request: str | None) -> Sent:
    reasons = Counter(reason for _, reason in wrong.values())
    return Sent(accepted, reasons, wrong, request=request)


def _most_common(wrong: Mapping[int, tuple[str, str]]) -> str:
    reasons = Counter(reason for _, reason in wrong.values())
    return reasons.most_common(1)[0][0] if reasons else "Google: invalid audience member"


def _added_up(memo: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """The lane's figures so far, as they stand in its memo."""
    keep = {
        "records": memo.get("records", 0),
        "identifiers": memo.get("identifiers", 0),
        "unexplained": memo.get("unexplained", 0),
        _FAILED: memo.get(_FAILED, 0),
        "match rates": Counter(memo.get("match rates", {})),
        "warnings": Counter(memo.get("warnings", {})),
    }
    for one in found:
        keep["records"] += one.records
        keep["identifiers"] += one.identifiers
        keep["unexplained"] += one.unexplained
        keep[_FAILED] += one.failed
        keep["match rates"].update({one.match_rate: one.records} if one.match_rate else {})
        keep["warnings"].update(one.warnings)
    return {name: dict(kept) if isinstance(kept, Counter) else kept for name, kept in keep.items()}


def _figures(memo: Mapping[str, Any]) -> dict[str, Any]:
    """The figures as an outcome shows them: without those that say nothing."""
    told: dict[str, Any] = {
        name: memo[name] for name in ("records", "identifiers") if memo.get(name)
    }
    rates: Mapping[str, int] = memo.get("match rates", {})
    if len(rates) == 1:
        told["match_rate_range"] = next(iter(rates))
    elif rates:
        told["match_rate_range"] = ", ".join(
            f"{rate} ({records} records)" for rate, records in sorted(rates.items())
        )
    if memo.get("warnings"):
        told["warnings"] = memo["warnings"]
    if memo.get("unexplained"):
        told["unexplained"] = (
            f"Google refused rows of {memo['unexplained']} requests without saying how many."
        )
    return told
