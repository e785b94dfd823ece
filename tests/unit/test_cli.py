"""What the command line does without a server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from rich.text import Text

from penstock import errors
from penstock.cli import main
from penstock.command import show
from penstock.command.exits import Exit, exit_of
from penstock.command.pace import Extent, Rate
from penstock.command.watch import lines
from penstock.errors import PenstockError, SettingsError
from penstock.settings import ClientSettings


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "LEDGER_URL", "CONNECTIONS"):
        monkeypatch.delenv(f"PENSTOCK_{name}", raising=False)
        monkeypatch.delenv(f"PENSTOCK_{name}_FILE", raising=False)


def _lane(**given: Any) -> dict[str, Any]:
    figures = dict.fromkeys(("rows", "accepted", "rejected", "skipped", "failed"), 0)
    empty = {"error": None, "reasons": [], "artifacts": [], "details": {}}
    return {"lane": "ads", "kind": "google_ads", "state": "open", **figures, **empty, **given}


def _status(**given: Any) -> dict[str, Any]:
    return {
        "job_id": "j", "name": "n", "state": "running", "stage": "reading", "extracted": 0,
        "total": None, "total_is_estimate": False, "error": None, "warnings": [],
        "retry_of": None, "created_at": "2026-11-20T10:00:00+00:00", "ended_at": None,
        "seconds": 0.0, "lanes": [], **given,
    }  # fmt: skip


# --- the entry point


def test_importing_it_loads_neither_sdk_nor_columns_nor_rich() -> None:
    code = "import sys, penstock.cli; print('\\n'.join(m.partition('.')[0] for m in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "penstock" in loaded
    heavy = {"pyarrow", "numpy", "google", "grpc", "facebook_business", "boto3", "rich", "services"}
    assert heavy.isdisjoint(loaded)


def test_schema_needs_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"source", "destinations"} <= set(schema["properties"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("penstock 0.")


@pytest.mark.parametrize(
    "argv",
    [[], ["frobnicate"], ["submit"], ["watch", "j", "--timeout", "0"], ["watch", "j", "--timeout", "x"],
     ["status", "--limit", "0"], ["doctor", "--without", "fax"]],
)  # fmt: skip
def test_wrong_usage_exits_by_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == Exit.USAGE
    assert "usage: penstock" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["watch", "--help"]])
def test_the_exit_codes_are_in_the_help(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    told = capsys.readouterr().out
    for code in Exit:
        if code is not Exit.NOBODY_READS:
            assert f" {code.value}  " in told


@pytest.mark.parametrize(
    ("argv", "variable"),
    [
        (["init"], "LEDGER"),
        (["status"], "LEDGER"),
        (["watch", "j"], "LEDGER"),
        (["cancel", "j"], "BROKER"),
        (["retry", "j"], "BROKER"),
        (["doctor"], "BROKER"),
    ],
)
def test_a_missing_setting_is_one_sentence(
    argv: list[str], variable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == Exit.USAGE
    told = capsys.readouterr()
    assert (
        told.err
        == f"penstock: PENSTOCK_{variable}_URL is not set (nor PENSTOCK_{variable}_URL_FILE).\n"
    )
    assert told.out == ""


def test_to_wait_for_a_job_takes_a_ledger(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "redis://127.0.0.1:1/0")
    path = tmp_path / "job.json"
    path.write_text(
        '{"name": "n", "source": {"connection": "w", "table": "t"},'
        ' "destinations": [{"connection": "m", "audience_id": "1"}]}'
    )
    assert main(["submit", str(path), "--wait"]) == Exit.USAGE
    assert "PENSTOCK_LEDGER_URL is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("job.toml", b'nme = "x"', "unknown key 'nme' (did you mean 'name'?)"),
        ("job.toml", b"name = ", "is not valid toml"),
        ("job.json", b"{", "is not valid json"),
        ("job.json", b"[]", "must be one JSON object"),
        ("job.toml", b'name = "\xff"', "is not UTF-8 text"),
    ],
)
def test_a_wrong_spec_is_one_sentence(
    tmp_path: Any, name: str, content: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["submit", str(path)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert err.startswith("penstock: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[]", b'{"name": "n"}'])
def test_a_wrong_spec_on_standard_input_is_one_sentence(
    content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["submit", "-"]) == Exit.USAGE
    err = capsys.readouterr().err
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "amqp://h//", "http://h/", "redis://h:port/0", "redis://h/name", "redis://h:99999/0",
     "sentinel://a:26379;sentinel://b:26379"],
)  # fmt: skip
def test_a_broker_that_is_no_redis_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_BROKER_URL is wrong: it must be") as caught:
        ClientSettings.read(broker_url=url)
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://h", "rediss://:p%40ss@h:6380/3", "redis+socket:///run/redis.sock?virtual_host=2",
     "redis://h:6379/0?ssl_cert_reqs=none"],
)  # fmt: skip
def test_a_redis_is_taken_in_all_its_forms(url: str) -> None:
    assert ClientSettings.read(broker_url=url).broker_url == url


def test_every_error_that_a_caller_may_catch_has_its_code() -> None:
    codes = {
        name: exit_of(error())
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, PenstockError)
    }
    assert codes.pop("UnknownJobError") is Exit.UNKNOWN_JOB
    assert codes.pop("WaitTimeoutError") is Exit.TIMEOUT
    away = {name for name, code in codes.items() if code is Exit.UNREACHABLE}
    assert away == {
        "BrokerUnreachableError", "LedgerUnreachableError", "LedgerSchemaError", "LedgerRefusedError",
    }  # fmt: skip
    assert {code for name, code in codes.items() if name not in away} == {Exit.USAGE}


# --- how fast, how far


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate(seconds=10, settle=2)
    rate.see(1_000_000, now=100)  # what was there before the watching counts for nothing
    assert rate.at(101) is None
    rate.see(1_000_400, now=102)
    assert rate.at(102) == 200
    assert rate.at(104) == 100  # nothing came: it falls
    rate.see(1_001_400, now=110)
    assert rate.at(110) == 140
    assert rate.at(113) == 100  # the first 400 are older than ten seconds
    assert rate.at(119) == 100
    assert rate.at(121) == 0


def test_a_rate_begins_anew_when_the_stream_starts_over() -> None:
    rate = Rate(seconds=10, settle=2)
    rate.see(0, now=0)
    rate.see(5_000, now=5)
    rate.see(0, now=6)
    assert rate.at(6) is None
    rate.see(300, now=9)
    assert rate.at(9) == 100


def test_a_rate_keeps_no_more_than_its_seconds() -> None:
    rate = Rate(seconds=10, settle=2)
    for n in range(10_000):
        rate.see(n, now=n / 10)
    assert len(rate._seen) <= 102
    assert rate.at(999.9) == pytest.approx(10)


@pytest.mark.parametrize(
    ("given", "rows", "percent"),
    [
        ({"extracted": 50, "total": 100}, 29, 29),
        ({"extracted": 50, "total": 100}, 0, 0),
        ({"extracted": 99, "total": 1_000}, 999, 99),
        ({"extracted": 50, "total": None}, 50, None),
        ({"extracted": 0, "total": 0}, 0, 100),
        # An estimate that was passed says nothing more.
        ({"extracted": 101, "total": 100, "total_is_estimate": True}, 50, None),
        # What the estimate was does not count when all is read.
        ({"extracted": 80, "total": 100, "total_is_estimate": True, "stage": "closing"}, 40, 50),
        ({"extracted": 80, "total": 100, "state": "succeeded", "stage": "succeeded"}, 80, 100),
    ],
)
def test_percent(given: dict[str, Any], rows: int, percent: int | None) -> None:
    assert Extent.of(_status(**given)).percent(rows) == percent


def test_the_time_left_needs_a_rate_and_a_total() -> None:
    extent = Extent.of(_status(extracted=50, total=100, total_is_estimate=True))
    assert extent.estimated
    assert extent.seconds_left(40, 20.0) == 3
    assert extent.seconds_left(40, 0.0) is None
    assert extent.seconds_left(40, None) is None
    assert Extent.of(_status(extracted=50)).seconds_left(40, 20.0) is None


# --- what is read


def test_columns_are_aligned_whatever_their_letters() -> None:
    rows = [[Text(a), Text(b), Text(c)] for a, b, c in [("a", "1", "x"), ("顧客", "1,000", ""), ("é", "20", "y")]]  # fmt: skip
    assert [line.plain for line in show.columns(rows, right=[1])] == [
        "a         1  x",
        "顧客  1,000",
        "é        20  y",
    ]


def test_a_name_cannot_steer_the_terminal() -> None:
    told = "\n".join(
        line.plain
        for line in show.job(
            _status(name="a\x1b[2Jb\r\n", error="\x1b]0;x\x07", lanes=[_lane(error="\x9b1m")])
        )
    )
    assert "a [2Jb" in told
    assert not {"\x1b", "\r", "\x07", "\x9b"} & set(told)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3600, "1:00:00"), (90_061, "25:01:01")]
)  # fmt: skip
def test_duration(seconds: float, told: str) -> None:
    assert show.duration(seconds) == told


@pytest.mark.parametrize(
    ("value", "told"), [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.5 kB"), (38_123_456, "38.1 MB"), (5e15, "5000.0 TB")]
)  # fmt: skip
def test_size(value: int, told: str) -> None:
    assert show.size(value) == told


def test_a_status_has_reasons_links_and_details() -> None:
    artifact = {"bucket": "b", "key": "k", "url": "https://store/" + "x" * 300, "bytes": 1_234,
                "rows": 1_000, "sha256": "", "expires_at": "2026-11-27T10:00:00+00:00"}  # fmt: skip
    lane = _lane(
        lane="file", state="rejected_some", rows=1_234, accepted=1_000, rejected=234,
        reasons=[{"reason": "too odd", "count": 234}], artifacts=[artifact],
        details={"job_id": 1234567, "unusable_values": {"email": 1_200}},
    )  # fmt: skip
    out = io.StringIO()
    for line in show.job(_status(lanes=[lane], state="partial", stage="partial", seconds=61.0)):
        show.console(out).print(line)
    told = out.getvalue().splitlines()
    assert "state  partial after 1:01" in told
    assert "file  google_ads  rejected_some  1,234     1,000       234        0       0" in told
    assert "  234  too odd" in told
    assert f"  {artifact['url']}" in told  # in one piece
    assert "  job id: 1234567" in told
    assert "  unusable values: email 1,200" in told


def test_a_line_tells_an_estimate_by_name() -> None:
    out = io.StringIO()
    reading = _status(
        extracted=500, total=2_000, total_is_estimate=True, seconds=65.0,
        lanes=[_lane(rows=500, accepted=390, skipped=10), _lane(lane="meta", error="No.", failed=5)],
    )  # fmt: skip
    ended = reading | {"state": "partial", "stage": "partial", "extracted": 600}
    ended["lanes"] = [
        _lane(rows=600, accepted=600, state="succeeded"),
        _lane(lane="meta", failed=600, state="failed"),
    ]
    assert lines([reading, ended], out) == "partial"
    said = out.getvalue().splitlines()
    # The outcome follows, for whoever reads the log later.
    assert said[2:5] == ["n", "job    j", "state  partial after 1:05"]
    assert said[:2] == [
        (
            "1:05  reading, 500 of ≈ 2,000 rows read | ads ≈ 20%, 390 accepted, 10 skipped"
            " | meta ≈ 0%, 5 failed, failing"
        ),
        (
            "1:05  partial, 600 rows read | ads 100%, 600 accepted, succeeded"
            " | meta 100%, 600 failed, failed"
        ),
    ]


def test_recent_without_jobs_says_so() -> None:
    assert [line.plain for line in show.recent([])] == ["No jobs yet."]
