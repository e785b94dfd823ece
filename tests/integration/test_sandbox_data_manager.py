"""The Data Manager sandbox, driven by Google's own SDK in the way its docs show."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.ads import datamanager_v1 as dm
from google.ads.datamanager_v1.services.ingestion_service.transports import (
    IngestionServiceGrpcTransport,
)
from google.ads.datamanager_v1.services.user_list_service.transports import (
    UserListServiceGrpcTransport,
)
from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError, NotFound
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from sandbox.servers import DataManagerSandbox
from sandbox.servers.process import ServerError

CUSTOMER, MANAGER = "1234567890", "9876543210"
ADS = dm.ProductAccount.AccountType.GOOGLE_ADS
PROCESSING = dm.RequestStatusPerDestination.RequestStatus.PROCESSING
DONE = {"polls": 1, "per_minute": 300, "per_day": 100_000, "violations": 20}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def contact(*names: str, **more: Any) -> dm.AudienceMember:
    identifiers = [dm.UserIdentifier(email_address=sha(name)) for name in names]
    return dm.AudienceMember(user_data=dm.UserData(user_identifiers=identifiers), **more)


def destination(
    list_id: str = "111", customer: str = CUSTOMER, login: str | None = None
) -> dm.Destination:
    aim = dm.Destination(
        operating_account=dm.ProductAccount(account_id=customer, account_type=ADS),
        product_destination_id=list_id,
    )
    if login is not None:
        aim.login_account = dm.ProductAccount(account_id=login, account_type=ADS)
    return aim


class Client:
    """A caller of the API, with the SDK's own retries left out."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)
        self.api = dm.IngestionServiceClient(
            transport=IngestionServiceGrpcTransport(channel=self.channel)
        )
        self.lists = dm.UserListServiceClient(
            transport=UserListServiceGrpcTransport(channel=self.channel)
        )

    def ingest(self, *members: dm.AudienceMember, timeout: float = 30, **more: Any) -> str:
        given = {
            "destinations": [destination()],
            "audience_members": members,
            "encoding": dm.Encoding.HEX,
            "terms_of_service": {"customer_match_terms_of_service_status": 1},
            **more,
        }
        request = dm.IngestAudienceMembersRequest(given)
        return self.api.ingest_audience_members(request, retry=None, timeout=timeout).request_id

    def remove(self, *members: dm.AudienceMember) -> str:
        request = dm.RemoveAudienceMembersRequest(
            destinations=[destination()], audience_members=members, encoding=dm.Encoding.HEX
        )
        return self.api.remove_audience_members(request, retry=None).request_id

    def remove_all(self, before: float | None = None, **more: Any) -> str:
        request = dm.RemoveAllAudienceMembersRequest(destinations=[destination()], **more)
        if before is not None:
            stamp = Timestamp()
            stamp.FromNanoseconds(int(before * 1e9))
            request.remove_as_of_time = stamp
        return self.api.remove_all_audience_members(request, retry=None).request_id

    def status(self, request_id: str) -> Any:
        answer = self.api.retrieve_request_status(request={"request_id": request_id}, retry=None)
        return answer.request_status_per_destination[0]

    def done(self, request_id: str) -> Any:
        assert self.status(request_id).request_status is PROCESSING
        return self.status(request_id)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataManagerSandbox]:
    with DataManagerSandbox(tmp_path_factory.mktemp("data-manager")) as server:
        yield server


@pytest.fixture
def sandbox(server: DataManagerSandbox) -> DataManagerSandbox:
    server.reset()
    server.settings(**DONE)
    return server


@pytest.fixture
def client(sandbox: DataManagerSandbox) -> Iterator[Client]:
    made = Client(sandbox.endpoint)
    yield made
    made.channel.close()


def reasons(work: Any) -> list[str]:
    """What the API names as wrong, with its place."""
    with pytest.raises(GoogleAPICallError) as caught:
        work()
    for detail in caught.value.details:
        if isinstance(detail, error_details_pb2.BadRequest):
            return [f"{one.reason} {one.field}" for one in detail.field_violations]
    return [str(caught.value.reason)]


def test_members_are_in_the_list_when_the_request_is_done(
    sandbox: DataManagerSandbox, client: Client
) -> None:
    address = dm.AddressInfo(
        given_name=sha("f"), family_name=sha("l"), region_code="de", postal_code="10115"
    )
    third = dm.AudienceMember(
        user_data=dm.UserData(
            user_identifiers=[
                dm.UserIdentifier(address=address),
                dm.UserIdentifier(phone_number=sha("p")),
            ]
        )
    )
    request = client.ingest(contact("a"), contact("b"), third)
    assert sandbox.members("111") == []
    status = client.done(request)
    assert status.request_status.name == "SUCCESS"
    figures = status.audience_members_ingestion_status.user_data_ingestion_status
    assert (figures.record_count, figures.user_identifier_count) == (3, 4)
    assert figures.upload_match_rate_range.name == "MATCH_RATE_RANGE_LESS_THAN_20"
    assert set(sandbox.members("111")) == {
        f"email:{sha('a')}",
        f"email:{sha('b')}",
        f"address:{sha('f')}:{sha('l')}:DE:10115|phone:{sha('p')}",
    }
    assert sandbox.count("111") == 3

    client.done(client.remove(contact("a")))
    assert f"email:{sha('a')}" not in sandbox.members("111")
    assert sandbox.count("111") == 2


def test_other_kinds_of_members(sandbox: DataManagerSandbox, client: Client) -> None:
    phone = "38400000-8CF0-11BD-B23E-10B96E40000D"
    user = dm.AudienceMember(user_id_data=dm.UserIdData(user_id="crm-1"))
    mobile = dm.AudienceMember(mobile_data=dm.MobileData(mobile_ids=[phone]))
    client.done(client.ingest(user, destinations=[destination("112")]))
    client.done(client.ingest(mobile, destinations=[destination("113")]))
    assert sandbox.members("112") == ["user:crm-1"]
    assert sandbox.members("113") == [f"mobile:{phone.lower()}"]


def test_base64_names_the_same_person(sandbox: DataManagerSandbox, client: Client) -> None:
    digest = base64.b64encode(hashlib.sha256(b"a").digest()).decode()
    person = dm.AudienceMember(
        user_data=dm.UserData(user_identifiers=[dm.UserIdentifier(email_address=digest)])
    )
    client.done(client.ingest(person, encoding=dm.Encoding.BASE64))
    assert sandbox.members("111") == [f"email:{sha('a')}"]


def test_removing_all_spares_who_came_later(sandbox: DataManagerSandbox, client: Client) -> None:
    client.done(client.ingest(contact("old"), contact("both")))
    sandbox.settings(older=100)
    client.done(client.ingest(contact("new"), contact("both")))
    status = client.done(client.remove_all(time.time() - 50))
    assert status.request_status.name == "SUCCESS"
    assert set(sandbox.members("111")) == {f"email:{sha('new')}", f"email:{sha('both')}"}
    client.done(client.remove_all())
    assert sandbox.members("111") == []
    assert reasons(lambda: client.remove_all(time.time() + 100)) == [
        "INVALID_REMOVE_AS_OF_TIME remove_as_of_time"
    ]


MEMBER = "audience_members.audience_members"
TEXT = dm.AudienceMember(
    user_data=dm.UserData(user_identifiers=[dm.UserIdentifier(email_address="a@example.com")])
)
SHORT = dm.AudienceMember(
    user_data=dm.UserData(user_identifiers=[dm.UserIdentifier(email_address="ab")])
)
NO_POSTAL = dm.AudienceMember(
    user_data=dm.UserData(
        user_identifiers=[
            dm.UserIdentifier(
                address=dm.AddressInfo(
                    given_name=sha("f"), family_name=sha("l"), region_code="DE", postal_code="?"
                )
            )
        ]
    )
)
USER = dm.AudienceMember(user_id_data=dm.UserIdData(user_id="crm-1"))
MOBILE = dm.AudienceMember(mobile_data=dm.MobileData(mobile_ids=["no"]))
WRONG: dict[str, tuple[list[dm.AudienceMember], dict[str, Any], str]] = {
    "nobody": ([], {}, "REQUIRED_FIELD_MISSING audience_members"),
    "many": ([contact("a")] * 10_001, {}, "TOO_MANY_AUDIENCE_MEMBERS audience_members"),
    "identifiers": (
        [contact(*"abcdefghijk")],
        {},
        f"TOO_MANY_USER_IDENTIFIERS {MEMBER}[0].user_data.user_identifiers",
    ),
    "no identifier": (
        [contact("a"), contact()],
        {},
        f"REQUIRED_FIELD_MISSING {MEMBER}[1].user_data.user_identifiers",
    ),
    "no data": (
        [dm.AudienceMember()],
        {},
        f"INVALID_AUDIENCE_MEMBER {MEMBER}[0]",
    ),
    "text": (
        [TEXT],
        {},
        f"INVALID_HEX_ENCODING {MEMBER}[0].user_data.user_identifiers[0].email_address",
    ),
    "no digest": (
        [SHORT],
        {},
        f"INVALID_SHA256_FORMAT {MEMBER}[0].user_data.user_identifiers[0].email_address",
    ),
    "base64": (
        [TEXT],
        {"encoding": dm.Encoding.BASE64},
        f"INVALID_BASE64_ENCODING {MEMBER}[0].user_data.user_identifiers[0].email_address",
    ),
    "postal code": (
        [NO_POSTAL],
        {},
        f"INVALID_POSTAL_CODE {MEMBER}[0].user_data.user_identifiers[0].address.postal_code",
    ),
    "mobile": (
        [MOBILE],
        {"destinations": [destination("113")]},
        f"INVALID_MOBILE_ID_FORMAT {MEMBER}[0].mobile_data.mobile_ids[0]",
    ),
    "consent": (
        [contact("a", consent={"ad_user_data": 7})],
        {},
        f"INVALID_ENUM_VALUE {MEMBER}[0].consent.ad_user_data",
    ),
    "no encoding": ([contact("a")], {"encoding": 0}, "REQUIRED_FIELD_MISSING encoding"),
    "mixed": ([contact("a"), USER], {}, "MULTIPLE_DATA_TYPES_NOT_ALLOWED audience_members"),
    "other type": ([USER], {}, "INVALID_USER_LIST_TYPE destinations[0]"),
    "terms": ([contact("a")], {"terms_of_service": {}}, "TERMS_AND_CONDITIONS_NOT_SIGNED"),
    "no destination": (
        [contact("a")],
        {"destinations": []},
        "REQUIRED_FIELD_MISSING destinations",
    ),
    "destinations": (
        [contact("a")],
        {"destinations": [destination()] * 11},
        "TOO_MANY_DESTINATIONS destinations",
    ),
    "list": (
        [contact("a")],
        {"destinations": [destination("999")]},
        "INVALID_USER_LIST_ID destinations[0].product_destination_id",
    ),
    "account": (
        [contact("a")],
        {"destinations": [destination(customer="5555555555")]},
        "PERMISSION_DENIED",
    ),
    "login": (
        [contact("a")],
        {"destinations": [destination(login="5555555555")]},
        "PERMISSION_DENIED",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(sandbox: DataManagerSandbox, client: Client, name: str) -> None:
    members, more, told = WRONG[name]
    assert reasons(lambda: client.ingest(*members, **more)) == [told]
    assert sandbox.state()["requests"] == []
    assert sandbox.calls()["ingest"] == {"ok": 0, "err": 1, "errors": {told.split()[0]: 1}}


def test_a_refusal_names_as_many_rows_as_it_is_set_to(
    sandbox: DataManagerSandbox, client: Client
) -> None:
    rows = [TEXT, contact("a"), SHORT]
    assert len(reasons(lambda: client.ingest(*rows))) == 2
    sandbox.settings(violations=1)
    assert len(reasons(lambda: client.ingest(*rows))) == 1


def test_validating_changes_nothing(sandbox: DataManagerSandbox, client: Client) -> None:
    assert client.ingest(contact("a"), validate_only=True) == ""
    assert client.remove_all(validate_only=True) == ""
    assert reasons(lambda: client.ingest(TEXT, validate_only=True))
    assert sandbox.state()["requests"] == []


def test_a_manager_reaches_the_list(sandbox: DataManagerSandbox, client: Client) -> None:
    client.done(client.ingest(contact("a"), destinations=[destination(login=MANAGER)]))
    assert sandbox.count("111") == 1


def test_one_request_for_two_lists(sandbox: DataManagerSandbox, client: Client) -> None:
    sandbox.add_audience(customer_id="5550001111", user_list_id="555", manager_id=MANAGER)
    aims = [destination(), destination("555", "5550001111", MANAGER)]
    request = client.ingest(contact("a"), destinations=aims)
    client.done(request)
    assert sandbox.members("555") == sandbox.members("111") == [f"email:{sha('a')}"]


def test_who_denied_is_left_out_later(sandbox: DataManagerSandbox, client: Client) -> None:
    granted, denied = {"ad_user_data": 1, "ad_personalization": 1}, {"ad_user_data": 2}
    request = client.ingest(
        contact("own"), contact("no", consent=denied), contact("yes"), consent=granted
    )
    status = client.done(request)
    assert status.request_status.name == "PARTIAL_SUCCESS"
    [count] = status.error_info.error_counts
    assert count.reason.name == "PROCESSING_ERROR_REASON_DENIED_CONSENT"
    assert count.record_count == 1
    assert sandbox.count("111") == 2
    [told] = sandbox.state()["requests"]
    assert told["consents"] == {"GRANTED/GRANTED": 2, "DENIED/STATUS_UNSPECIFIED": 1}


@pytest.mark.parametrize(
    ("settings", "quota"),
    [
        ({"per_minute": 2}, "IngestionMutateRequestsPerMinutePerProject"),
        ({"per_day": 2}, "IngestionMutateRequestsPerDayPerProject"),
    ],
)
def test_the_limits_of_a_project(
    sandbox: DataManagerSandbox, client: Client, settings: dict[str, int], quota: str
) -> None:
    sandbox.settings(**settings)
    requests = [client.ingest(contact("a")), client.remove(contact("a"))]
    with pytest.raises(GoogleAPICallError) as caught:
        client.ingest(contact("b"))
    assert caught.value.grpc_status_code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.metadata["quota_limit"] == quota
    # Reading is counted apart.
    assert [client.status(one).request_status for one in requests] == [PROCESSING, PROCESSING]


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("throttle", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
        ("internal", "INTERNAL", "INTERNAL_ERROR"),
        ("unauthenticated", "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED"),
        ("permission", "PERMISSION_DENIED", "PERMISSION_DENIED"),
        ("scope", "PERMISSION_DENIED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
        ("terms", "INVALID_ARGUMENT", "TERMS_AND_CONDITIONS_NOT_SIGNED"),
        ("reset", "UNAVAILABLE", None),
        ("html", "UNKNOWN", None),
    ],
)
def test_faults(
    sandbox: DataManagerSandbox, client: Client, fault: str, code: str, reason: str | None
) -> None:
    sandbox.fault("ingest", fault)
    with pytest.raises(GoogleAPICallError) as caught:
        client.ingest(contact("a"))
    assert caught.value.grpc_status_code is grpc.StatusCode[code]
    assert caught.value.reason == reason
    client.ingest(contact("a"))


def test_a_call_that_hangs_and_one_whose_answer_is_lost(
    sandbox: DataManagerSandbox, client: Client
) -> None:
    sandbox.fault("ingest", "hang")
    with pytest.raises(DeadlineExceeded):
        client.ingest(contact("a"), timeout=0.2)
    assert sandbox.state()["requests"] == []
    sandbox.fault("ingest", "drop_after")
    with pytest.raises(GoogleAPICallError):
        client.ingest(contact("a"))
    assert len(sandbox.state()["requests"]) == 1


def test_a_request_that_fails_later(sandbox: DataManagerSandbox, client: Client) -> None:
    reason = "PROCESSING_ERROR_REASON_UNKNOWN_CONSENT"
    sandbox.fault("ingest", "failed", data={"reason": reason})
    sandbox.fault("ingest", "partial", data={"every": 2, "counts": False})
    failed, partial = [client.done(client.ingest(contact("a"), contact("b"))) for _ in "12"]
    assert failed.request_status.name == "FAILED"
    assert failed.error_info.error_counts[0].reason.name == reason
    assert partial.request_status.name == "PARTIAL_SUCCESS"
    assert not partial.error_info.error_counts
    assert sandbox.members("111") == [f"email:{sha('b')}"]


def test_a_list_and_what_is_not_there(client: Client) -> None:
    name = f"accountTypes/GOOGLE_ADS/accounts/{CUSTOMER}/userLists/"
    found = client.lists.get_user_list(name=name + "112", retry=None)
    assert (found.id, found.display_name) == (112, "Loyalty")
    assert [kind.name for kind in found.ingested_user_list_info.upload_key_types] == ["USER_ID"]
    with pytest.raises(NotFound):
        client.lists.get_user_list(name=name + "999", retry=None)
    with pytest.raises(NotFound):
        client.status("never-was")


def test_the_control_port(sandbox: DataManagerSandbox, client: Client) -> None:
    client.ingest(contact("a"))
    [told] = sandbox.state()["requests"]
    assert (told["verb"], told["user_list_ids"], told["records"]) == ("ingest", ["111"], 1)
    assert sandbox.settings(polls=0)["polls"] == 0
    client.ingest(contact("b"))
    assert sandbox.members("111") == [f"email:{sha('b')}"]
    sandbox.reset()
    assert sandbox.members("111") == []
    for wrong in ({"poll": 1}, {"older": "x"}):
        with pytest.raises(ServerError):
            sandbox.settings(**wrong)
    with pytest.raises(ServerError):
        sandbox.members("999")
    with pytest.raises(ServerError):
        sandbox.add_audience(customer_id="1", user_list_id="2", key_type="NONE")
    with pytest.raises(ServerError):
        sandbox.fault("ingest", "no such fault")
