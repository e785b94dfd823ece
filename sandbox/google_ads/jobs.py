"""OfflineUserDataJobService: create, add operations, run, with Google's rules for each."""

from __future__ import annotations

import re
from typing import Any

from google.ads.googleads.v26.enums.types.consent_status import ConsentStatusEnum
from google.ads.googleads.v26.enums.types.offline_user_data_job_failure_reason import (
    OfflineUserDataJobFailureReasonEnum,
)
from google.ads.googleads.v26.enums.types.offline_user_data_job_type import (
    OfflineUserDataJobTypeEnum,
)
from google.ads.googleads.v26.resources.types.offline_user_data_job import (
    OfflineUserDataJobMetadata,
)
from google.ads.googleads.v26.services.types import offline_user_data_job_service as service
from google.longrunning import operations_pb2

from sandbox.google_ads.book import Book
from sandbox.google_ads.failures import ads_error, refused, refused_for, status_with
from sandbox.google_ads.members import Invalid, pack
from sandbox.google_ads.mishap import Mishap
from sandbox.google_ads.records import Job, UserList

IDENTIFIERS_PER_REQUEST = 100_000

CreateResponse: Any = service.CreateOfflineUserDataJobResponse.pb()
AddResponse: Any = service.AddOfflineUserDataJobOperationsResponse.pb()

_JOB_NAME = re.compile(r"customers/(\d+)/offlineUserDataJobs/(\d+)")
_LIST_NAME = re.compile(r"customers/(\d+)/userLists/(\d+)")
_Type = OfflineUserDataJobTypeEnum.OfflineUserDataJobType
_Consent = ConsentStatusEnum.ConsentStatus
_FailureReason = OfflineUserDataJobFailureReasonEnum.OfflineUserDataJobFailureReason


class JobService:
    def __init__(self, book: Book) -> None:
        self._book = book

    def create(self, request: Any, mishap: Mishap, request_id: str) -> Any:  # noqa: ARG002
        require_customer(self._book, request.customer_id)
        mishap.before()
        wanted = request.job
        if wanted.type_ != _Type.CUSTOMER_MATCH_USER_LIST:
            raise refused(
                "request_error.INVALID_ENUM_VALUE",
                "The sandbox has jobs of type CUSTOMER_MATCH_USER_LIST alone.",
                ("job", None),
                ("type", None),
            )
        metadata = wanted.customer_match_user_list_metadata
        user_list = self._user_list(request.customer_id, metadata.user_list)
        consent = {
            purpose: _Consent(getattr(metadata.consent, purpose)).name
            for purpose in ("ad_user_data", "ad_personalization")
        }
        if "DENIED" in consent.values():
            # So Google's guide has it: members who said no are not to be uploaded at all.
            raise refused(
                "offline_user_data_job_error.CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS",
                "The members' consent is denied.",
                ("job", None),
                ("customer_match_user_list_metadata", None),
                ("consent", None),
            )
        if request.validate_only:
            return CreateResponse()
        job = self._book.open_job(
            user_list,
            wanted.external_id if wanted.HasField("external_id") else None,
            consent=consent,
            previews_match_rate=request.enable_match_rate_range_preview,
        )
        mishap.after()
        return CreateResponse(resource_name=job.resource_name)

    def add(self, request: Any, mishap: Mishap, request_id: str) -> Any:
        job = self._job(request.resource_name)
        with self._book.hold(job):
            mishap.before()
            self._require_pending(job)
            verb, removes_all = _check_order(job, request.operations)
            keys, errors = _pack_all(
                request.operations, job.user_list.key_type, mishap.partial_every
            )
            if errors and not request.enable_partial_failure:
                raise refused_for(errors, f"offline_user_data_job_error.{_code_of(errors[0])}")
            response = AddResponse()
            if errors:
                response.partial_failure_error.CopyFrom(status_with(errors, request_id))
            warnings = _warnings(request.operations, mishap.warning)
            if request.enable_warnings and warnings:
                response.warning.CopyFrom(status_with(warnings, request_id))
            if not request.validate_only:
                job.verb = verb
                job.removes_all |= removes_all
                job.keys += keys
                job.operations += len(request.operations)
                job.rejected += len(errors)
            mishap.after()
            return response

    def run(self, request: Any, mishap: Mishap, request_id: str) -> operations_pb2.Operation:  # noqa: ARG002
        job = self._job(request.resource_name)
        with self._book.hold(job):
            mishap.before()
            self._require_pending(job)
            reason = mishap.job_failure
            if reason is not None and reason not in _FailureReason.__members__:
                raise refused("internal_error.INTERNAL_ERROR", "The fault's reason is unknown.")
            if not request.validate_only:
                self._book.start(job, reason)
            mishap.after()
            operation = operations_pb2.Operation(
                name=f"customers/{job.customer_id}/operations/{job.id}"
            )
            operation.metadata.Pack(OfflineUserDataJobMetadata.pb()())
            return operation

    def _job(self, resource_name: str) -> Job:
        match = _JOB_NAME.fullmatch(resource_name)
        if match is None:
            raise refused(
                "request_error.RESOURCE_NAME_MALFORMED",
                "The resource name is malformed.",
                ("resource_name", None),
            )
        require_customer(self._book, match[1])
        return self._book.job(match[1], int(match[2]))

    def _user_list(self, customer_id: str, resource_name: str) -> UserList:
        match = _LIST_NAME.fullmatch(resource_name)
        if match is not None and match[1] == customer_id:
            for user_list in self._book.lists_of(customer_id):
                if user_list.id == match[2]:
                    return user_list
        raise refused(
            "offline_user_data_job_error.INVALID_USER_LIST_ID",
            "The user list is not this customer's.",
            ("job", None),
            ("customer_match_user_list_metadata", None),
            ("user_list", None),
        )

    def _require_pending(self, job: Job) -> None:
        if job.status != "PENDING":
            raise refused(
                "offline_user_data_job_error.JOB_ALREADY_STARTED", "The job has been started."
            )


def require_customer(book: Book, customer_id: str) -> None:
    if not book.knows_customer(customer_id):
        raise refused(
            "authorization_error.USER_PERMISSION_DENIED", "The user may not access this customer."
        )


def _check_order(job: Job, operations: Any) -> tuple[str | None, bool]:
    """Give what the job does from now on, or refuse: no mixing, and remove_all comes first."""
    if not operations:
        raise refused("request_error.OPERATION_REQUIRED", "The request has no operation.")
    verb, removes_all, identifiers = job.verb, False, 0
    for index, operation in enumerate(operations):
        kind = operation.WhichOneof("operation")
        here = ("operations", index)
        if kind is None:
            raise refused("request_error.OPERATION_REQUIRED", "The operation is empty.", here)
        if kind == "remove_all":
            if index or job.operations:
                raise refused(
                    "offline_user_data_job_error.INVALID_OPERATION_ORDER",
                    "A remove_all is the first operation of the job.",
                    here,
                )
            removes_all = operation.remove_all
            continue
        if verb is not None and kind != verb:
            raise refused(
                "offline_user_data_job_error.CONFLICTING_OPERATION",
                "A job creates or removes, not both.",
                here,
            )
        verb = kind
        identifiers += len(getattr(operation, kind).user_identifiers)
    if identifiers > IDENTIFIERS_PER_REQUEST:
        raise refused(
            "offline_user_data_job_error.TOO_MANY_USER_IDENTIFIERS",
            f"A request has at most {IDENTIFIERS_PER_REQUEST} identifiers.",
            ("operations", None),
        )
    return verb, removes_all


def _pack_all(
    operations: Any, key_type: str, reject_every: int | None
) -> tuple[list[bytes], list[Any]]:
    keys, errors = [], []
    for index, operation in enumerate(operations):
        kind = operation.WhichOneof("operation")
        if kind == "remove_all":
            continue
        try:
            if reject_every and (index + 1) % reject_every == 0:
                raise Invalid("INVALID_SHA256_FORMAT", "The SHA256 value is malformed.", ())  # noqa: TRY301
            keys.append(pack(getattr(operation, kind), key_type))
        except Invalid as invalid:
            path = (("operations", index), (kind, None), *invalid.path)
            name = f"offline_user_data_job_error.{invalid.code}"
            errors.append(ads_error(name, invalid.message, path, invalid.trigger))
    return keys, errors


def _warnings(operations: Any, planned: str | None) -> list[Any]:
    found = []
    for index, operation in enumerate(operations):
        kind = operation.WhichOneof("operation")
        if kind == "remove_all":
            continue
        path = (("operations", index), (kind, None))
        if planned is not None:
            name = f"offline_user_data_job_error.{planned}"
            found.append(ads_error(name, "The value looks wrong.", path))
        if getattr(operation, kind).HasField("consent"):
            found.append(
                ads_error(
                    "offline_user_data_job_error.OPERATION_LEVEL_CONSENT_PROVIDED",
                    "The consent of an operation is ignored: the job's counts.",
                    (*path, ("consent", None)),
                )
            )
    return found


def _code_of(error: Any) -> str:
    values = error.error_code.DESCRIPTOR.fields_by_name["offline_user_data_job_error"].enum_type
    return str(values.values_by_number[error.error_code.offline_user_data_job_error].name)
