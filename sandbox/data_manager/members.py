"""One person in a list: checked as the API checks, and held in as few bytes as will do."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from sandbox.data_manager.refusals import Violation

IDENTIFIERS_PER_MEMBER = 10
DIGEST = 32
HEX = 1
EMAIL, PHONE, ADDRESS, MOBILE, USER = b"e", b"p", b"a", b"m", b"u"
_NAMES = {EMAIL: "email", PHONE: "phone", ADDRESS: "address", MOBILE: "mobile", USER: "user"}
_POSTAL_CODE = re.compile(r"[0-9A-Za-z][0-9A-Za-z \-]{0,9}")
_REGION = re.compile(r"[A-Za-z]{2}")
_MOBILE_ID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Invalid(Exception):  # noqa: N818
    """The member is wrong; `field` says where in it."""

    def __init__(self, reason: str, field: str = "", description: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field
        self.description = description

    def violation(self, place: int) -> Violation:
        member = f"audience_members.audience_members[{place}]"
        field = f"{member}.{self.field}" if self.field else member
        return Violation(field, self.reason, self.description)


def pack(member: Any, encoding: int) -> bytes:
    """Give the packed member of an AudienceMember message or raise `Invalid`.

    Packed, a member is its identifiers one after another, sorted: each a letter, the length of the
    rest in two bytes, and the rest.
    """
    kind = member.WhichOneof("data")
    if kind == "user_data":
        identifiers = member.user_data.user_identifiers
        _count(identifiers, "user_data.user_identifiers", "TOO_MANY_USER_IDENTIFIERS")
        found = [_user_identifier(one, at, encoding) for at, one in enumerate(identifiers)]
    elif kind == "mobile_data":
        _count(member.mobile_data.mobile_ids, "mobile_data.mobile_ids", "TOO_MANY_ELEMENTS")
        found = [_mobile_id(one, at) for at, one in enumerate(member.mobile_data.mobile_ids)]
    elif kind == "user_id_data":
        user_id = member.user_id_data.user_id
        if not user_id:
            raise Invalid("REQUIRED_FIELD_MISSING", "user_id_data.user_id")
        found = [_packed(USER, user_id.encode())]
    else:
        raise Invalid("INVALID_AUDIENCE_MEMBER")
    return b"".join(sorted(set(found)))


def canonical(member: bytes) -> str:
    """Give the key as tests compare it: `email:<hash>|phone:<hash>`, sorted as text."""
    return "|".join(sorted(_text(identifier) for identifier in split(member)))


def split(member: bytes) -> Iterator[bytes]:
    """Give the packed identifiers of a packed member one by one."""
    at = 0
    while at < len(member):
        end = at + 3 + int.from_bytes(member[at + 1 : at + 3])
        yield member[at:end]
        at = end


def _count(identifiers: Any, field: str, too_many: str) -> None:
    if not identifiers:
        raise Invalid("REQUIRED_FIELD_MISSING", field)
    if len(identifiers) > IDENTIFIERS_PER_MEMBER:
        raise Invalid(too_many, field)


def _user_identifier(identifier: Any, at: int, encoding: int) -> bytes:
    where = f"user_data.user_identifiers[{at}]"
    kind = identifier.WhichOneof("identifier")
    if kind == "email_address":
        return _packed(EMAIL, _digest(identifier.email_address, encoding, f"{where}.{kind}"))
    if kind == "phone_number":
        return _packed(PHONE, _digest(identifier.phone_number, encoding, f"{where}.{kind}"))
    if kind == "address":
        return _packed(ADDRESS, _address(identifier.address, encoding, f"{where}.address"))
    raise Invalid("REQUIRED_FIELD_MISSING", where)


def _address(address: Any, encoding: int, where: str) -> bytes:
    for field in ("given_name", "family_name", "region_code", "postal_code"):
        if not getattr(address, field):
            raise Invalid("REQUIRED_FIELD_MISSING", f"{where}.{field}")
    if not _REGION.fullmatch(address.region_code):
        raise Invalid("INVALID_REGION_CODE", f"{where}.region_code")
    if not _POSTAL_CODE.fullmatch(address.postal_code):
        # Whoever passes this text on passes on what was sent.
        raise Invalid(
            "INVALID_POSTAL_CODE", f"{where}.postal_code", f"{address.postal_code} is not valid."
        )
    return (
        _digest(address.given_name, encoding, f"{where}.given_name")
        + _digest(address.family_name, encoding, f"{where}.family_name")
        + address.region_code.upper().encode()
        + address.postal_code.encode()
    )


def _mobile_id(text: str, at: int) -> bytes:
    if not _MOBILE_ID.fullmatch(text):
        raise Invalid("INVALID_MOBILE_ID_FORMAT", f"mobile_data.mobile_ids[{at}]")
    return _packed(MOBILE, text.lower().encode())


def _digest(text: str, encoding: int, where: str) -> bytes:
    try:
        if encoding == HEX:
            digest = binascii.unhexlify(text)
        else:
            digest = base64.b64decode(text, validate=True)
    except ValueError:
        reason = "INVALID_HEX_ENCODING" if encoding == HEX else "INVALID_BASE64_ENCODING"
        raise Invalid(reason, where, f"{text} is malformed.") from None
    if len(digest) != DIGEST:
        raise Invalid("INVALID_SHA256_FORMAT", where)
    return digest


def _packed(tag: bytes, rest: bytes) -> bytes:
    return tag + len(rest).to_bytes(2) + rest


def _text(identifier: bytes) -> str:
    tag, rest = identifier[:1], identifier[3:]
    name = _NAMES[tag]
    if tag in (EMAIL, PHONE):
        return f"{name}:{rest.hex()}"
    if tag == ADDRESS:
        first, last = rest[:DIGEST].hex(), rest[DIGEST : 2 * DIGEST].hex()
        country, postal = rest[2 * DIGEST :][:2].decode(), rest[2 * DIGEST :][2:].decode()
        return f"{name}:{first}:{last}:{country}:{postal}"
    return f"{name}:{rest.decode()}"
