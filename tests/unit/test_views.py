from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest

from penstock.payloads import Payload
from services.extract.source import Block, SourceRefused
from services.extract.views import Views
from tests.builders import FILES, GOOGLE, META, spec

CRM = {**GOOGLE, "list_type": "crm_id"}
MOBILE = {**GOOGLE, "list_type": "mobile_advertising_id"}


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def block(*rows: dict[str, str], columns: tuple[str, ...] | None = None) -> Block:
    names = columns or tuple(rows[0])
    lines = (",".join(row[name] for name in names) + "\n" for row in rows)
    return Block("".join(lines).encode(), len(rows), None, names)


def views(source: Block, *destinations: dict[str, Any], **told: Any) -> Views:
    made = spec(*destinations, **({"source_key": None} | told))
    wanted = dict.fromkeys(lane.view for lane in made.lanes().values())
    return Views(made, wanted, source.columns)


def members(payload: Payload) -> list[dict[str, Any]]:
    return pa.ipc.open_stream(payload.body).read_all().to_pylist()


class TestAPlatformsOwnColumns:
    ROWS = block({"id": "1", "email": "a@b.cd", "google:email": sha("g").hex()})
    TOLD = {"identity": {"prehashed": ["email"]}}  # noqa: RUF012

    def test_go_before_the_common_one_for_that_platform_alone(self):
        made = views(self.ROWS, GOOGLE, META, **self.TOLD).make(self.ROWS)
        assert members(made["google"]) == [{"email": sha("g"), "row": 0}]
        assert members(made["meta"]) == [{"email": sha("a@b.cd"), "row": 0}]

    def test_are_enough_for_it_and_nothing_to_another(self):
        rows = block({"google:email": sha("g").hex(), "meta:phone": sha("m").hex()})
        told = {"identity": {"prehashed": ["email", "phone"]}}
        made = views(rows, GOOGLE, META, **told).make(rows)
        assert members(made["google"]) == [{"email": sha("g"), "row": 0}]
        assert members(made["meta"]) == [{"phone": sha("m"), "row": 0}]
        with pytest.raises(SourceRefused, match="none of the columns that Meta can use"):
            views(block({"google:email": ""}), META)

    def test_serve_all_views_of_the_platform(self):
        rows = block({"google:external_id": "7", "google:mobile_ad_id": "x", "external_id": "8"})
        made = views(rows, CRM).make(rows)
        assert members(made["google_crm"]) == [{"external_id": "7", "row": 0}]
        assert views(rows, MOBILE).columns == ("google:mobile_ad_id",)

    def test_do_not_go_before_what_the_spec_names(self):
        rows = block({"mail": "m@b.cd", "google:email": sha("g").hex()})
        made = views(rows, GOOGLE, source_columns={"email": "mail"}, **self.TOLD).make(rows)
        assert members(made["google"]) == [{"email": sha("m@b.cd"), "row": 0}]


class TestTheKey:
    ROWS = block({"id": "k1", "email": "a@b.cd"}, {"id": "k2", "email": "nobody"},
                 {"id": "k3", "email": "c@d.ef"})  # fmt: skip

    def test_is_read_and_goes_with_each_row(self):
        found = views(self.ROWS, META, GOOGLE, source_key="id")
        assert set(found.columns) == {"email", "id"}
        for payload in found.make(self.ROWS).values():
            assert [(r["row"], r["row_key"]) for r in members(payload)] == [(0, "k1"), (2, "k3")]

    @pytest.mark.parametrize(
        ("key", "columns"),
        [
            ("email", ("email", "phone")),
            ("mail", ("mail", "email")),
            ("email", ("mail", "email")),
            ("meta:email", ("meta:email",)),
            ("google:email", ("email", "google:email")),
        ],
    )
    def test_that_identifies_a_person_is_read_and_stays_here(self, key, columns):
        rows = block(dict.fromkeys(columns, "a@b.cd"))
        told = {"source_columns": {"email": "mail"}} if "mail" in columns else {}
        found = views(rows, META, source_key=key, **told)
        assert key in found.columns
        (row,) = members(found.make(rows)["meta"])
        assert "row_key" not in row

    def test_goes_with_nobody_where_the_spec_has_none(self):
        found = views(self.ROWS, META)
        assert found.columns == ("email",)
        assert "row_key" not in members(found.make(self.ROWS)["meta"])[0]


class TestConsent:
    ROWS = block(*({"email": f"{n}@b.cd", "optin": word} for n, word in enumerate("tf")))
    MAPPED = {"source_columns": {"consent": "optin"}}  # noqa: RUF012

    def test_of_a_mapped_column(self):
        made = views(self.ROWS, GOOGLE, META, **self.MAPPED).make(self.ROWS)
        assert [r["consent"] for r in members(made["google"])] == [4, 8]
        assert made["meta"].about["skipped"] == {"consent denied": 1}

    def test_of_the_job(self):
        told = {"consent": {"value": "granted", "required": True}}
        made = views(self.ROWS, GOOGLE, META, **told).make(self.ROWS)
        assert [r["consent"] for r in members(made["google"])] == [4, 4]
        told = {"consent": {"required": True}}
        made = views(self.ROWS, GOOGLE, META, **told).make(self.ROWS)
        assert {tuple(p.about["skipped"]) for p in made.values()} == {("consent not granted",)}

    def test_is_no_condition_of_leaving(self):
        gone = {**META, "mode": "remove"}
        told = {"consent": {"required": True}, **self.MAPPED}
        found = views(self.ROWS, GOOGLE, gone, **told)
        made = found.make(self.ROWS)
        assert made["google"].about["skipped"] == {"consent not granted": 1}
        assert len(members(made["meta"])) == 2
        # One lane that adds is enough to ask.
        made = views(self.ROWS, META, gone, **told).make(self.ROWS)
        assert made["meta"].about["skipped"] == {"consent denied": 1}

    def test_leaves_the_rows_of_files_alone(self):
        made = views(self.ROWS, FILES, consent={"required": True}, **self.MAPPED).make(self.ROWS)
        assert pa.decompress(
            made["rows"].body, made["rows"].about["raw"], codec="lz4", asbytes=True
        ) == self.ROWS.data  # fmt: skip
        assert made["rows"].about["rows"] == 2


def test_what_was_left_out_stands_in_the_payload_by_place():
    rows = block({"email": "a@b.cd", "phone": "1"}, {"email": "x", "phone": ""})
    about = views(rows, META).make(rows)["meta"].about
    assert about == json.loads(json.dumps(about))
    assert about["rejects"] == [
        [0, "phone", "no country code"],
        [1, "email", "not an e-mail address"],
        [1, "", "no usable identifier"],
    ]
    assert about["unusable"] == {"phone: no country code": 1, "email: not an e-mail address": 1}
    assert about["skipped"] == {"no usable identifier": 1}


def test_an_empty_block_has_the_columns_of_a_full_one():
    full = block({"id": "1", "email": "a@b.cd", "consent": "yes"})
    found = views(full, GOOGLE, META, source_key="id")
    none, some = found.make(Block.empty(full.columns)), found.make(full)
    for view, payload in some.items():
        schema = pa.ipc.open_stream(payload.body).schema
        assert pa.ipc.open_stream(none[view].body).schema == schema
        assert none[view].about["rejects"] == []


def test_a_source_without_what_a_view_needs_is_refused_though_it_has_consent():
    rows = block({"email": "a@b.cd", "consent": "yes"})
    with pytest.raises(SourceRefused, match=r"Google can use \(external_id\)"):
        views(rows, CRM)
