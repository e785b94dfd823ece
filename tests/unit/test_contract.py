"""Messages of this release and of those before it. The golden files were written by version 1 and
are never written again: a reader that cannot read them breaks the workers that are still running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.contract import (
    Artifact,
    Batch,
    GoogleAds,
    JobRef,
    JobSpec,
    LaneRef,
    Tally,
    TypedParam,
)
from penstock.errors import SpecError, VersionError

GOLDEN = Path(__file__).parent / "golden"

MESSAGES = {
    "batch": Batch("nightly", 41, 2, "ads"),
    "job_ref": JobRef("nightly"),
    "lane_ref": LaneRef("nightly", "ads"),
}


def golden(name: str) -> dict[str, Any]:
    found = json.loads((GOLDEN / f"{name}.v1.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_reads_and_writes_as_it_always_did(name: str) -> None:
    message = MESSAGES[name]
    assert type(message).read(golden(name)) == message
    assert message.wire() == golden(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_key_of_a_newer_release_is_ignored(name: str) -> None:
    message = MESSAGES[name]
    assert type(message).read(golden(name) | {"priority": "high"}) == message


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(name: str, version: Any) -> None:
    with pytest.raises(VersionError, match=r"this worker reads version 1: run workers of a"):
        type(MESSAGES[name]).read(golden(name) | {"v": version})


def test_a_message_without_a_version_is_refused() -> None:
    with pytest.raises(VersionError):
        JobRef.read({"job_id": "nightly"})


def test_optional_keys_have_defaults() -> None:
    assert Batch.read({"v": 1, "job_id": "nightly", "seq": 4}) == Batch("nightly", 4, 1, "")


@pytest.mark.parametrize(
    ("kind", "wire", "said"),
    [
        (Batch, {"v": 1, "job_id": "a"}, "A Batch message has no 'seq', which is needed."),
        (JobRef, {"v": 1}, "A JobRef message has no 'job_id', which is needed."),
        (LaneRef, {"v": 1, "job_id": "a"}, "A LaneRef message has no 'lane', which is needed."),
        (JobRef, ["a"], "A JobRef message must be one JSON object."),
    ],
)
def test_a_message_that_lacks_what_is_needed(kind: Any, wire: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        kind.read(wire)
    assert str(caught.value) == said


def test_a_spec_reads_and_writes_as_it_always_did() -> None:
    found, warnings = JobSpec.from_wire(golden("job_spec"))
    assert found.wire() == golden("job_spec_written")
    assert JobSpec.from_wire(golden("job_spec_written"))[0] == found
    assert warnings == []
    assert list(found.lanes()) == ["ads", "meta", "files"]
    assert isinstance(found.destinations[0], GoogleAds)
    since = found.source.params["since"]
    assert isinstance(since, TypedParam)
    assert str(since.python()) == "2026-11-01"


def test_a_spec_s_digest_is_the_one_that_ledgers_hold() -> None:
    digest = JobSpec.from_wire(golden("job_spec"))[0].digest()
    assert digest == "cbe7f6edf14e13b69c699e97f6a6bb782e9b7a8309a2350bd294331f0868593d"


def test_a_tally_counts_reasons_with_its_figures() -> None:
    tally = Tally(accepted=3)
    tally.count("skipped", 2, "no usable identifier")
    tally.count("rejected", 1, "bad hash")
    tally.count("skipped", 1, "no usable identifier")
    tally.count("failed", 0, "never happened")
    assert tally.rows == 7
    assert tally.reasons == {"no usable identifier": 3, "bad hash": 1}
    assert Tally.read(tally.wire() | {"later": 1}) == tally


def test_an_artifact_travels() -> None:
    artifact = Artifact("bucket", "key", "https://x", 5, 2, "00", "2026-11-20T00:00:00+00:00")
    assert Artifact(**json.loads(json.dumps(artifact.wire()))) == artifact
