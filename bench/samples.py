"""Requests as the platforms' own samples build them, for `bench.requests` to compare with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import requests
from google.ads import datamanager_v1
from google.ads.googleads.client import GoogleAdsClient
from google.auth.credentials import AnonymousCredentials

from penstock.contract import DataManager

JOB = "customers/1234567890/offlineUserDataJobs/1"
LIST = DataManager(
    kind="data_manager",
    connection="ads",
    customer_id="1234567890",
    user_list_id="111",
    terms_accepted=True,
)
_ADDRESS = ("first_name", "last_name", "country", "postal_code")

Record = dict[str, str | None]


def google_client(proto_plus: bool) -> Any:
    return GoogleAdsClient(AnonymousCredentials(), "sandbox", use_proto_plus=proto_plus)


def google_example(client: Any, records: Sequence[Record]) -> list[bytes]:
    """By the calls of `examples/remarketing/add_customer_match_user_list.py` in google-ads."""
    operations = []
    for record in records:
        member = client.get_type("UserData")
        if record["email"] is not None:
            identifier = client.get_type("UserIdentifier")
            identifier.hashed_email = record["email"]
            member.user_identifiers.append(identifier)
        if record["phone"] is not None:
            identifier = client.get_type("UserIdentifier")
            identifier.hashed_phone_number = record["phone"]
            member.user_identifiers.append(identifier)
        if all(record.get(name) for name in _ADDRESS):
            identifier = client.get_type("UserIdentifier")
            address = identifier.address_info
            address.hashed_first_name = record["first_name"]
            address.hashed_last_name = record["last_name"]
            address.country_code = record["country"]
            address.postal_code = record["postal_code"]
            member.user_identifiers.append(identifier)
        operation = client.get_type("OfflineUserDataJobOperation")
        if client.use_proto_plus:
            operation.create = member
        else:
            operation.create.CopyFrom(member)
        operations.append(operation)
    request = client.get_type("AddOfflineUserDataJobOperationsRequest")
    request.resource_name = JOB
    request.enable_partial_failure = request.enable_warnings = True
    if client.use_proto_plus:
        request.operations = operations
        return [type(request).serialize(request)]
    request.operations.extend(operations)
    return [request.SerializeToString()]


def data_manager_sample(records: Sequence[Record]) -> list[bytes]:
    """As Google's samples use the SDK: its own types, appended to each other."""
    members = []
    for record in records:
        person = datamanager_v1.UserData()
        identify = person.user_identifiers.append
        if record["email"] is not None:
            identify(datamanager_v1.UserIdentifier(email_address=record["email"]))
        if record["phone"] is not None:
            identify(datamanager_v1.UserIdentifier(phone_number=record["phone"]))
        if all(record.get(name) for name in _ADDRESS):
            address = datamanager_v1.AddressInfo(
                given_name=record["first_name"],
                family_name=record["last_name"],
                region_code=record["country"],
                postal_code=record["postal_code"],
            )
            identify(datamanager_v1.UserIdentifier(address=address))
        member = datamanager_v1.AudienceMember()
        member.user_data = person
        members.append(member)
    destination = datamanager_v1.Destination(product_destination_id=LIST.user_list_id)
    account = destination.operating_account
    account.account_id = LIST.customer_id
    account.account_type = datamanager_v1.ProductAccount.AccountType.GOOGLE_ADS
    request = datamanager_v1.IngestAudienceMembersRequest(
        destinations=[destination],
        audience_members=members,
        encoding=datamanager_v1.Encoding.HEX,
    )
    terms = datamanager_v1.TermsOfServiceStatus.ACCEPTED
    request.terms_of_service.customer_match_terms_of_service_status = terms
    return [type(request).serialize(request)]


def post_elements(session: requests.Session, url: str, records: Sequence[Record]) -> None:
    elements = []
    for record in records:
        ids = []
        if record["email"]:
            ids.append({"idType": "SHA256_EMAIL", "idValue": record["email"]})
        if record.get("mobile_ad_id"):
            ids.append({"idType": "GOOGLE_AID", "idValue": record["mobile_ad_id"]})
        elements.append({"action": "ADD", "userIds": ids})
    session.post(url, data=json.dumps({"elements": elements}), timeout=1)
