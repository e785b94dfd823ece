"""One person in a user list: checked as Google checks, and held in as few bytes as will do.

A packed member is its identifiers one after another, sorted, each a letter and then raw digests
(for ids that are not hashed, their length and text):
a third of what the hex would take, and a set of a million of them stays below 200 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sandbox.google_ads.failures import PathElement

IDENTIFIERS_PER_MEMBER = 20
DIGEST = 32
EMAIL, PHONE, ADDRESS, CRM_ID, MOBILE_ID = b"e", b"p", b"a", b"c", b"m"
_NAMES = {EMAIL: "email", PHONE: "phone", CRM_ID: "external_id", MOBILE_ID: "mobile_ad_id"}
# What a list of each type takes: mixed identifiers are not allowed on one list.
KEY_TYPES = {
    "CONTACT_INFO": ("hashed_email", "hashed_phone_number", "address_info"),
    "CRM_ID": ("third_party_user_id",),
    "MOBILE_ADVERTISING_ID": ("mobile_id",),
}
_MOBILE = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# The length of a text takes two bytes.
_LONGEST_TEXT = 0xFFFF


class Invalid(Exception):  # noqa: N818
    """The operation is wrong; `field` and the index of the identifier tell where."""

    def __init__(
        self, code: str, message: str, path: tuple[PathElement, ...], trigger: str | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.path = path
        self.trigger = trigger


def pack(user: Any, key_type: str) -> bytes:
    """Give the packed member of a UserData message for a list of that type or raise `Invalid`."""
    identifiers = user.user_identifiers
    if not identifiers:
        raise Invalid("MISSING_USER_IDENTIFIER", "A member needs an identifier.", ())
    if len(identifiers) > IDENTIFIERS_PER_MEMBER:
        raise Invalid(
            "TOO_MANY_USER_IDENTIFIERS",
            f"An operation has at most {IDENTIFIERS_PER_MEMBER} identifiers.",
            (("user_identifiers", None),),
        )
    if user.HasField("user_attribute") or user.HasField("transaction_attribute"):
        raise Invalid(
            "ATTRIBUTES_NOT_APPLICABLE_FOR_CUSTOMER_MATCH_USER_LIST",
            "This type of job takes no attributes.",
            (),
        )
    packed = [_pack_identifier(one, index, key_type) for index, one in enumerate(identifiers)]
    if len(packed) == 1:
        return packed[0]
    return b"".join(sorted(set(packed)))


def canonical(member: bytes) -> str:
    """Give the key as tests compare it: `email:<hash>|phone:<hash>`, sorted as text."""
    return "|".join(sorted(_text(identifier) for identifier in split(member)))


def split(member: bytes) -> Iterator[bytes]:
    """Give the packed identifiers of a packed member one by one."""
    at = 0
    while at < len(member):
        end = at + 1 + DIGEST
        if member[at : at + 1] in (CRM_ID, MOBILE_ID):
            end = at + 3 + int.from_bytes(member[at + 1 : at + 3], "big")
        elif member[at : at + 1] == ADDRESS:
            end += DIGEST + 2
            end += 1 + member[end]
        yield member[at:end]
        at = end


def _pack_identifier(identifier: Any, index: int, key_type: str) -> bytes:
    kind = identifier.WhichOneof("identifier")
    path = (("user_identifiers", index),)
    if kind is None:
        raise Invalid("MISSING_USER_IDENTIFIER", "The identifier is empty.", path)
    if kind not in KEY_TYPES[key_type]:
        raise Invalid(
            "INCOMPATIBLE_UPLOAD_KEY_TYPE",
            "The user list takes identifiers of another kind.",
            (*path, (kind, None)),
        )
    if kind == "hashed_email":
        return EMAIL + _digest(identifier.hashed_email, index, kind)
    if kind == "hashed_phone_number":
        return PHONE + _digest(identifier.hashed_phone_number, index, kind)
    if kind == "address_info":
        return ADDRESS + _pack_address(identifier.address_info, index)
    text: str = getattr(identifier, kind)
    if not text.strip():
        raise Invalid("MISSING_USER_IDENTIFIER", "The identifier is empty.", (*path, (kind, None)))
    if kind == "mobile_id" and not _MOBILE.fullmatch(text):
        raise Invalid(
            "INVALID_MOBILE_ID_FORMAT", "The mobile id is malformed.", (*path, (kind, None)), text
        )
    raw = text.encode()[:_LONGEST_TEXT]
    tag = MOBILE_ID if kind == "mobile_id" else CRM_ID
    return tag + len(raw).to_bytes(2, "big") + raw


def _pack_address(address: Any, index: int) -> bytes:
    missing = [
        field
        for field in ("hashed_first_name", "hashed_last_name", "country_code", "postal_code")
        if not getattr(address, field)
    ]
    if missing:
        raise Invalid(
            "MISSING_USER_IDENTIFIER",
            "An address needs both names, the country code and the postal code.",
            (("user_identifiers", index), ("address_info", None), (missing[0], None)),
        )
    country: str = address.country_code
    postal: bytes = address.postal_code.encode()
    if len(country) != 2 or not (country.isascii() and country.isalpha()):
        raise Invalid(
            "INVALID_COUNTRY_CODE",
            "A country code is two letters.",
            (("user_identifiers", index), ("address_info", None), ("country_code", None)),
        )
    return (
        _digest(address.hashed_first_name, index, "address_info", "hashed_first_name")
        + _digest(address.hashed_last_name, index, "address_info", "hashed_last_name")
        + country.upper().encode()
        # One byte holds the length: no postal code comes near 255 and split() needs the end.
        + bytes([min(len(postal), 255)])
        + postal[:255]
    )


def _digest(text: str, index: int, *fields: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    # fromhex takes capitals and spaces too: only the way back proves 64 lower-case digits.
    if len(digest) != DIGEST or digest.hex() != text:
        path = (("user_identifiers", index), *((field, None) for field in fields))
        # Google repeats the offending value, so a client has to be proof against it: so do we.
        raise Invalid("INVALID_SHA256_FORMAT", "The SHA256 value is malformed.", path, text)
    return digest


def _text(identifier: bytes) -> str:
    tag, rest = identifier[:1], identifier[1:]
    if tag in (CRM_ID, MOBILE_ID):
        return f"{_NAMES[tag]}:{rest[2:].decode(errors='replace')}"
    if tag != ADDRESS:
        return f"{_NAMES[tag]}:{rest.hex()}"
    first, last = rest[:DIGEST].hex(), rest[DIGEST : 2 * DIGEST].hex()
    country = rest[2 * DIGEST : 2 * DIGEST + 2].decode()
    # The byte after the country is the length.
    postal = rest[2 * DIGEST + 3 :].decode(errors="replace")
    return f"address:{first}:{last}:{country}:{postal}"
