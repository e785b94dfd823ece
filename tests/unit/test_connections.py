"""connections.toml: what is read of it, and the sentence for each way to get it wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.connections import (
    Connections,
    GoogleAdsConnection,
    MetaConnection,
    PostgresConnection,
    S3Connection,
    StripeConnection,
)
from penstock.errors import ConnectionsError, SpecError
from services.runtime.checks import check_connections
from tests.builders import FILES, META, spec

SECRET = "hunter2-hunter2"


def load(tmp_path: Path, text: str) -> Connections:
    path = tmp_path / "connections.toml"
    path.write_text(text, encoding="utf-8")
    return Connections.load(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConnectionsError) as caught:
        load(tmp_path, text)
    said = str(caught.value)
    assert SECRET not in said
    assert "\n" not in said
    assert said.endswith(".")
    return said


def test_every_kind_is_read(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        [warehouse]
        kind = "postgres"
        url = "postgresql://u@h/d"
        [ads]
        kind = "google_ads"
        developer_token = "t"
        login_customer_id = 1234567890
        endpoint = "127.0.0.1:9001"
        insecure = true
        [meta]
        kind = "meta"
        access_token = "t"
        app_secret = "s"
        graph_url = "http://127.0.0.1:9002"
        [files]
        kind = "s3"
        [shop]
        kind = "stripe"
        api_key = "k"
        """,
    )
    assert isinstance(found.get("warehouse"), PostgresConnection)
    ads = found.get("ads", "google_ads")
    assert isinstance(ads, GoogleAdsConnection)
    assert ads.login_customer_id == "1234567890"
    assert isinstance(found.get("meta"), MetaConnection)
    assert isinstance(found.get("files"), S3Connection)
    assert isinstance(found.get("shop"), StripeConnection)
    assert found.of_kind("postgres", "stripe") == {"warehouse": "postgres", "shop": "stripe"}
    found.check(spec(META, FILES))


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    found = load(tmp_path, f'[meta]\nkind = "meta"\naccess_token = "{SECRET}"').get("meta")
    assert SECRET not in f"{found!r} {found}"
    assert isinstance(found, MetaConnection)
    assert found.access_token.get_secret_value() == SECRET


def test_a_value_comes_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    found = load(tmp_path, '[w]\nkind = "postgres"\nurl = "postgresql://u:${DB_PASSWORD}@h/d"').get(
        "w"
    )
    assert isinstance(found, PostgresConnection)
    assert found.url.get_secret_value() == f"postgresql://u:{SECRET}@h/d"


def test_a_value_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n", encoding="utf-8")
    found = load(tmp_path, f'[m]\nkind = "meta"\naccess_token_file = "{tmp_path}/token"').get("m")
    assert isinstance(found, MetaConnection)
    assert found.access_token.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'[m]\nkind = "meta"\naccess_token = {SECRET}', "connections.toml is not valid TOML:"),
        ("m = 1", "[m] must be a table with a `kind`."),
        ("[m]", "[m] has no `kind`; known are postgres, google_ads"),
        ('[m]\nkind = "mysql"', "[m] has the unknown `kind`; known are postgres"),
        ('[m]\nkind = "meta"', "[m] has no 'access_token', which is needed."),
        (
            f'[m]\nkind = "meta"\nacces_token = "{SECRET}"\naccess_token = "{SECRET}"',
            "[m] has an unknown key 'acces_token' (did you mean 'access_token'?).",
        ),
        (f'[m]\nkind = "meta"\naccess_token = ["{SECRET}"]', "[m]: access_token "),
        (
            '[m]\nkind = "meta"\naccess_token = "${NOT_SET_ANYWHERE}"\naccess_tokn_file = "x"',
            "[m] has an unknown key 'access_tokn' (did you mean 'access_token'?).",
        ),
        (
            '[m]\nkind = "meta"\napp_secret = "${NOT_SET_ANYWHERE}"',
            "[m] has no 'access_token', which is needed.",
        ),
        (
            '[m]\nkind = "meta"\naccess_token_file = "/nowhere/token"\napp_id = true',
            "[m]: app_id ",
        ),
        (
            '[a]\nkind = "google_ads"\ndeveloper_token_file = "/nowhere"\nclient_id = "${NOT_SET}"',
            "[a] needs `client_id`, `client_secret` and `refresh_token`, or `json_key_file_path`.",
        ),
        (
            f'[a]\nkind = "google_ads"\ndeveloper_token = "{SECRET}"\ninsecure = true',
            "`insecure` is for another server: give its `endpoint`.",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_without_its_value(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def unfilled(found: Connections, name: str) -> str:
    with pytest.raises(ConnectionsError) as caught:
        found.get(name)
    said = str(caught.value)
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'access_token = "${NOT_SET_ANYWHERE}"',
            "[m] wants the variable NOT_SET_ANYWHERE, which is not set.",
        ),
        (
            'access_token_file = "/nowhere/token"',
            "[m]: `access_token_file` cannot be read: No such file or directory.",
        ),
    ],
)
def test_one_that_cannot_be_filled_in_stands_in_nobody_s_way(
    tmp_path: Path, text: str, said: str
) -> None:
    found = load(
        tmp_path,
        f'[m]\nkind = "meta"\n{text}\n[w]\nkind = "postgres"\nurl = "{SECRET}"\n[f]\nkind = "s3"',
    )
    assert isinstance(found.get("w"), PostgresConnection)
    assert found.of_kind("meta") == {"m": "meta"}
    # Names and kinds are told without credentials.
    found.check(spec(META | {"connection": "m"}, source_connection="w"))
    with pytest.raises(SpecError, match=r"of kind 'meta', and s3 is needed\."):
        found.check(spec(FILES | {"connection": "m"}, source_connection="w"))
    assert unfilled(found, "m").endswith(said)


def test_what_was_missing_may_come_later_and_is_then_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(tmp_path, '[m]\nkind = "meta"\naccess_token = "${A_TOKEN_OF_OURS}"')
    assert "A_TOKEN_OF_OURS" in unfilled(found, "m")
    monkeypatch.setenv("A_TOKEN_OF_OURS", SECRET)
    first = found.get("m")
    monkeypatch.delenv("A_TOKEN_OF_OURS")
    assert found.get("m") is first


def test_a_value_that_does_not_fit_once_it_is_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load(
        tmp_path,
        '[a]\nkind = "google_ads"\ndeveloper_token = "t"\nendpoint = "e"\ninsecure = "${PLAIN}"',
    )
    monkeypatch.setenv("PLAIN", SECRET)
    assert "[a]: insecure " in unfilled(found, "a")
    monkeypatch.setenv("PLAIN", "true")
    ads = found.get("a")
    assert isinstance(ads, GoogleAdsConnection)
    assert ads.insecure


def test_each_check_has_its_own_line(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        '[m]\nkind = "meta"\naccess_token = "${NOT_SET_ANYWHERE}"\n'
        '[n]\nkind = "meta"\naccess_token = "t"\n[f]\nkind = "s3"',
    )
    lines = check_connections(found, {"meta": lambda _: "said hello"})
    assert [(x["connection"], x["kind"], x["ok"]) for x in lines] == [
        ("m", "meta", False),
        ("n", "meta", True),
    ]
    assert lines[0]["message"].endswith("NOT_SET_ANYWHERE, which is not set.")
    assert lines[1]["message"] == "said hello"


@pytest.mark.parametrize("where", ["connections.toml", "token"])
def test_a_file_that_is_not_text(tmp_path: Path, where: str) -> None:
    (tmp_path / "connections.toml").write_text(
        f'[m]\nkind = "meta"\naccess_token_file = "{tmp_path}/token"', encoding="utf-8"
    )
    (tmp_path / where).write_bytes(b"\xff\xfe")
    with pytest.raises(ConnectionsError, match="UTF-8 text"):
        Connections.load(tmp_path / "connections.toml").get("m")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConnectionsError, match=r"cannot be read: No such file or directory\."):
        Connections.load(tmp_path / "connections.toml")


def test_no_path() -> None:
    with pytest.raises(ConnectionsError, match=r"PENSTOCK_CONNECTIONS is not set"):
        Connections.load(None)


@pytest.fixture
def found(tmp_path: Path) -> Connections:
    return load(
        tmp_path,
        '[warehouse]\nkind = "postgres"\nurl = "x"\n[meta]\nkind = "meta"\naccess_token = "t"\n'
        '[files]\nkind = "s3"\n[shop]\nkind = "stripe"\napi_key = "k"',
    )


@pytest.mark.parametrize(
    ("destination", "source", "said"),
    [
        (META, "warehose", "no connection 'warehose' in connections.toml; did you mean 'warehouse'?"),
        (META, "zzz", "There is no connection 'zzz' in connections.toml."),
        (META, "files", "Connection 'files' (s3) cannot be a source."),
        (META, "shop", "Connection 'shop' (stripe) cannot be a source: no source reads Stripe yet."),
        (META | {"connection": "files"}, "warehouse", "of kind 's3', and meta is needed."),
        (FILES | {"connection": "file"}, "warehouse", "did you mean 'files'?"),
    ],
)  # fmt: skip
def test_a_spec_that_names_what_is_not_there(
    found: Connections, destination: dict[str, Any], source: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        found.check(spec(destination, source_connection=source))
    assert said in str(caught.value)
