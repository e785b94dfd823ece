"""Raw identifiers to what a platform may see: its normal form of them, hashed, in columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from services.extract.identity import google, meta
from services.extract.identity.member import Members, Rules

__all__ = ["IDENTITIES", "USES", "Members", "Rules"]

IDENTITIES: Final[dict[str, Callable[[pa.RecordBatch, Rules], Members]]] = {
    "google": google.identify,
    "google_crm": google.identify_crm,
    "google_mobile": google.identify_mobile,
    "meta": meta.identify,
}
# The identifiers of the contract that each can use. Consent is every view's.
USES: Final[dict[str, tuple[str, ...]]] = {
    "google": google.COLUMNS,
    "google_crm": google.CRM_COLUMNS,
    "google_mobile": google.MOBILE_COLUMNS,
    "meta": meta.COLUMNS,
}
