"""Google's normal forms: Customer Match and the Data Manager API share them."""

from __future__ import annotations

from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity.email import checked_without_blanks
from services.extract.identity.intake import Intake
from services.extract.identity.member import Members, Rules
from services.extract.identity.text import lower, mended, null_where

COLUMNS: Final = ("email", "phone", "first_name", "last_name", "country", "postal_code")
CRM_COLUMNS: Final = ("external_id",)
MOBILE_COLUMNS: Final = ("mobile_ad_id",)
# Their mailboxes ignore dots and what follows a plus; other providers' do not.
GMAIL: Final = ("@gmail.com", "@googlemail.com")


def identify(rows: pa.RecordBatch, rules: Rules) -> Members:
    """Rows with an e-mail address, a phone or a whole postal address.

    Google matches an address by first name, last name, country and postal code together and can
    do nothing with a part of one, so the four are set in a row together or not at all.
    """
    intake = Intake(rows, rules)
    columns = {"email": intake.email(email), "phone": intake.phone("+")}
    usable = pc.or_(intake.given(columns["email"]), intake.given(columns["phone"]))

    # Not hashed in vain: without one of these columns no row can have a whole address.
    if intake.has("first_name", "last_name", "postal_code") and intake.countries is not None:
        address = {
            "first_name": intake.word("first_name", lower),
            "last_name": intake.word("last_name", lower),
            "country": intake.countries,
            "postal_code": intake.text("postal_code"),
        }
        whole = intake.given(*address.values())
        partial = pc.invert(whole)
        columns |= {name: null_where(column, partial) for name, column in address.items()}
        usable = pc.or_(usable, whole)
    return intake.members(columns, usable, platform_takes_consent=True)


def identify_crm(rows: pa.RecordBatch, rules: Rules) -> Members:
    """Rows with an id of the advertiser's own, for a list of CRM_ID."""
    intake = Intake(rows, rules)
    ids = intake.text("external_id")
    return intake.members({"external_id": ids}, intake.given(ids), platform_takes_consent=True)


def identify_mobile(rows: pa.RecordBatch, rules: Rules) -> Members:
    """Rows with a phone's advertising id, for a list of MOBILE_ADVERTISING_ID."""
    intake = Intake(rows, rules)
    ids = intake.mobile_ad_id()
    return intake.members({"mobile_ad_id": ids}, intake.given(ids), platform_takes_consent=True)


def email(values: pa.StringArray) -> pa.StringArray:
    addresses = checked_without_blanks(lower(values))
    for domain in GMAIL:
        addresses = mended(
            addresses,
            pc.ends_with(addresses, domain),
            partial(_mailbox, domain=domain),
        )
    return addresses


def _mailbox(addresses: pa.StringArray, domain: str) -> pa.StringArray:
    local = pc.utf8_slice_codeunits(addresses, 0, -len(domain))
    local = mended(local, pc.match_substring(local, "+"), _without_suffix)
    local = pc.replace_substring(local, ".", "")
    local = null_where(local, pc.equal(local, ""))
    return pc.binary_join_element_wise(local, domain, "")


def _without_suffix(local: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(local, r"\+.*", "")
