"""The Google Ads sandbox's user lists, their types and their accounts, spoken to by Google's SDK."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

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
from google.ads.googleads.v26.services.services.user_list_service import UserListServiceClient
from google.ads.googleads.v26.services.services.user_list_service.transports import (
    UserListServiceGrpcTransport,
)

from sandbox.servers import GoogleAdsSandbox

CUSTOMER = "1234567890"
PATIENCE = 60
IPHONE = "EA7583CD-A667-48BC-B806-42ECB2B48606"
_number = count(1)


class Client:
    """The SDK's services on one channel."""

    def __init__(self, sandbox: GoogleAdsSandbox, login: str | None = None) -> None:
        self.sandbox = sandbox
        self.bare = grpc.insecure_channel(sandbox.endpoint)
        channel = grpc.intercept_channel(
            self.bare,
            MetadataInterceptor("token", login),
            ExceptionInterceptor("v26", use_proto_plus=True),
        )
        self.lists = UserListServiceClient(transport=UserListServiceGrpcTransport(channel=channel))
        self.jobs = OfflineUserDataJobServiceClient(
            transport=OfflineUserDataJobServiceGrpcTransport(channel=channel)
        )
        self.ads = GoogleAdsServiceClient(transport=GoogleAdsServiceGrpcTransport(channel=channel))

    def make(self, *wanted: dict[str, Any], **more: Any) -> list[str]:
        request = {
            "customer_id": CUSTOMER,
            "operations": [{"create": one} for one in wanted],
            **more,
        }
        answer = self.lists.mutate_user_lists(request=request, retry=None)
        return [one.resource_name for one in answer.results]

    def create(self, user_list: str, **metadata: Any) -> str:
        job = {
            "type_": "CUSTOMER_MATCH_USER_LIST",
            "customer_match_user_list_metadata": {"user_list": user_list, **metadata},
        }
        customer = user_list.split("/")[1]
        request = {"customer_id": customer, "job": job}
        return self.jobs.create_offline_user_data_job(request=request, retry=None).resource_name

    def add(self, job: str, *operations: dict[str, Any], **more: Any) -> Any:
        request = {"resource_name": job, "operations": operations, **more}
        return self.jobs.add_offline_user_data_job_operations(request=request, retry=None)

    def run(self, job: str) -> None:
        self.jobs.run_offline_user_data_job(request={"resource_name": job}, retry=None)
        deadline = time.monotonic() + PATIENCE
        while self.state_of(job)["status"] == "RUNNING":
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def state_of(self, job: str) -> dict[str, Any]:
        return next(one for one in self.sandbox.state()["jobs"] if one["resource_name"] == job)

    def search(self, customer: str, query: str) -> list[Any]:
        return list(self.ads.search(customer_id=customer, query=query, retry=None))


@pytest.fixture
def client(google_sandbox: GoogleAdsSandbox) -> Iterator[Client]:
    before = google_sandbox.settings()["processing"]
    google_sandbox.settings(processing=0)
    client = Client(google_sandbox)
    yield client
    client.bare.close()
    google_sandbox.settings(processing=before)


def crm(name: str | None = None, **more: Any) -> dict[str, Any]:
    info = {"upload_key_type": "CONTACT_INFO", **more.pop("info", {})}
    return {"name": name or f"Made {next(_number)}", "crm_based_user_list": info, **more}


def email(name: str) -> dict[str, Any]:
    return {"user_identifiers": [{"hashed_email": hashlib.sha256(name.encode()).hexdigest()}]}


def refusal(call: Callable[[], Any]) -> tuple[str, list[str]]:
    """The error's full name, and the path to its place."""
    with pytest.raises(GoogleAdsException) as caught:
        call()
    error = caught.value.failure.errors[0]
    ((family, value),) = type(error).pb(error).error_code.ListFields()
    path = [element.field_name for element in error.location.field_path_elements]
    return f"{family.name}.{family.enum_type.values_by_number[value].name}", path


def test_a_list_is_made_and_found(client: Client) -> None:
    wanted = crm("Spring", description="All of spring", membership_life_span=540)
    (made,) = client.make(wanted)
    (row,) = client.search(
        CUSTOMER,
        "SELECT user_list.id, user_list.description, user_list.membership_life_span, "
        "user_list.crm_based_user_list.upload_key_type FROM user_list "
        "WHERE user_list.name = 'Spring'",
    )
    found = row.user_list
    assert found.resource_name == made
    assert (found.description, found.membership_life_span) == ("All of spring", 540)
    assert found.crm_based_user_list.upload_key_type.name == "CONTACT_INFO"
    assert client.sandbox.state()["customers"][CUSTOMER][str(found.id)]["life_span"] == 540
    client.add(job := client.create(made), {"create": email("a")})
    client.run(job)
    assert client.sandbox.count(str(found.id)) == 1


@pytest.mark.parametrize(
    ("change", "name", "field"),
    [
        ({"membership_life_span": 541}, "range_error.TOO_HIGH", "membership_life_span"),
        ({"membership_life_span": 10_000}, "range_error.TOO_HIGH", "membership_life_span"),
        ({"membership_life_span": -1}, "range_error.TOO_LOW", "membership_life_span"),
        ({"name": "Newsletter"}, "user_list_error.INVALID_NAME", "name"),
        ({"name": " "}, "field_error.REQUIRED", "name"),
        ({"info": {"upload_key_type": 0}}, "field_error.REQUIRED", "upload_key_type"),
        (
            {"info": {"upload_key_type": "MOBILE_ADVERTISING_ID"}},
            "user_list_error.APP_ID_NOT_SET",
            "app_id",
        ),
        ({"info": {"app_id": "1"}}, "user_list_error.APP_ID_NOT_ALLOWED", "app_id"),
    ],
)
def test_a_list_that_google_would_not_make(
    client: Client, change: dict[str, Any], name: str, field: str
) -> None:
    before = client.sandbox.state()["customers"]
    told, path = refusal(lambda: client.make(crm(), crm(**change)))
    assert told == name
    assert path[-1] == field
    # Not even the good one beside it.
    assert client.sandbox.state()["customers"] == before


def test_lists_of_other_kinds_and_other_operations_are_refused(client: Client) -> None:
    logical = {"name": "Both", "logical_user_list": {"rules": []}}
    assert refusal(lambda: client.make(logical))[0] == "user_list_error.CONCRETE_TYPE_REQUIRED"

    def mutate(*operations: dict[str, Any]) -> Any:
        request = {"customer_id": CUSTOMER, "operations": operations}
        return client.lists.mutate_user_lists(request=request, retry=None)

    gone = {"remove": f"customers/{CUSTOMER}/userLists/111"}
    assert refusal(lambda: mutate(gone))[0] == "mutate_error.MUTATE_NOT_ALLOWED"
    assert refusal(mutate)[0] == "request_error.OPERATION_REQUIRED"


def test_validating_a_list_makes_none(client: Client) -> None:
    before = client.sandbox.state()["customers"]
    assert client.make(crm(), validate_only=True) == []
    assert refusal(lambda: client.make(crm("Newsletter"), validate_only=True))[0].endswith("_NAME")
    assert client.sandbox.state()["customers"] == before


@pytest.mark.parametrize(
    ("key_type", "good", "bad", "key", "code"),
    [
        ("CRM_ID", {"third_party_user_id": "id 7"}, {"third_party_user_id": " "},
         "external_id:id 7", "MISSING_USER_IDENTIFIER"),
        ("MOBILE_ADVERTISING_ID", {"mobile_id": IPHONE}, {"mobile_id": "7"},
         f"mobile_ad_id:{IPHONE}", "INVALID_MOBILE_ID_FORMAT"),
    ],
)  # fmt: skip
def test_a_list_takes_the_identifiers_of_its_type(
    client: Client, key_type: str, good: dict[str, Any], bad: dict[str, Any], key: str, code: str
) -> None:
    app = {"app_id": "com.example"} if key_type.startswith("MOBILE") else {}
    (made,) = client.make(crm(info={"upload_key_type": key_type, **app}))
    job = client.create(made)
    client.add(job, {"create": {"user_identifiers": [good]}})
    told, path = refusal(lambda: client.add(job, {"create": {"user_identifiers": [bad]}}))
    assert told == f"offline_user_data_job_error.{code}"
    assert path[-1] == next(iter(bad))
    told, path = refusal(lambda: client.add(job, {"create": email("a")}))
    assert told == "offline_user_data_job_error.INCOMPATIBLE_UPLOAD_KEY_TYPE"
    assert path[-1] == "hashed_email"
    client.run(job)
    list_id = made.rsplit("/", 1)[1]
    assert client.sandbox.members(list_id) == [key]
    client.add(leaving := client.create(made), {"remove": {"user_identifiers": [good]}})
    client.run(leaving)
    assert client.sandbox.members(list_id) == []


def test_a_second_removal_of_all_is_refused_even_first_in_its_request(client: Client) -> None:
    job = client.create(f"customers/{CUSTOMER}/userLists/111")
    client.add(job, {"remove_all": True})
    for repeated in ([{"remove_all": True}], [{"remove_all": True}, {"create": email("a")}]):
        told = refusal(lambda repeated=repeated: client.add(job, *repeated))[0]
        assert told == "offline_user_data_job_error.INVALID_OPERATION_ORDER"
    client.add(job, {"create": email("a")})
    assert client.state_of(job)["operations"] == 2


def test_the_members_are_swapped_when_the_job_has_run(client: Client) -> None:
    where = f"customers/{CUSTOMER}/userLists/111"
    client.add(old := client.create(where), {"create": email("old")})
    client.run(old)
    client.sandbox.settings(processing=3600)
    client.add(job := client.create(where), {"remove_all": True}, {"create": email("new")})
    before = client.sandbox.members("111")
    client.jobs.run_offline_user_data_job(request={"resource_name": job}, retry=None)
    assert client.state_of(job)["status"] == "RUNNING"
    assert client.sandbox.members("111") == before
    assert client.state_of(old)["started"] == 0
    assert client.state_of(job)["started"] == 1


def test_a_job_with_consent_denied_is_refused(client: Client) -> None:
    where = f"customers/{CUSTOMER}/userLists/111"
    for purpose in ("ad_user_data", "ad_personalization"):
        told, path = refusal(lambda p=purpose: client.create(where, consent={p: "DENIED"}))
        assert told.endswith("CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS")
        assert path[-1] == "consent"
    assert client.sandbox.state()["jobs"] == []


def test_a_customer_behind_a_manager(client: Client) -> None:
    made = client.sandbox.add_audience(customer_id="2222222222", manager_id="9999999999")
    denied = "authorization_error.USER_PERMISSION_DENIED"
    for login in (None, "2222222222", CUSTOMER):
        other = Client(client.sandbox, login)
        assert refusal(lambda other=other: other.create(made["resource_name"]))[0] == denied
        assert (
            refusal(
                lambda other=other: other.search("2222222222", "SELECT customer.id FROM customer")
            )[0]
            == denied
        )
        other.bare.close()
    manager = Client(client.sandbox, "9999999999")
    job = manager.create(made["resource_name"])
    manager.add(job, {"create": email("a")})
    assert refusal(lambda: client.add(job, {"create": email("b")}))[0] == denied
    manager.bare.close()


def test_warnings_are_for_those_who_ask(client: Client) -> None:
    job = client.create(f"customers/{CUSTOMER}/userLists/111")
    client.sandbox.fault("add", "warn", times=2, data={"error": "INVALID_COUNTRY_CODE"})
    assert not client.add(job, {"create": email("a")}).warning.details
    warning = client.add(job, {"create": email("b")}, enable_warnings=True).warning
    (detail,) = warning.details
    (error,) = GoogleAdsFailure.deserialize(detail.value).errors
    assert error.error_code.offline_user_data_job_error.name == "INVALID_COUNTRY_CODE"
    assert client.state_of(job)["operations"] == 2
