"""What a caller writes, and the one clear sentence for each way to get it wrong."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import JobSpec
from penstock.contract import GoogleAds, Meta, TypedParam, json_schema
from penstock.errors import SpecError, VersionError
from tests.builders import FILES, GOOGLE, META, document, spec

SECRET = "mary@example.com"
# All that Postgres can hold.
TEXT = st.characters(exclude_categories=("Cs",), exclude_characters="\0")


def query(text: str, **more: Any) -> dict[str, Any]:
    return {"source_table": None, "source_query": text, **more}


def refusal(doc: Any) -> str:
    with pytest.raises(SpecError) as caught:
        JobSpec.parse(doc)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return said


def test_the_least_that_makes_a_job_has_these_defaults() -> None:
    found = JobSpec.parse(
        {
            "name": "n",
            "source": {"connection": "warehouse", "table": "customers"},
            "destinations": [FILES],
        }
    )
    assert found.source.total == "estimate"
    assert found.destinations[0].compression == "gzip"
    assert found.destinations[0].link_seconds == 604_800
    assert (found.batch_rows, found.window, found.dry_run, found.v) == (20_000, 16, False, 1)
    # What is as by default does not travel: a worker of an earlier release need not know it.
    assert found.wire() == {
        "name": "n",
        "source": {"connection": "warehouse", "table": "customers"},
        "destinations": [
            {
                "kind": "s3",
                "connection": "files",
                "bucket": "bucket",
                "key": "{job_id}.csv.gz",
            }
        ],
        "v": 1,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nam": "x"}, "unknown key 'nam' (did you mean 'name'?)"),
        ({"source_tabel": "x"}, "unknown key 'source.tabel' (did you mean 'table'?)"),
        (
            {"identity": {"default_contry": "US"}},
            "unknown key 'identity.default_contry' (did you mean 'default_country'?)",
        ),
        ({"zzz": 1}, "unknown key 'zzz'."),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(document(**changes))


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        (
            FILES | {"compresion": "gzip"},
            "unknown key 'destinations.2.compresion' (did you mean 'compression'?)",
        ),
        (
            GOOGLE | {"ad_userdata": "granted"},
            "unknown key 'destinations.2.ad_userdata' (did you mean 'ad_user_data'?)",
        ),
        (META | {"acount_id": "5"}, "unknown key 'destinations.2.acount_id' (did you mean"),
        ({"connection": "files", "bukcet": "b", "key": "k"}, "(did you mean 'bucket'?)"),
        ({"connection": "x"}, "Destination 2 names no platform: give it `customer_id`"),
        (META | {"kind": "metta"}, "unknown kind 'metta' (did you mean 'meta'?); known are google"),
        (META | {"kind": ["s3"]}, "unknown kind ['s3']"),
        ("meta", "Destination 2 must be a table of keys."),
        (FILES | {"key": "{jobid}.csv"}, "{jobid} is not known in `key`; use {job_id} or {name}"),
        (FILES | {"key": "{job_id.csv"}, "a brace without its partner"),
        (FILES | {"key": "job_id}.csv"}, "a brace without its partner"),
        (FILES | {"key": "/a"}, "must not begin with '/'"),
        (FILES | {"key": "a/../b"}, "'..' part"),
        (FILES | {"bucket": "ab"}, "destinations.2.bucket: String should have at least 3"),
        (FILES | {"format": "xml"}, "destinations.2.format: Input should be 'csv'"),
        (FILES | {"link_seconds": 10**9}, "(How long the download link lives)"),
        ({"connection": "files", "bucket": "bucket"}, "no 'destinations.2.key', which is needed"),
        (GOOGLE | {"customer_id": "12"}, "`customer_id` must have ten digits"),
        (GOOGLE | {"audience": "VIPs"}, "give either `user_list_id` or `audience`"),
        (GOOGLE | {"user_list_id": "x1"}, "destinations.2.user_list_id: does not have the form"),
        (META | {"audience": "VIPs"}, "give either `audience_id` or `audience`"),
        ({"connection": "meta", "audience": "VIPs"}, "needs `account_id` beside it"),
        (META | {"mode": "swap"}, "destinations.2.mode"),
        (META | {"lane": "a lane"}, "letters, digits, '_' and '-'"),
        (META | {"connection": "my meta"}, "destinations.2.connection: does not have the form"),
    ],
)
def test_a_destination_that_is_wrong(destination: Any, said: str) -> None:
    doc = document()
    doc["destinations"].append(destination)
    assert said in refusal(doc)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "The spec has no 'name', which is needed."),
        ({"source": None}, "The spec has no 'source', which is needed."),
        ({"destinations": None}, "The spec has no 'destinations', which is needed."),
        ({"name": 5}, "name: must be text (What people call the job)."),
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"source": "customers"}, "source: must be a table of keys ("),
        ({"destinations": []}, "destinations: must not be empty ("),
        ({"destinations": "meta"}, "destinations: must be a list ("),
        ({"destinations": META}, "begin each with [[destinations]]"),
        ({"batch_rows": "many"}, "batch_rows: must be a whole number (Rows in a batch)."),
        ({"batch_rows": 1.5}, "batch_rows: must be a whole number"),
        ({"batch_rows": 0}, "batch_rows: Input should be greater than or equal to 1"),
        ({"window": 1}, "window: Input should be greater than or equal to 2"),
        ({"identity": {"default_country": "us"}}, "ISO code in two capitals"),
        ({"identity": {"prehashed": "email"}}, "identity.prehashed: must be a list"),
        ({"identity": {"prehashed": ["emial"]}}, "not an identifier (did you mean 'email'?)"),
    ],
)
def test_a_missing_key_or_a_wrong_type(change: dict[str, Any], said: str) -> None:
    doc = {k: v for k, v in (document() | change).items() if v is not None}
    assert said in refusal(doc)


@pytest.mark.parametrize("doc", [None, [], "a", 3])
def test_what_is_no_document(doc: Any) -> None:
    assert "must be one JSON object" in refusal(doc)


@pytest.mark.parametrize(
    "text",
    [
        "select 1",
        "  SELECT * FROM t;  ",
        "-- a note; with a mark\nselect 1",
        "/* a note */ /* and another */ select 1",
        "( (select 1) union (select 2))",
        "with a as (select 1) select * from a",
        "table customers",
        "values (1), (2)",
        "select ';' as a, \";\", $$;$$, $x$ ; $x$ from t -- ;",
        "select 'it''s; fine'",
    ],
)
def test_queries_that_read(text: str) -> None:
    assert spec(**query(text)).source.query == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "delete from t", "selected", "update t set a = 1", "/* a */ " * 50 + "drop table t"],
)
def test_a_query_that_is_no_select(text: str) -> None:
    assert "`query` must be a SELECT" in refusal(document(**query(text)))


@pytest.mark.parametrize(
    "text", ["select 1; select 2", "select 1; -- the end", "select 'a'; drop table t; --'"]
)
def test_a_query_of_two_statements(text: str) -> None:
    assert "one statement: take the ';' out" in refusal(document(**query(text)))


@pytest.mark.parametrize(
    "changes",
    [query("select 1", source_table="t"), {"source_table": None}],
)
def test_query_or_table(changes: dict[str, Any]) -> None:
    assert "either `query` or `table`, and not both" in refusal(document(**changes))


def test_a_table_takes_no_params() -> None:
    assert "a `table` takes none" in refusal(document(source_params={"a": SECRET}))


def test_an_unknown_column_of_the_contract() -> None:
    said = refusal(document(source_columns={"emial": "mail"}))
    assert "'emial' is not a column that destinations know (did you mean 'email'?)" in said
    assert "external_id" in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([SECRET], "'who' must be text, a number, true or false, or a table with `type`"),
        (time(1, 2), "'who' must be text, a number"),
        (float("nan"), "'who' must be text, a number"),
        ({"type": "date", "value": SECRET}, "source.params.who: the value is no date."),
        ({"type": "integer", "value": SECRET}, "the value is no integer."),
        ({"type": "timestamptz", "value": "2026-01-01T00:00:00"}, "the value is no timestamptz."),
        ({"type": "email", "value": SECRET}, "source.params.who.type: Input should be 'text'"),
        ({"value": SECRET}, "The spec has no 'source.params.who.type', which is needed."),
        ({"type": "text", "value": [SECRET]}, "source.params.who.value: must be text"),
        (
            {"type": "text", "valeu": SECRET},
            "unknown key 'source.params.who.valeu' (did you mean 'value'?)",
        ),
    ],
)
def test_a_parameter_that_is_wrong_is_named_and_its_value_is_not(value: Any, said: str) -> None:
    assert said in refusal(document(**query("select %(who)s", source_params={"who": value})))


def test_typed_parameters_become_what_the_driver_binds() -> None:
    given = {
        "a": {"type": "numeric", "value": "1.10"},
        "b": {"type": "date", "value": "2026-11-20"},
        "c": {"type": "timestamptz", "value": "2026-11-20T10:00:00+00:00"},
        "d": {"type": "uuid", "value": "6d3c1f0e-6f1b-4a86-9a52-70656e73746b"},
        "e": {"type": "boolean", "value": "true"},
        "f": {"type": "bigint", "value": "9000000000"},
        "g": {"type": "timestamp", "value": "2026-11-20T10:00:00"},
        "h": {"type": "date", "value": None},
    }
    params = spec(**query("select 1", source_params=given)).source.params
    assert {k: p.python() for k, p in params.items() if isinstance(p, TypedParam)} == {
        "a": Decimal("1.10"),
        "b": date(2026, 11, 20),
        "c": datetime(2026, 11, 20, 10, tzinfo=UTC),
        "d": UUID("6d3c1f0e-6f1b-4a86-9a52-70656e73746b"),
        "e": True,
        "f": 9_000_000_000,
        "g": datetime(2026, 11, 20, 10),  # noqa: DTZ001 - a timestamp has no zone
        "h": None,
    }


@given(
    st.dictionaries(
        st.text("abc", min_size=1),
        st.none() | st.booleans() | st.integers() | st.text(TEXT) | st.floats(allow_nan=False,
                                                                         allow_infinity=False),
    )
)  # fmt: skip
def test_parameters_travel_as_they_are(params: dict[str, Any]) -> None:
    sent = spec(**query("select 1", source_params=params))
    received, warnings = JobSpec.from_wire(json.loads(json.dumps(sent.wire())))
    assert received == sent
    assert received.source.params == params
    assert [type(v) for v in received.source.params.values()] == [type(v) for v in params.values()]
    assert warnings == []


def test_a_typed_null_travels() -> None:
    sent = spec(**query("select 1", source_params={"a": {"type": "date", "value": None}}))
    assert JobSpec.from_wire(sent.wire())[0] == sent


def test_a_toml_file_with_dates(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        """
        name = "nightly"
        [source]
        connection = "warehouse"
        query = "select * from customers where seen > %(since)s"
        [source.params]
        since = 2026-11-20
        at = 2026-11-20T10:00:00Z
        local = 2026-11-20T10:00:00
        [[destinations]]
        connection = "meta"
        audience_id = 222
        """
    )
    found = JobSpec.load(path)
    kinds = {k: p.type for k, p in found.source.params.items() if isinstance(p, TypedParam)}
    assert kinds == {"since": "date", "at": "timestamptz", "local": "timestamp"}
    assert JobSpec.from_wire(found.wire())[0] == found


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(document()), encoding="utf-8-sig")
    assert JobSpec.load(path) == spec()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("job.toml", b"name = ", "job.toml is not valid toml: Invalid value"),
        ("job.json", b'{"name": }', "job.json is not valid json: Expecting value: line 1"),
        ("job.json", b"[1]", "must be one JSON object"),
        ("job.toml", b"name = '\xff'", "it is not UTF-8 text."),
    ],
)
def test_a_file_that_does_not_parse(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        JobSpec.load(path)
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot be read: No such file or directory\."):
        JobSpec.load(tmp_path / "job.toml")


@pytest.mark.parametrize("bad", ["", "-a", ".a", "a b", "a/b", "a" * 101, "a\n", "é"])
def test_a_job_id_of_the_wrong_form(bad: str) -> None:
    doc = document(job_id=bad)
    # White space around a value is dropped before it is looked at.
    if bad.strip() != bad:
        assert JobSpec.parse(doc).job_id == bad.strip()
    else:
        assert "`job_id` takes up to 100 letters" in refusal(doc)


def test_lanes_are_named_after_their_connections() -> None:
    def lanes(*names: str | None) -> list[str]:
        return list(spec(*(META | ({"lane": n} if n else {}) for n in names)).lanes())

    assert lanes(None) == ["meta"]
    assert lanes(None, None, None) == ["meta", "meta-2", "meta-3"]
    assert lanes(None, "meta") == ["meta-2", "meta"]
    assert lanes(None, "meta-2", None) == ["meta", "meta-2", "meta-3"]
    assert lanes("b", "a") == ["b", "a"]


@given(st.lists(st.sampled_from([None, "meta", "meta-2", "x"]), min_size=1, max_size=6))
def test_every_destination_has_a_lane_of_its_own(names: list[str | None]) -> None:
    told = [n for n in names if n]
    doc = document(*(META | ({"lane": n} if n else {}) for n in names))
    if len(set(told)) < len(told):
        assert "two destinations have the lane name" in refusal(doc)
        return
    lanes = JobSpec.parse(doc).lanes()
    assert len(lanes) == len(names)
    # A retry names its lanes after these: each must be a lane's name.
    again = document(*(META | {"lane": lane} for lane in lanes))
    assert list(JobSpec.parse(again).lanes()) == list(lanes)


def test_a_longest_connection_name_still_makes_lane_names() -> None:
    lanes = spec(*[META | {"connection": "c" * 56}] * 50).lanes()
    assert len(JobSpec.parse(document(*(META | {"lane": lane} for lane in lanes))).lanes()) == 50


def test_equal_specs_have_equal_digests() -> None:
    assert spec(GOOGLE).digest() == spec(GOOGLE | {"customer_id": "123-456-7890"}).digest()
    assert spec().digest() == spec(job_id="another", batch_rows=20_000).digest()
    assert spec().digest() == JobSpec.from_wire(spec().wire())[0].digest()
    assert spec().digest() != spec(batch_rows=19_999).digest()
    assert spec(META, FILES).digest() != spec(FILES, META).digest()


def test_a_number_for_an_id_is_the_id() -> None:
    found = spec(GOOGLE | {"customer_id": 1234567890, "user_list_id": 5}).destinations[0]
    assert isinstance(found, GoogleAds)
    assert (found.customer_id, found.user_list_id) == ("1234567890", "5")
    meta = spec({"connection": "meta", "audience": "VIP", "account_id": 77}).destinations[0]
    assert isinstance(meta, Meta)
    assert meta.account_id == "77"
    assert spec(META | {"audience_id": 222}) == spec(META)


@pytest.mark.parametrize("version", [3, 0, "1", None])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(
        VersionError, match="this release reads version 1 and 2: upgrade the workers"
    ):
        JobSpec.from_wire(document() | {"v": version})


def test_a_program_may_send_keys_of_a_newer_release() -> None:
    doc = document(META, FILES, nam="x", source_tabel="y", identity={"salt": 1})
    doc["destinations"][1]["storage"] = "cold"
    found, warnings = JobSpec.from_wire(doc)
    assert found == spec(META, FILES)
    assert warnings == [
        "The unknown key nam was ignored (did you mean 'name'?).",
        "The unknown key source.tabel was ignored (did you mean 'table'?).",
        "The unknown key identity.salt was ignored.",
        "The unknown key destinations[2].storage was ignored.",
    ]


def test_a_typed_parameter_of_a_newer_release_too() -> None:
    params: dict[str, Any] = {"day": {"type": "date", "value": "2026-01-01", "calender": "julian"}}
    told = query("select %(day)s", source_params=params)
    found, warnings = JobSpec.from_wire(document(**told))
    assert found.source.params == {"day": TypedParam(type="date", value="2026-01-01")}
    assert warnings == ["The unknown key source.params.day.calender was ignored."]
    assert "unknown key 'source.params.day.calender'" in refusal(document(**told))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": "a\0b"}, "name"),
        (query("select '\0'"), "source.query"),
        (query("select %(a)s", source_params={"a": "\0"}), "source.params.a"),
        (
            query("select %(a)s", source_params={"a": {"type": "text", "value": "\0"}}),
            "source.params.a.value",
        ),
        ({"source_columns": {"email": "\0"}}, "source.columns.email"),
        ({"source_columns": {"\0": "email"}}, "source.columns"),
        ({"identity": {"prehashed": ["email", "\0"]}}, "identity.prehashed.2"),
        ({"destinations": [META, FILES | {"key": "\0"}]}, "destinations.2.key"),
        ({"colour": "\0"}, "colour"),
        ({"\0": 1}, "document"),
    ],
)
def test_text_that_postgres_cannot_hold(changes: dict[str, Any], where: str) -> None:
    for flaw, said in (("\0", "a NUL character"), ("\udc00", "half of a surrogate pair")):
        doc = json.loads(json.dumps(document(**changes)).replace("\\u0000", json.dumps(flaw)[1:-1]))
        assert refusal(doc) == f"The spec's {where}: its text must not hold {said}."
        with pytest.raises(SpecError, match=said):
            JobSpec.from_wire(doc)


def test_a_program_gets_the_same_sentences() -> None:
    with pytest.raises(SpecError, match="either `query` or `table`"):
        JobSpec.from_wire(document(source_table=None))


@pytest.mark.parametrize(
    "doc",
    [
        document(GOOGLE, META, FILES, identity={"default_country": "US", "prehashed": ["email"]}),
        document(META | {"kind": "meta"}, job_id="a", batch_rows=5, window=3),
        document(
            **query("select %(a)s", source_params={"a": {"type": "date", "value": "2026-01-01"}})
        ),
        spec(GOOGLE, META, FILES).wire(),
        document(
            GOOGLE | {"customer_id": 1234567890, "user_list_id": 5},
            META | {"audience_id": 222},
            {"connection": "meta", "audience": "VIP", "account_id": 77},
        ),
    ],
)
def test_the_json_schema_admits_what_is_valid(doc: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.Draft202012Validator(json_schema()).validate(doc)
    JobSpec.parse(doc)


@pytest.mark.parametrize(
    "doc",
    [
        document(nam="x"),
        document(FILES | {"bukcet": "x"}),
        document(META | {"audience_id": 2.5}),
        document(batch_rows=0),
        {},
    ],
)
def test_the_json_schema_refuses_what_is_not(doc: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(doc)


@pytest.mark.parametrize("yes", [True, 1, "true", "on"])
def test_a_dry_run_travels_as_what_older_workers_refuse(yes: Any) -> None:
    """They read version 1 alone, and would overlook the key."""
    dry = spec(dry_run=yes)
    assert (dry.dry_run, dry.wire()["v"], dry.model_dump()["v"]) == (True, 2, 2)
    assert JobSpec.from_wire(dry.wire())[0] == dry
    for other in (spec(), spec(dry_run=False), spec(full=True), spec(v=2)):
        assert (other.dry_run, other.wire()["v"], other.model_dump()["v"]) == (False, 1, 1)
