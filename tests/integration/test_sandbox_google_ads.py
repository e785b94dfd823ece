"""The Google Ads sandbox, spoken to by Google's own SDK over a real socket."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from google.ads.googleads.errors import GoogleAdsException
from google.ads.googleads.interceptors import ExceptionInterceptor, MetadataInterceptor
from google.ads.googleads.v26.errors.types.errors import GoogleAdsFailure
from google.ads.googleads.v26.services.services.google_ads_service import GoogleAdsServiceClient
from google.ads.googleads.v26.services.services.google_ads_service.transports import (
    GoogleAdsServiceGrpcTransport,
)
from google.ads.googleads.v26.services.services.offline_user_data_job_service import (
    OfflineUserDataJobServiceClient,
)
from google.ads.googleads.v26.services.services.offline_user_data_job_service.transports import (
    OfflineUserDataJobServiceGrpcTransport,
)
from google.ads.googleads.v26.services.types.offline_user_data_job_service import (
    AddOfflineUserDataJobOperationsRequest,
)
from google.api_core import exceptions

ROOT = Path(__file__).parents[2]
CUSTOMER = "1234567890"
LIST = f"customers/{CUSTOMER}/userLists/111"
PATIENCE = 60
JOB_FIELDS = (
    "SELECT offline_user_data_job.resource_name, offline_user_data_job.status, "
    "offline_user_data_job.failure_reason, offline_user_data_job.type, "
    "offline_user_data_job.operation_metadata.match_rate_range, "
    "offline_user_data_job.customer_match_user_list_metadata.user_list "
    "FROM offline_user_data_job WHERE offline_user_data_job.resource_name = "
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def emails(*names: str) -> dict[str, Any]:
    return {"user_identifiers": [{"hashed_email": digest(name)} for name in names]}


def creates(*names: str) -> list[dict[str, Any]]:
    return [{"create": emails(name)} for name in names]


def keys(*names: str) -> set[str]:
    return {f"email:{digest(name)}" for name in names}


class Sandbox:
    """A running sandbox: its control port, and SDK clients on its gRPC port."""

    def __init__(self, port: int, control: int) -> None:
        self.port = port
        self.control = control
        self._channels: list[grpc.Channel] = []
        self.jobs = OfflineUserDataJobServiceClient(
            transport=OfflineUserDataJobServiceGrpcTransport(channel=self.channel())
        )
        self.search_client = self.searcher()

    def channel(self, token: str | None = "token", login: str | None = None) -> grpc.Channel:
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self._channels.append(channel)
        return grpc.intercept_channel(
            channel,
            MetadataInterceptor(token, login),
            ExceptionInterceptor("v26", use_proto_plus=True),
        )

    def searcher(self, **headers: str | None) -> GoogleAdsServiceClient:
        return GoogleAdsServiceClient(
            transport=GoogleAdsServiceGrpcTransport(channel=self.channel(**headers))
        )

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def http(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.control}{path}", data=data, method=method)
        with urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def fault(self, method: str, fault: str, **more: Any) -> None:
        self.http("POST", "/faults", {"method": method, "fault": fault, **more})

    def members(self, list_id: str = "111") -> set[str]:
        answer = self.http("GET", f"/members/{list_id}")
        assert answer["count"] == len(answer["members"]) == len(set(answer["members"]))
        return set(answer["members"])

    def create(self, **job: Any) -> str:
        wanted = {
            "type_": "CUSTOMER_MATCH_USER_LIST",
            "customer_match_user_list_metadata": {"user_list": LIST},
            **job,
        }
        request = {"customer_id": CUSTOMER, "job": wanted}
        return self.jobs.create_offline_user_data_job(request=request, retry=None).resource_name

    def add(self, job: str, operations: Sequence[dict[str, Any]], **more: Any) -> Any:
        timeout = more.pop("timeout", PATIENCE)
        request = {"resource_name": job, "operations": operations, **more}
        return self.jobs.add_offline_user_data_job_operations(
            request=request, retry=None, timeout=timeout
        )

    def run(self, job: str, **more: Any) -> Any:
        return self.jobs.run_offline_user_data_job(
            request={"resource_name": job, **more}, retry=None
        )

    def search(self, query: str, customer: str = CUSTOMER) -> list[Any]:
        return list(self.search_client.search(customer_id=customer, query=query, retry=None))

    def job(self, resource_name: str) -> Any:
        (row,) = self.search(f"{JOB_FIELDS}'{resource_name}'")
        return row.offline_user_data_job

    def run_to_end(self, resource_name: str) -> Any:
        self.run(resource_name)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            job = self.job(resource_name)
            if job.status.name in ("SUCCESS", "FAILED"):
                return job
            time.sleep(0.02)
        raise AssertionError("the job did not end")

    def upload(self, operations: Sequence[dict[str, Any]]) -> Any:
        job = self.create()
        self.add(job, operations)
        return self.run_to_end(job)

    def state_of(self, resource_name: str) -> dict[str, Any]:
        jobs = self.http("GET", "/state")["jobs"]
        return next(job for job in jobs if job["resource_name"] == resource_name)

    def wait_for(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    command = [sys.executable, "-m", "sandbox.google_ads", "--processing", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        ready = json.loads(process.stdout.readline())
        sandbox = Sandbox(ready["port"], ready["control"])
        yield sandbox
        sandbox.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.http("POST", "/reset")
    running.http("POST", "/settings", {"processing": 0.1})
    return running


def refusal(call: Callable[[], Any]) -> tuple[str, grpc.StatusCode]:
    """Make a call that Google refuses; give the error's full name and its status."""
    with pytest.raises(GoogleAdsException) as caught:
        call()
    assert caught.value.request_id
    return error_name(caught.value.failure.errors[0]), caught.value.error.code()


def error_name(error: Any) -> str:
    ((family, value),) = type(error).pb(error).error_code.ListFields()
    return f"{family.name}.{family.enum_type.values_by_number[value].name}"


def path_of(error: Any) -> list[Any]:
    return [
        (element.field_name, element.index) if "index" in element else element.field_name
        for element in error.location.field_path_elements
    ]


def packed_errors(status: Any) -> list[Any]:
    (detail,) = status.details
    return list(GoogleAdsFailure.deserialize(detail.value).errors)


JOB_ERROR = "offline_user_data_job_error"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


# The life of a job


def test_members_arrive_when_the_job_has_run(sandbox):
    sandbox.http("POST", "/settings", {"processing": 3600})
    job = sandbox.create()
    sandbox.add(job, creates("a", "b"))
    sandbox.add(job, creates("b", "c"))
    assert sandbox.job(job).status.name == "PENDING"

    assert sandbox.run(job).operation.name
    assert sandbox.job(job).status.name == "RUNNING"
    assert sandbox.members() == set()

    sandbox.http("POST", "/reset")
    sandbox.http("POST", "/settings", {"processing": 0})
    ended = sandbox.upload(creates("a", "b", "b", "c"))
    assert ended.status.name == "SUCCESS"
    assert ended.failure_reason.name == "UNSPECIFIED"
    assert ended.type_.name == "CUSTOMER_MATCH_USER_LIST"
    assert ended.customer_match_user_list_metadata.user_list == LIST
    assert ended.operation_metadata.match_rate_range.name == "MATCH_RANGE_LESS_THAN_20"
    assert sandbox.members() == keys("a", "b", "c")
    assert sandbox.http("GET", "/members/111?count=1") == {"count": 3}


def test_a_member_is_all_its_identifiers_in_one_key(sandbox):
    address = {
        "hashed_first_name": digest("ada"),
        "hashed_last_name": digest("l"),
        "country_code": "GB",
        "postal_code": "SW1",
    }
    identifiers = [
        {"hashed_phone_number": digest("+44")},
        {"hashed_email": digest("a")},
        {"hashed_email": digest("a")},
        {"address_info": address},
    ]
    sandbox.upload([{"create": {"user_identifiers": identifiers}}])
    assert sandbox.members() == {
        f"address:{digest('ada')}:{digest('l')}:GB:SW1|email:{digest('a')}|phone:{digest('+44')}"
    }


def test_removing_takes_the_exact_member_and_else_whoever_shares_an_identifier(sandbox):
    sandbox.upload(
        [*creates("a", "b"), {"create": emails("c", "shared")}, {"create": emails("d", "shared")}]
    )
    sandbox.upload([{"remove": emails("a")}, {"remove": emails("c", "shared")}])
    both = "|".join(sorted(keys("d", "shared")))
    assert sandbox.members() == {*keys("b"), both}
    sandbox.upload([{"remove": emails("shared")}])
    assert sandbox.members() == keys("b")


def test_remove_all_and_then_create_replaces_the_list(sandbox):
    sandbox.upload(creates("old", "older"))
    sandbox.upload([{"remove_all": True}, *creates("new")])
    assert sandbox.members() == keys("new")


def test_a_failed_job_brings_nobody_in(sandbox):
    sandbox.fault("run", "job_failed", data={"failure_reason": "HIGH_AVERAGE_TRANSACTION_VALUE"})
    ended = sandbox.upload(creates("a"))
    assert ended.status.name == "FAILED"
    assert ended.failure_reason.name == "HIGH_AVERAGE_TRANSACTION_VALUE"
    assert sandbox.members() == set()


def test_validate_only_changes_nothing(sandbox):
    request = {
        "customer_id": CUSTOMER,
        "job": {
            "type_": "CUSTOMER_MATCH_USER_LIST",
            "customer_match_user_list_metadata": {"user_list": LIST},
        },
        "validate_only": True,
    }
    assert not sandbox.jobs.create_offline_user_data_job(request=request).resource_name
    job = sandbox.create()
    sandbox.add(job, creates("a"), validate_only=True)
    sandbox.run(job, validate_only=True)
    assert sandbox.state_of(job)["status"] == "PENDING"
    assert sandbox.state_of(job)["operations"] == 0


def test_the_match_rate_is_previewed_only_where_asked_for(sandbox):
    sandbox.http("POST", "/settings", {"processing": 3600})
    job = {
        "type_": "CUSTOMER_MATCH_USER_LIST",
        "customer_match_user_list_metadata": {"user_list": LIST},
    }
    ranges = []
    for preview in (True, False):
        request = {
            "customer_id": CUSTOMER,
            "job": job,
            "enable_match_rate_range_preview": preview,
        }
        name = sandbox.jobs.create_offline_user_data_job(request=request).resource_name
        sandbox.add(name, creates(*map(str, range(60))))
        sandbox.run(name)
        ranges.append(sandbox.job(name).operation_metadata.match_rate_range.name)
    assert ranges == ["MATCH_RANGE_31_TO_40", "UNSPECIFIED"]


def test_state_shows_consent_requests_and_operations(sandbox):
    consent = {"ad_user_data": "GRANTED", "ad_personalization": "UNSPECIFIED"}
    job = sandbox.create(customer_match_user_list_metadata={"user_list": LIST, "consent": consent})
    sandbox.add(job, creates("a", "b"))
    sandbox.add(job, creates("c"))
    shown = sandbox.state_of(job)
    assert shown["consent"] == consent
    assert (shown["customer_id"], shown["user_list_id"]) == (CUSTOMER, "111")
    assert (shown["requests"], shown["operations"], shown["max_concurrent"]) == (2, 3, 1)


# Who calls


def test_the_callers_metadata_is_checked(sandbox):
    query = "SELECT customer.id FROM customer"

    def search(metadata: Sequence[tuple[str, str]] = (), **headers: str | None) -> Any:
        client = sandbox.searcher(**headers)
        return client.search(customer_id=CUSTOMER, query=query, metadata=metadata, retry=None)

    assert list(search(login="1234567890"))
    assert refusal(lambda: search(token=None)) == (
        "request_error.DEVELOPER_TOKEN_PARAMETER_MISSING",
        INVALID,
    )
    assert refusal(lambda: search(login="123-456")) == (
        "header_error.INVALID_LOGIN_CUSTOMER_ID",
        INVALID,
    )
    assert refusal(lambda: search([("authorization", "Bearer bad")])) == (
        "authentication_error.OAUTH_TOKEN_INVALID",
        grpc.StatusCode.UNAUTHENTICATED,
    )


def test_unknown_customers_lists_and_jobs_are_refused(sandbox):
    denied = ("authorization_error.USER_PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED)
    assert refusal(lambda: sandbox.search("SELECT customer.id FROM customer", "999")) == denied
    assert refusal(lambda: sandbox.run("customers/999/offlineUserDataJobs/1")) == denied

    def create(user_list: str) -> Any:
        return sandbox.create(customer_match_user_list_metadata={"user_list": user_list})

    for user_list in (f"customers/{CUSTOMER}/userLists/404", "nonsense", ""):
        wrong = refusal(lambda user_list=user_list: create(user_list))
        assert wrong == (f"{JOB_ERROR}.INVALID_USER_LIST_ID", INVALID)
    assert refusal(lambda: sandbox.create(type_="STORE_SALES_UPLOAD_FIRST_PARTY")) == (
        "request_error.INVALID_ENUM_VALUE",
        INVALID,
    )
    missing = f"customers/{CUSTOMER}/offlineUserDataJobs/1"
    assert refusal(lambda: sandbox.add(missing, creates("a"))) == (
        "mutate_error.RESOURCE_NOT_FOUND",
        grpc.StatusCode.NOT_FOUND,
    )
    assert refusal(lambda: sandbox.run("jobs/1")) == (
        "request_error.RESOURCE_NAME_MALFORMED",
        INVALID,
    )


def test_an_external_id_names_one_job(sandbox):
    sandbox.create(external_id=7)
    assert refusal(lambda: sandbox.create(external_id=7)) == (
        f"{JOB_ERROR}.EXTERNAL_UPDATE_ID_ALREADY_EXISTS",
        INVALID,
    )
    sandbox.create(external_id=8)


# The rules for operations


def test_a_started_job_takes_no_more(sandbox):
    job = sandbox.create()
    sandbox.add(job, creates("a"))
    sandbox.run(job)
    started = (f"{JOB_ERROR}.JOB_ALREADY_STARTED", INVALID)
    assert refusal(lambda: sandbox.add(job, creates("b"))) == started
    assert refusal(lambda: sandbox.run(job)) == started


def test_creating_and_removing_do_not_mix(sandbox):
    conflict = (f"{JOB_ERROR}.CONFLICTING_OPERATION", INVALID)
    job = sandbox.create()
    mixed = [*creates("a"), {"remove": emails("b")}]
    assert refusal(lambda: sandbox.add(job, mixed)) == conflict
    sandbox.add(job, creates("a"))
    assert refusal(lambda: sandbox.add(job, [{"remove": emails("b")}])) == conflict


def test_remove_all_comes_first(sandbox):
    order = (f"{JOB_ERROR}.INVALID_OPERATION_ORDER", INVALID)
    job = sandbox.create()
    late = [*creates("a"), {"remove_all": True}]
    assert refusal(lambda: sandbox.add(job, late)) == order
    sandbox.add(job, creates("a"))
    assert refusal(lambda: sandbox.add(job, [{"remove_all": True}])) == order


def test_a_request_needs_operations(sandbox):
    job = sandbox.create()
    for operations in ([], [{}]):
        wrong = refusal(lambda operations=operations: sandbox.add(job, operations))
        assert wrong == ("request_error.OPERATION_REQUIRED", INVALID)


def add_request(job: str, members: int, identifiers: int) -> Any:
    request = AddOfflineUserDataJobOperationsRequest.pb()(resource_name=job)
    for member in range(members):
        user = request.operations.add().create
        for identifier in range(identifiers):
            user.user_identifiers.add().hashed_email = digest(f"{member}-{identifier}")
    return AddOfflineUserDataJobOperationsRequest.wrap(request)


def test_identifiers_are_limited_by_member_and_by_request(sandbox):
    too_many = (f"{JOB_ERROR}.TOO_MANY_USER_IDENTIFIERS", INVALID)
    job = sandbox.create()

    def add(members: int, identifiers: int) -> Any:
        request = add_request(job, members, identifiers)
        return sandbox.jobs.add_offline_user_data_job_operations(request=request, retry=None)

    add(1, 20)
    assert refusal(lambda: add(1, 21)) == too_many
    add(5_000, 20)
    assert refusal(lambda: add(5_001, 20)) == too_many
    assert sandbox.state_of(job)["operations"] == 5_001


def test_a_message_above_64_megabytes_is_refused(sandbox):
    job = sandbox.create()
    request = add_request(job, 1, 1)
    request.operations[0].create.user_identifiers[0].third_party_user_id = "x" * (64 << 20)
    with pytest.raises(exceptions.ResourceExhausted, match="larger than max"):
        sandbox.jobs.add_offline_user_data_job_operations(request=request, retry=None)


def bad(**identifier: Any) -> dict[str, Any]:
    return {"create": {"user_identifiers": [{"hashed_email": digest("a")}, identifier]}}


ADDRESS = {
    "hashed_first_name": digest("a"),
    "hashed_last_name": digest("b"),
    "country_code": "us",
    "postal_code": "94110",
}
FIRST = [("operations", 0), "create"]
SECOND = [*FIRST, ("user_identifiers", 1)]
WRONG_MEMBERS = {
    "capitals": (bad(hashed_email=digest("a").upper()), "INVALID_SHA256_FORMAT", "hashed_email"),
    "short": (bad(hashed_email=digest("a")[:-2]), "INVALID_SHA256_FORMAT", "hashed_email"),
    "spaces": (
        bad(hashed_phone_number=digest("a")[:-2] + "  "),
        "INVALID_SHA256_FORMAT",
        "hashed_phone_number",
    ),
    "raw": (bad(hashed_phone_number="+15550100"), "INVALID_SHA256_FORMAT", "hashed_phone_number"),
    "raw name": (
        bad(address_info={**ADDRESS, "hashed_last_name": "Lovelace"}),
        "INVALID_SHA256_FORMAT",
        "hashed_last_name",
    ),
    "country": (
        bad(address_info={**ADDRESS, "country_code": "USA"}),
        "INVALID_COUNTRY_CODE",
        "country_code",
    ),
    "no postal code": (
        bad(address_info={**ADDRESS, "postal_code": ""}),
        "MISSING_USER_IDENTIFIER",
        "postal_code",
    ),
    "mobile id": (bad(mobile_id="abc"), "INCOMPATIBLE_UPLOAD_KEY_TYPE", "mobile_id"),
}


@pytest.mark.parametrize(
    ("operation", "code", "field"), WRONG_MEMBERS.values(), ids=WRONG_MEMBERS.keys()
)
def test_a_wrong_member_is_named_by_its_place(sandbox, operation, code, field):
    job = sandbox.create()
    with pytest.raises(GoogleAdsException) as caught:
        sandbox.add(job, [operation])
    (error,) = caught.value.failure.errors
    assert error_name(error) == f"{JOB_ERROR}.{code}"
    assert path_of(error)[:3] == SECOND
    assert path_of(error)[-1] == field


def test_a_partial_failure_keeps_the_good_members(sandbox):
    good, wrong = creates("a"), bad(hashed_email="nonsense")
    nobody = {"create": {"user_identifiers": []}}
    job = sandbox.create()
    answer = sandbox.add(job, [*good, wrong, nobody, *creates("b")], enable_partial_failure=True)
    assert answer.partial_failure_error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    errors = packed_errors(answer.partial_failure_error)
    assert [path_of(error)[0] for error in errors] == [("operations", 1), ("operations", 2)]
    assert [error_name(error) for error in errors] == [
        f"{JOB_ERROR}.INVALID_SHA256_FORMAT",
        f"{JOB_ERROR}.MISSING_USER_IDENTIFIER",
    ]
    assert sandbox.state_of(job)["rejected"] == 2
    sandbox.run_to_end(job)
    assert sandbox.members() == keys("a", "b")


def test_without_partial_failure_one_wrong_member_refuses_all(sandbox):
    job = sandbox.create()
    wrong = [bad(hashed_email="nonsense")] * 500
    with pytest.raises(GoogleAdsException) as caught:
        sandbox.add(job, [*creates("a"), *wrong])
    assert path_of(caught.value.failure.errors[0])[0] == ("operations", 1)
    assert sandbox.state_of(job)["operations"] == 0


def test_consent_on_an_operation_is_only_warned_of(sandbox):
    job = sandbox.create()
    operation = {"create": {**emails("a"), "consent": {"ad_user_data": "GRANTED"}}}
    assert not sandbox.add(job, [operation]).warning.details
    warning = sandbox.add(job, [operation], enable_warnings=True).warning
    (error,) = packed_errors(warning)
    assert error_name(error) == f"{JOB_ERROR}.OPERATION_LEVEL_CONSENT_PROVIDED"
    assert sandbox.state_of(job)["operations"] == 2


def test_two_requests_at_once_for_one_job_conflict(sandbox):
    job, other = sandbox.create(), sandbox.create()
    # The first is held open until its channel closes, so the others are sure to come meanwhile.
    sandbox.fault("add", "hang")
    held = Sandbox(sandbox.port, sandbox.control)
    given_up = []

    def hang() -> None:
        with pytest.raises(exceptions.Cancelled):
            held.add(job, creates("a"))
        given_up.append(True)

    first = threading.Thread(target=hang)
    first.start()
    sandbox.wait_for(lambda: sandbox.state_of(job)["requests"] == 1)
    conflict = ("database_error.CONCURRENT_MODIFICATION", INVALID)
    assert refusal(lambda: sandbox.add(job, creates("b"))) == conflict
    assert refusal(lambda: sandbox.run(job)) == conflict
    sandbox.add(other, creates("c"))
    held.close()
    first.join()
    assert given_up
    sandbox.wait_for(lambda: "client_gone" in sandbox.http("GET", "/calls")["add"]["errors"])
    assert sandbox.state_of(job)["max_concurrent"] == 2
    sandbox.add(job, creates("d"))
    sandbox.run_to_end(job)
    assert sandbox.members() == keys("d")


# Searching


def test_lists_are_found_by_id_and_by_name(sandbox):
    sandbox.http(
        "POST", "/audiences", {"customer_id": "42", "user_list_id": "4242", "name": "It's mine"}
    )
    query = "SELECT user_list.id, user_list.name FROM user_list WHERE "
    for where in ("user_list.id = 111", "user_list.name = 'Newsletter' AND user_list.id = '111'"):
        (row,) = sandbox.search(query + where)
        assert (row.user_list.id, row.user_list.name) == (111, "Newsletter")
        assert row.user_list.resource_name == LIST
        assert row.user_list.type_.name == "UNSPECIFIED"
    assert sandbox.search(query + "user_list.id = 4242") == []
    (row,) = sandbox.search(f'{query}user_list.name = "It\'s mine"', "42")
    assert row.user_list.id == 4242
    (row,) = sandbox.search("select customer.id from customer limit 1", "42")
    assert row.customer.id == 42


def test_search_stream_and_enums(sandbox):
    done = sandbox.upload(creates("a")).resource_name
    waiting = sandbox.create()
    query = (
        "SELECT offline_user_data_job.status, offline_user_data_job.id, customer.id "
        "FROM offline_user_data_job WHERE offline_user_data_job.status = "
    )
    for status, name in (("SUCCESS", done), ("'PENDING'", waiting)):
        stream = sandbox.search_client.search_stream(customer_id=CUSTOMER, query=query + status)
        (row,) = [row for batch in stream for row in batch.results]
        assert row.offline_user_data_job.resource_name == name
        assert row.offline_user_data_job.id == int(name.rsplit("/", 1)[1])
        assert row.customer.id == int(CUSTOMER)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "EXPECTED_SELECT"),
        ("DELETE customer.id FROM customer", "EXPECTED_SELECT"),
        ("SELECT customer.id", "EXPECTED_FROM"),
        ("SELECT customer.id FROM", "UNEXPECTED_END_OF_QUERY"),
        ("SELECT customer.id FROM campaign", "BAD_RESOURCE_TYPE_IN_FROM_CLAUSE"),
        ("SELECT customer.nothing FROM customer", "UNRECOGNIZED_FIELD"),
        ("SELECT campaign.id FROM customer", "UNRECOGNIZED_FIELD"),
        ("SELECT user_list.id FROM customer", "PROHIBITED_RESOURCE_TYPE_IN_SELECT_CLAUSE"),
        ("SELECT customer FROM customer", "PROHIBITED_FIELD_IN_SELECT_CLAUSE"),
        ("SELECT user_list.id FROM user_list WHERE user_list.id > 1", "BAD_OPERATOR"),
        ("SELECT user_list.id FROM user_list WHERE user_list.id IN (1)", "BAD_OPERATOR"),
        ("SELECT user_list.id FROM user_list WHERE user_list.id = x", "BAD_NUMBER"),
        ("SELECT user_list.id FROM user_list WHERE user_list.name = 1", "INVALID_STRING_VALUE"),
        ("SELECT user_list.id FROM user_list WHERE user_list.name = 'x", "STRING_NOT_TERMINATED"),
        ("SELECT user_list.id FROM user_list WHERE user_list.type = X", "BAD_ENUM_CONSTANT"),
        ("SELECT customer.id FROM customer LIMIT 0", "BAD_LIMIT_VALUE"),
        ("SELECT customer.id FROM customer ORDER BY customer.id", "UNEXPECTED_INPUT"),
        ("SELECT customer.id; FROM customer", "BAD_SYMBOL"),
    ],
)
def test_a_query_beyond_the_grammar_is_a_query_error(sandbox, query, code):
    assert refusal(lambda: sandbox.search(query)) == (f"query_error.{code}", INVALID)


# Faults


@pytest.mark.parametrize(
    ("fault", "name", "status"),
    [
        ("transient", "internal_error.TRANSIENT_ERROR", "UNAVAILABLE"),
        ("deadline", "internal_error.DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        ("unauthenticated", "authentication_error.OAUTH_TOKEN_INVALID", "UNAUTHENTICATED"),
        ("permission", "authorization_error.USER_PERMISSION_DENIED", "PERMISSION_DENIED"),
        (
            "not_allowlisted",
            "not_allowlisted_error.CUSTOMER_NOT_ALLOWLISTED_FOR_THIS_FEATURE",
            "PERMISSION_DENIED",
        ),
        ("terms", f"{JOB_ERROR}.CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS", "INVALID_ARGUMENT"),
        ("concurrent", "database_error.CONCURRENT_MODIFICATION", "INVALID_ARGUMENT"),
    ],
)
def test_a_fault_refuses_once_and_leaves_no_trace(sandbox, fault, name, status):
    job = sandbox.create()
    sandbox.fault("add", fault)
    assert refusal(lambda: sandbox.add(job, creates("a"))) == (name, grpc.StatusCode[status])
    assert sandbox.state_of(job)["operations"] == 0
    sandbox.add(job, creates("a"))
    assert sandbox.state_of(job)["operations"] == 1
    assert sandbox.http("GET", "/calls")["add"] == {"ok": 1, "err": 1, "errors": {name: 1}}


def failure_in_trailer(error: exceptions.GoogleAPICallError) -> Any:
    """Find what the SDK does not unpack: it passes these two statuses on as they are."""
    trailers = dict(error.errors[0].trailing_metadata())
    return GoogleAdsFailure.deserialize(
        trailers["google.ads.googleads.v26.errors.googleadsfailure-bin"]
    ).errors[0]


def test_exhausted_quota_says_when_to_come_back(sandbox):
    sandbox.fault("create", "resource_exhausted", data={"retry_seconds": 2.5})
    with pytest.raises(exceptions.ResourceExhausted) as caught:
        sandbox.create()
    error = failure_in_trailer(caught.value)
    assert error_name(error) == "quota_error.RESOURCE_EXHAUSTED"
    assert error.details.quota_error_details.retry_delay.total_seconds() == 2.5

    sandbox.fault("create", "resource_exhausted")
    with pytest.raises(exceptions.ResourceExhausted) as caught:
        sandbox.create()
    assert "quota_error_details" not in failure_in_trailer(caught.value).details


def test_an_internal_error(sandbox):
    sandbox.fault("search", "internal")
    with pytest.raises(exceptions.InternalServerError) as caught:
        sandbox.search("SELECT customer.id FROM customer")
    assert error_name(failure_in_trailer(caught.value)) == "internal_error.INTERNAL_ERROR"


def test_unavailable_comes_before_the_work_and_drop_after_behind_it(sandbox):
    job = sandbox.create()
    for fault, operations in (("unavailable", 0), ("drop_after", 1)):
        sandbox.fault("add", fault)
        with pytest.raises(exceptions.ServiceUnavailable):
            sandbox.add(job, creates("a"))
        assert sandbox.state_of(job)["operations"] == operations


def test_slow_does_the_work_after_its_delay(sandbox):
    job = sandbox.create()
    sandbox.fault("add", "slow", delay=0.05)
    sandbox.add(job, creates("a"))
    assert sandbox.state_of(job)["operations"] == 1


def test_every_nth_operation_fails(sandbox):
    job = sandbox.create()
    sandbox.fault("add", "partial", data={"every": 3})
    answer = sandbox.add(job, creates(*"abcdefg"), enable_partial_failure=True)
    errors = packed_errors(answer.partial_failure_error)
    assert [path_of(error)[0] for error in errors] == [("operations", 2), ("operations", 5)]
    sandbox.run_to_end(job)
    assert sandbox.members() == keys(*"abdeg")


def test_faults_skip_repeat_match_and_clear(sandbox):
    job = sandbox.create()
    sandbox.fault("add", "concurrent", after=1, times=2)

    def accepted() -> bool:
        try:
            sandbox.add(job, creates("a"))
        except GoogleAdsException:
            return False
        return True

    assert [accepted() for _ in range(5)] == [True, False, False, True, True]
    (listed,) = sandbox.http("GET", "/faults")
    assert (listed["fault"], listed["seen"], listed["fired"]) == ("concurrent", 5, 2)

    sandbox.fault("*", "terms", times=-1)
    assert [accepted() for _ in range(3)] == [False] * 3
    assert refusal(sandbox.create)[0].endswith("TERMS")
    sandbox.http("DELETE", "/faults")
    assert accepted()
    assert sandbox.http("GET", "/faults") == []


# The control port


def test_reset_forgets_all_but_the_lists(sandbox):
    sandbox.upload(creates("a"))
    sandbox.fault("add", "terms")
    sandbox.http("POST", "/reset")
    assert sandbox.http("GET", "/health") == {"ok": True}
    assert sandbox.members() == set()
    assert sandbox.http("GET", "/calls") == {}
    assert sandbox.http("GET", "/faults") == []
    assert sandbox.http("GET", "/state")["jobs"] == []
    sandbox.create()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("POST", "/nothing", {}, 404),
        ("DELETE", "/state", None, 404),
        ("GET", "/members/404", None, 404),
        ("POST", "/faults", {"method": "add"}, 400),
        ("POST", "/faults", {"method": "add", "fault": "flood"}, 400),
        ("POST", "/faults", {"method": "ad", "fault": "slow"}, 400),
        ("POST", "/faults", {"method": "add", "fault": "slow", "times": 0}, 400),
        ("POST", "/faults", {"method": "add", "fault": "slow", "wait": 1}, 400),
        ("POST", "/faults", ["add"], 400),
        ("POST", "/settings", {"colour": "red"}, 400),
        ("POST", "/audiences", {"customer_id": "no"}, 400),
        ("POST", "/audiences", {"customer_id": "43", "user_list_id": "111"}, 400),
        ("POST", "/audiences", {"customer_id": "43", "key_type": "SHOE_SIZE"}, 400),
        ("POST", "/audiences", {"customer_id": "43", "manager_id": "boss"}, 400),
    ],
)
def test_the_control_port_refuses_what_it_does_not_know(sandbox, method, path, body, status):
    with pytest.raises(HTTPError) as caught:
        sandbox.http(method, path, body)
    assert caught.value.code == status
    assert json.load(caught.value)["error"]


def test_content_comes_from_a_file(tmp_path):
    config = tmp_path / "content.json"
    config.write_text(json.dumps({"customers": {"55": {"5": "Five"}, "66": {}}}))
    command = [sys.executable, "-m", "sandbox.google_ads", "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        ready = json.loads(process.stdout.readline())
        other = Sandbox(ready["port"], ready["control"])
        customers = other.http("GET", "/state")["customers"]
        assert customers["66"] == {}
        assert (customers["55"]["5"]["name"], customers["55"]["5"]["count"]) == ("Five", 0)
        other.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
