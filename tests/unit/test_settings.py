"""The environment, read in one place, with every variable also as NAME_FILE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.settings import ClientSettings
from services.runtime.settings import WorkerSettings

BROKER, LEDGER = "redis://broker:6379/0", "postgresql://ledger/penstock"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BROKER_URL", BROKER)
    monkeypatch.setenv("PENSTOCK_CONNECTIONS", "/etc/connections.toml")
    found = ClientSettings.read()
    assert found.broker_url == BROKER
    assert found.ledger_url is None
    assert found.connections == Path("/etc/connections.toml")


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "redis://other")
    monkeypatch.setenv("PENSTOCK_LEDGER_URL", LEDGER)
    found = ClientSettings.read(broker_url=BROKER, ledger_url=None)
    assert (found.broker_url, found.ledger_url) == (BROKER, LEDGER)


def test_a_file_holds_the_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(f"{BROKER}\n", encoding="utf-8")
    monkeypatch.setenv("PENSTOCK_BROKER_URL_FILE", str(path))
    assert ClientSettings.read().broker_url == BROKER
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "redis://direct")
    assert ClientSettings.read().broker_url == "redis://direct"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file or directory"), (b"\xff", "not UTF-8 text")]
)
def test_a_file_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "url"
    if content:
        path.write_bytes(content)
    monkeypatch.setenv("PENSTOCK_BROKER_URL_FILE", str(path))
    with pytest.raises(SettingsError) as caught:
        ClientSettings.read()
    assert f"PENSTOCK_BROKER_URL_FILE names {path}" in str(caught.value)
    assert said in str(caught.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        ClientSettings.read()
    assert str(caught.value) == "PENSTOCK_BROKER_URL is not set (nor PENSTOCK_BROKER_URL_FILE)."
    with pytest.raises(SettingsError, match="PENSTOCK_LEDGER_URL is not set"):
        WorkerSettings.read(broker_url=BROKER)


def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECTIONS", "LEASE_SECONDS", "PAYLOAD_KEY"):
        monkeypatch.setenv(f"PENSTOCK_{name}", "")
    found = WorkerSettings.read(broker_url=BROKER, ledger_url=LEDGER)
    assert (found.connections, found.lease_seconds, found.payload_key) == (None, 30, None)


def test_a_wrong_value_is_named_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_LEASE_SECONDS", "hunter2")
    with pytest.raises(SettingsError) as caught:
        WorkerSettings.read(broker_url=BROKER, ledger_url=LEDGER)
    assert str(caught.value).startswith("PENSTOCK_LEASE_SECONDS is wrong: Input should be a valid")
    assert "hunter2" not in str(caught.value)


KEY = "dGhpcnR5LXR3byBieXRlcyB0aGF0IGFyZSBhIGtleSE="


def test_the_policy_is_what_was_set() -> None:
    found = WorkerSettings.read(
        broker_url=BROKER, ledger_url=LEDGER, lease_seconds=4, grace_seconds=3, max_crashes=2,
        max_restarts=1, payload_key=KEY,
    )  # fmt: skip
    policy = found.policy()
    assert (policy.lease_seconds, policy.grace_seconds) == (4, 3)
    assert (policy.max_crashes, policy.max_restarts) == (2, 1)
    assert KEY not in repr(found)


@pytest.mark.parametrize("key", ["secret", "c2l4dGVlbiBieXRlcyAxNg=="])
def test_a_payload_key_that_is_none_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_PAYLOAD_KEY is wrong") as caught:
        WorkerSettings.read(broker_url=BROKER, ledger_url=LEDGER, payload_key=key)
    assert key not in str(caught.value)
