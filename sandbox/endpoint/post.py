"""What a post must be to be believed, and what it says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

ARROW = "application/vnd.apache.arrow.stream"
#: A signature that is older may have been caught on the way and played again.
OLDEST_SECONDS = 300


class Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(frozen=True)
class Post:
    facts: Mapping[str, Any]
    columns: list[str]
    rows: list[list[Any]]
    digest: str

    @classmethod
    def read(cls, headers: Mapping[str, str], body: bytes, secret: str) -> Post:
        if secret:
            check_signature(headers.get("X-Penstock-Signature", ""), body, secret)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if headers.get("Content-Digest") != f"sha-256=:{digest}:":
            raise Refused(HTTPStatus.BAD_REQUEST, "the digest is not that of the body")
        if headers.get("Content-Type") == ARROW:
            facts, columns, rows = _arrow(body)
        else:
            facts = orjson.loads(body)
            columns, rows = facts.pop("columns", []), facts.pop("rows", [])
        if headers.get("Idempotency-Key") != facts["key"]:
            raise Refused(HTTPStatus.BAD_REQUEST, "the key is not that of the body")
        return cls(facts, columns, rows, digest)


def check_signature(header: str, body: bytes, secret: str) -> None:
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", header)
    if found is None:
        raise Refused(HTTPStatus.UNAUTHORIZED, "no signature")
    signed = hmac.new(secret.encode(), found[1].encode() + b"." + body, hashlib.sha256)
    if not hmac.compare_digest(signed.hexdigest(), found[2]):
        raise Refused(HTTPStatus.UNAUTHORIZED, "bad signature")
    if abs(time.time() - int(found[1])) > OLDEST_SECONDS:
        raise Refused(HTTPStatus.UNAUTHORIZED, "old signature")


def _arrow(body: bytes) -> tuple[dict[str, Any], list[str], list[list[Any]]]:
    import pyarrow as pa  # noqa: PLC0415 - heavy, and most want JSON

    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    columns = [
        [v.hex() if isinstance(v, bytes) else v for v in column.to_pylist()]
        for column in table.columns
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return orjson.loads(table.schema.metadata[b"penstock"]), table.schema.names, rows
