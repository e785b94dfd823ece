"""A person's e-mail address or phone as the digests that platforms get: all that suppression and
erasure keep of anybody.

The normal forms are those of `services/extract/identity`, value by value and without columns, so
that what is hashed here is what was sent. A test holds the two against each other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from penstock.errors import SpecError

#: What a person may be known by: a family of platforms, and what its members go by.
KNOWN_BY = ("google:email", "google:phone", "meta:email", "meta:phone")

_GMAIL = ("gmail.com", "googlemail.com")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_PHONE = re.compile(r"[ (]*\+?[0-9 ()./-]*")
_EXTENSION = re.compile(r"(?ai)[\s,;]*(?:ext(?:ension|n)?|x|#)[\s.:=]*[0-9]{1,7}\Z")
_E164 = re.compile(r"[1-9][0-9]{7,14}")
# Arabic, Persian and Devanagari keyboards have digits of their own, which NFKC leaves alone.
_FOREIGN = {zero + n: str(n) for zero in (0x0660, 0x06F0, 0x0966) for n in range(10)}
# Calling codes whose countries dial a 0 at home, and nothing else: "+44 (0)20 …" has it in vain.
_DIAL_ZERO = """
    20 211 212 213 218 231 232 233 234 243 249 250 251 252 254 255 256 260 261 262 263 264 265 27
    291 31 32 33 353 355 358 359 373 374 377 380 381 382 383 385 386 387 389 40 41 421 423 43 44
    46 49 508 51 53 54 55 57 58 590 591 593 594 595 596 598 60 61 62 63 64 66 686 81 82 84 850 855
    856 86 880 886 90 91 92 93 94 95 961 962 963 964 966 967 970 971 972 976 977 98 994 995 996
"""
TRUNK_ZERO = _DIAL_ZERO.split()
_TRUNK = re.compile(rf"(?:(36)(?:06)+|({'|'.join(TRUNK_ZERO)})0+)")


def of_email(text: str) -> dict[str, bytes]:
    """Its digest under each name of KNOWN_BY that it has one for; empty where it is none."""
    plain = _lower(text.strip())
    return _hashed({"google:email": _google(plain), "meta:email": _address(plain)})


def of_phone(text: str) -> dict[str, bytes]:
    """The same of a phone number, which must have its country code: after a + or 00."""
    digits = _international(text.strip())
    return _hashed({"google:phone": f"+{digits}", "meta:phone": digits} if digits else {})


def of_all(emails: Iterable[str], phones: Iterable[str]) -> list[dict[str, bytes]]:
    """Each identifier's digests; a SpecError where one is not what it should be."""
    found = []
    for number, email in enumerate(emails, 1):
        found.append(of_email(email))
        if not found[-1]:
            raise SpecError(f"What is given as e-mail address {number} is not one.")
    for number, phone in enumerate(phones, 1):
        found.append(of_phone(phone))
        if not found[-1]:
            raise SpecError(
                f"What is given as phone {number} is not a phone number with its country code, "
                "such as +49 30 123456."
            )
    return found


def of_line(text: str) -> set[bytes]:
    """Every digest of an e-mail address or a phone, or a digest that is one already (in hex)."""
    text = text.strip()
    if _DIGEST.fullmatch(text):
        return {bytes.fromhex(text)}
    return set((of_email(text) or of_phone(text)).values())


def _hashed(forms: dict[str, str | None]) -> dict[str, bytes]:
    return {name: hashlib.sha256(form.encode()).digest() for name, form in forms.items() if form}


def _lower(text: str) -> str:
    # Letter by letter, as columns are: a whole word in Python makes the last sigma another one.
    return "".join(letter.lower()[0] for letter in text)


def _google(plain: str) -> str | None:
    address = _address(plain) or _address("".join(c for c in plain if not _is_blank(c)))
    local, _, domain = (address or "").partition("@")
    if domain not in _GMAIL:
        return address
    # Their mailboxes ignore dots and what follows a plus.
    mailbox = local.partition("+")[0].replace(".", "")
    return f"{mailbox}@{domain}" if mailbox else None


def _address(text: str) -> str | None:
    """The text itself where it can be an e-mail address."""
    local, _, domain = text.partition("@")
    labels = domain.split(".")
    whole = local and len(labels) > 1 and all(labels) and "@" not in domain
    return None if not whole or any(_is_blank(c) or _is_control(c) for c in text) else text


def _international(text: str) -> str | None:
    """Digits from the country code on."""
    if not _PHONE.fullmatch(text):
        text = _tidy(text)
        if not _PHONE.fullmatch(text):
            return None
    digits = re.sub(r"[^0-9]", "", text)
    if digits.startswith("00"):
        digits = digits[2:]
    elif "+" not in text:
        return None
    trunk = _TRUNK.match(digits)
    if trunk:
        digits = (trunk[1] or trunk[2]) + digits[trunk.end() :]
    return digits if _E164.fullmatch(digits) else None


def _tidy(text: str) -> str:
    """What was not plain at first sight: full-width forms, other digits, marks, extensions."""
    text = unicodedata.normalize("NFKC", text).translate(_FOREIGN)
    # Address books wrap numbers in invisible direction marks.
    shown = (c for c in text if unicodedata.category(c) != "Cf")
    plain = "".join(" " if _is_blank(c) or unicodedata.category(c) == "Pd" else c for c in shown)
    return _EXTENSION.sub("", plain)


def _is_blank(c: str) -> bool:
    return c in "\t\n\v\f\r\x85\ufeff" or unicodedata.category(c).startswith("Z")


def _is_control(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf")
