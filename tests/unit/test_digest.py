from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extract.identity.digest import DIGEST, from_hex, sha256
from services.extract.identity.text import over_distinct

# A shared machine may be slow; only wrong answers count.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.lists(st.none() | st.text(), max_size=40)


def expected(values: list[str | None]) -> list[bytes | None]:
    return [None if v is None else hashlib.sha256(v.encode()).digest() for v in values]


@patient
@given(texts)
def test_a_column_of_digests_is_what_hashlib_makes_of_each_value(values):
    hashed = sha256(pa.array(values, pa.string()))
    hashed.validate(full=True)
    assert hashed.type == DIGEST
    assert hashed.to_pylist() == expected(values)


@patient
@given(texts, st.integers(0, 40))
def test_a_slice_hashes_as_its_own_values(values, start):
    part = pa.array(values, pa.string()).slice(min(start, len(values)))
    assert sha256(part).to_pylist() == expected(values[start:])


@patient
@given(st.lists(st.none() | st.sampled_from(["mary", "정", "", "a\x00b"]), max_size=60))
def test_hashing_the_distinct_values_alone_gives_the_same(values):
    column = pa.array(values, pa.string())
    assert over_distinct(column, sha256).to_pylist() == sha256(column).to_pylist()


@patient
@given(st.lists(st.none() | st.tuples(st.binary(min_size=32, max_size=32), st.booleans())))
def test_hex_comes_back_as_the_digests_it_names_in_either_case(pairs):
    written = [None if p is None else (p[0].hex().upper() if p[1] else p[0].hex()) for p in pairs]
    read = from_hex(pa.array(written, pa.string()))
    assert read.type == DIGEST
    assert read.to_pylist() == [None if p is None else p[0] for p in pairs]


def test_what_is_not_hex_is_refused_rather_than_guessed_at():
    with pytest.raises(ValueError, match="non-hexadecimal"):
        from_hex(pa.array(["not a digest"]))


def test_an_empty_column_stays_empty():
    assert sha256(pa.array([], pa.string())).to_pylist() == []
    assert from_hex(pa.array([], pa.string())).to_pylist() == []
