"""CSV: the database wrote the rows already; only the header is ours."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

import pyarrow as pa

from penstock.payloads import Payload


class Csv:
    content_type: ClassVar[str] = "text/csv; charset=utf-8"

    def head(self, columns: list[str]) -> bytes:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(columns)
        return out.getvalue().encode()

    def rows(self, payload: Payload) -> bytes:
        raw = payload.about["raw"]
        if not raw:
            return b""
        return pa.decompress(payload.body, decompressed_size=raw, codec="lz4", asbytes=True)
