"""The generated pages of docs/reference are those of the code as it is."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.audiences import AudiencePart
from penstock.connections import KINDS as CONNECTIONS
from penstock.params import TypedParam
from penstock.spec import KINDS as DESTINATIONS
from penstock.spec import Consent, Identity, JobSpec, Source
from tests.deployment import ROOT, settings_variables

GENERATE = ROOT / "docs" / "generate.py"
PAGES: dict[Path, str] = runpy.run_path(str(GENERATE))["pages"]()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_not_stale(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path], "run docs/generate.py"


def test_every_setting_is_on_its_page_once_and_described() -> None:
    (page,) = (text for path, text in PAGES.items() if path.name == "settings.md")
    for name in settings_variables():
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, name
        assert rows[0].rsplit("|", 2)[1].strip(), f"{name} has no description"


def test_every_key_of_a_connection_and_of_a_job_is_on_its_page() -> None:
    for name, models in {
        "connections.md": CONNECTIONS.values(),
        "job.md": (JobSpec, Source, Identity, Consent, TypedParam, *DESTINATIONS.values()),
    }.items():
        (page,) = (text for path, text in PAGES.items() if path.name == name)
        for model in models:
            for key in model.model_fields:
                rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
                assert rows, f"{model.__name__}.{key}"
                for row in rows:
                    assert row.rsplit("|", 2)[1].strip(), f"{key} has no description"


def test_a_destination_has_its_own_modes_alone() -> None:
    """A platform that cannot replace must not be said to."""
    (page,) = (text for path, text in PAGES.items() if path.name == "job.md")
    sections = {s.partition("\n")[0]: s for s in page.split("\n## destinations: ")[1:]}
    told = {
        kind: re.findall(r"`(\w+)`", line.split("|")[2])
        for heads, section in sections.items()
        for kind in heads.split(", ")
        for line in section.splitlines()
        if line.startswith("| `mode` |")
    }
    assert told == {
        kind: list(model.modes)
        for kind, model in DESTINATIONS.items()
        if issubclass(model, AudiencePart)
    }


def test_a_table_has_the_same_columns_in_each_row() -> None:
    for path, page in PAGES.items():
        for line in page.splitlines():
            if line.startswith("|"):
                assert line.replace("\\|", "").count("|") == 5, f"{path.name}: {line}"


def test_check_names_a_stale_page_and_changes_nothing(tmp_path: Path) -> None:
    """In a copy, so that the pages of the tree stay as they are."""
    copy = tmp_path / "docs" / "generate.py"
    copy.parent.mkdir()
    copy.write_text(GENERATE.read_text())
    reference = copy.parent / "reference"
    reference.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, copy, *arguments],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run().returncode == 0
    assert run("--check").returncode == 0
    job = reference / "job.md"
    job.write_text("old")
    said = run("--check")
    assert (said.returncode, said.stdout) == (1, "job.md is stale; run docs/generate.py\n")
    assert job.read_text() == "old"
