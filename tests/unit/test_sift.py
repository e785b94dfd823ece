"""Who is left out just before sending."""

from __future__ import annotations

import pyarrow as pa

from penstock.payloads import Payload
from services.upload import sift
from services.upload.chunk import members_of


def test_who_denied_either_consent_is_left_out() -> None:
    codes = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    members = pa.record_batch(
        {"row": pa.array(codes, pa.uint32()), "consent": pa.array(codes, pa.uint8())}
    )
    kept, [left] = sift.split(members, sift.denied(members), sift.DENIED)
    assert kept.column("consent").to_pylist() == [0, 1, 3, 4]
    assert left.between(2, 7).column("row").to_pylist() == [5, 6, 7]


def test_a_column_of_the_source_s_own_is_nobody_s_consent_nor_key() -> None:
    """Rows as they are read may be called anything."""
    data = b"1,denied,k1\n2,granted,k2\n"
    body = pa.compress(data, codec="lz4", asbytes=True)
    rows = members_of(
        Payload(body, {"form": "csv", "rows": 2, "raw": len(data)}), ["row", "consent", "row_key"]
    )
    assert rows.schema.names == ["row_2", "consent", "row_key_2", "row"]
    assert sift.denied(rows).to_pylist() == [False, False]


def test_a_batch_of_which_all_was_sent_before_has_nobody_left() -> None:
    """As it is taken up again after a kill between its last request and its settle."""
    nobody = pa.record_batch({"row": pa.array([], pa.uint32())})
    kept, left = sift.split(nobody, sift.denied(nobody), sift.DENIED)
    assert (kept.num_rows, left) == (0, [])
