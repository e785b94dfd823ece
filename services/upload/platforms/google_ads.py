"""Customer Match lists of Google Ads, through its OfflineUserDataJobService.

A lane fills jobs while it sends and runs them when it closes: see `google_ads_jobs` for which jobs
there are and in what order they take effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
from services.upload.platform import Checked, Context, LaneEnd, Limits, Lot, Pace, Sender, Sent
from services.upload.platforms import google_ads_jobs, google_ads_lists, google_ads_request
from services.upload.platforms.google_ads_api import GoogleAdsApi, api_of, check
from services.upload.platforms.google_ads_errors import row_errors, warnings
from services.upload.platforms.google_ads_jobs import (
    CLEARING,
    STATUSES,
    filled_key,
    job_key,
    label,
    warned_key,
)

__all__ = ["PLATFORM", "check"]

_CODES = {None: 0, "granted": 1, "denied": 2}
_DENIED = 2
_NO_CONSENT = "consent denied"


class GoogleAdsPlatform:
    # 10,000 operations a request is what Google recommends; at three identifiers each they stay
    # below its 100,000. It names no size: 4 MiB is what a gRPC server takes unless told otherwise.
    limits: ClassVar[Limits] = Limits(rows=10_000, bytes=4 * 1024 * 1024)
    # Google publishes no rate for these calls; it says RESOURCE_EXHAUSTED, and for how long.
    pace: ClassVar[Pace] = Pace()
    by_consent: ClassVar[bool] = True
    modes: ClassVar[frozenset[str]] = frozenset({"add", "remove", "replace", "mirror"})

    def __init__(
        self,
        connection: GoogleAdsConnection,
        destination: GoogleAds,
        context: Context = Context(),  # noqa: B008 - it is frozen
    ) -> None:
        self._connection = connection
        self._destination = destination
        self._context = context

    @property
    def account(self) -> str:
        return f"google_ads/{self._destination.customer_id}"

    @property
    def _api(self) -> GoogleAdsApi:
        return api_of(self._connection, self._destination.login_customer_id)

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:
        consent = self._consent(lot)
        key = job_key(label(lot.action, consent))
        if key in memo or _DENIED in consent:
            return {}
        found = memo.get("list") or google_ads_lists.find_or_create(self._api, self._destination)
        # Twice after a kill: the job that nobody remembers is never run and changes nothing.
        job = self._api.create_job(self._job_request(found, consent))
        new = {"list": found, key: job}
        if lot.action == "replace" and CLEARING not in memo:
            # Here and not with the first members: a job is remembered only once it begins with
            # the removal, so no request that is repeated can bring it a second time, or late.
            self._api.add_operations(google_ads_request.clearing_request(job))
            new[CLEARING] = job
        return new

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> Sender:  # noqa: ARG002
        consent = self._consent(lot)
        if _DENIED in consent:
            return _Refusal()
        return GoogleAdsSender(self._api, memo, label(lot.action, consent))

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait | Checked:
        closing = google_ads_jobs.Closing(
            self._api, self._destination.customer_id, memo, self._context.poll_seconds
        )
        if not closing.empty:
            return closing.go_on(end)
        if end.accepted or end.removed:
            raise Fatal("The lane has sent members, but the id of Google's job is lost.")
        if self._destination.mode == "replace" and end.error is None and not end.cancelled:
            return LaneOutcome(error="Google took no member, so the list was left as it was.")
        return LaneOutcome()

    def look(self) -> dict[str, Any]:
        """Also lets Google validate the creation of the list or the job, which finds terms that
        were not accepted and projects that must use another API.
        """
        found = google_ads_lists.find(self._api, self._destination)
        if found is None:
            google_ads_lists.try_to_create(self._api, self._destination)
            return {"audience": "would be created"}
        request = self._job_request(str(found.resource_name), (0, 0))
        request.validate_only = True
        self._api.create_job(request)
        return {"audience": f"{found.name} (id {found.id})"}

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent | None:  # noqa: ARG002
        """Google checks members only for a job that exists, and a dry run must not make one."""
        return None

    def row_bytes(self, columns: list[str]) -> int:
        return google_ads_request.row_bytes(columns)

    def _consent(self, lot: Lot) -> tuple[int, int]:
        """What the rows say, and where they say nothing what the destination does."""
        if lot.action == "remove":
            # Google wants none, and lets those be removed who denied it.
            return 0, 0
        user_data, personalization = divmod(lot.consent or 0, len(STATUSES))
        return (
            user_data or _CODES[self._destination.ad_user_data],
            personalization or _CODES[self._destination.ad_personalization],
        )

    def _job_request(self, user_list: str, consent: tuple[int, int]) -> Any:
        request = messages.CreateOfflineUserDataJobRequest(
            customer_id=self._destination.customer_id,
            # Without it the job never tells its match rate.
            enable_match_rate_range_preview=True,
        )
        kinds = OfflineUserDataJobTypeEnum.OfflineUserDataJobType
        request.job.type_ = kinds.CUSTOMER_MATCH_USER_LIST
        metadata = request.job.customer_match_user_list_metadata
        metadata.user_list = user_list
        statuses = ConsentStatusEnum.ConsentStatus
        for purpose, code in zip(("ad_user_data", "ad_personalization"), consent, strict=True):
            if code:
                setattr(metadata.consent, purpose, statuses[STATUSES[code]])
        return request


class GoogleAdsSender:
    """Safe to repeat: Google holds one person once, however often the job names them."""

    def __init__(self, api: GoogleAdsApi, memo: Mapping[str, Any], label: str) -> None:
        self._api = api
        self._job = memo[job_key(label)]
        self._label = label
        self._filled = bool(memo.get(filled_key(label)))
        self._warned = set(memo.get(warned_key(label), ()))

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        removes = self._label.startswith("remove")
        answer = self._api.add_operations(
            google_ads_request.add_request(self._job, chunk, removes=removes)
        )
        status = answer.partial_failure_error
        refused = row_errors(status) if status.code or status.details else {}
        accepted = chunk.num_rows - len(refused)
        return Sent(
            accepted,
            Counter(reason for _, reason in refused.values()),
            rows=refused,
            keep=self._keep(accepted, warnings(answer.warning)),
        )

    def _keep(self, accepted: int, warned: set[str]) -> dict[str, Any]:
        keep: dict[str, Any] = {}
        if accepted and not self._filled:
            self._filled = True
            keep[filled_key(self._label)] = True
        if not warned <= self._warned:
            self._warned |= warned
            keep[warned_key(self._label)] = sorted(self._warned)
        return keep


class _Refusal:
    """Sends nothing. To a job whose consent is denied Google answers that the account has not
    accepted its terms, and its guide asks to leave such people out.
    """

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        rows = chunk.num_rows
        return Sent(0, {_NO_CONSENT: rows}, rows=dict.fromkeys(range(rows), ("", _NO_CONSENT)))


PLATFORM = GoogleAdsPlatform
