"""What another app pays for the client, and that an import alone asks nothing of its environment."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("pyarrow", "numpy", "google", "facebook_business", "boto3", "botocore", "grpc", "isal",
         "services", "sandbox")  # fmt: skip

PROBE = """
import json, os, sys

class Watched(type(os.environ)):
    def __getitem__(self, key):
        asked.append(key)
        return super().__getitem__(key)

asked = []
os.environ.__class__ = Watched
import {module}
os.environ.__class__ = Watched.__base__
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps([loaded, [key for key in asked if key.startswith("PENSTOCK")]]))
"""


def probe(module: str, **env: str) -> tuple[list[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded, asked = json.loads(done.stdout.splitlines()[-1])
    return loaded, asked


@pytest.mark.parametrize(
    "module",
    ["penstock", "penstock.client", "penstock.cli", "penstock.ledger", "penstock.payloads"],
)
def test_an_import_is_light_and_takes_no_environment(module: str) -> None:
    loaded, asked = probe(
        module,
        PENSTOCK_BROKER_URL="nonsense://",
        PENSTOCK_LEDGER_URL_FILE="/nowhere",
        PENSTOCK_CONNECTIONS="/nowhere",
    )
    assert {"penstock", "psycopg"} <= set(loaded)
    assert set(loaded) & set(HEAVY) == set()
    assert asked == []


def test_the_probe_would_see_both() -> None:
    loaded, asked = probe("os; os.environ.get('PENSTOCK_X'); import numpy")
    assert "numpy" in loaded
    assert asked == ["PENSTOCK_X"]
