"""env.example and connections.example.toml: complete, known, and without anything real."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from penstock.connections import KINDS, Connections
from tests.deployment import DEPLOY, Variable, env_example, settings_variables

EXAMPLE = DEPLOY / "connections.example.toml"
# Not Penstock's: compose.yaml's, Flower's, Celery's, boto3's.
OTHERS = {
    "POSTGRES_PASSWORD",
    "COMPOSE_PROFILES",
    "REDIS_MAXMEMORY",
    "FLOWER_BASIC_AUTH",
    "REMAP_SIGTERM",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
}
ASKED = set(re.findall(r"\$\{(\w+)\}", "".join(
    line for line in EXAMPLE.read_text().splitlines(keepends=True) if not line.startswith("#")
)))  # fmt: skip
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|AUTH|_URL$")


def test_every_variable_is_there_and_every_one_there_is_read() -> None:
    assert env_example().keys() == settings_variables().keys() | OTHERS | ASKED


@pytest.mark.parametrize("name", settings_variables())
def test_a_setting_is_shown_with_its_own_default_and_words(name: str) -> None:
    shown = env_example()[name]
    fields = settings_variables()[name]
    # Words may differ between clients and workers; the workers' are the ones shown here.
    descriptions = [" ".join((field.description or "").split()) for field in fields]
    if name != "PENSTOCK_CONNECTIONS":
        assert any(text in shown.comment for text in descriptions), name
    if any(field.is_required() for field in fields):
        assert shown.active
    else:
        assert not shown.active, "a default is shown behind a '#'"
        (default,) = {field.default for field in fields}
        assert shown.value == ("" if default is None else str(default)), name


@pytest.mark.parametrize("variable", env_example().values(), ids=lambda variable: variable.name)
def test_a_secret_is_marked_and_has_no_real_value(variable: Variable) -> None:
    assert variable.comment, f"{variable.name} is not explained"
    if not SECRET.search(variable.name):
        return
    assert "Secret" in variable.comment, variable.name
    if variable.name.endswith("_URL") and variable.value:
        assert urlsplit(variable.value).password in (None, "change-me", "${POSTGRES_PASSWORD}")
    else:
        assert variable.value in ("", "change-me")


def test_the_example_of_connections_loads_with_the_example_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ASKED:
        monkeypatch.setenv(name, env_example()[name].value)
    connections = Connections.load(EXAMPLE)
    for kind in KINDS:
        assert connections.of_kind(kind), f"no example of {kind}"
    for name in connections.of_kind(*KINDS):
        connections.get(name)  # is filled in
    assert connections.get("warehouse").is_source
