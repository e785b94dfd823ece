"""The first rows of a job as they would be sent: asked of an extract worker, which alone has the
credentials and the hashing.

What it answers lies in Redis, where payloads do and sealed as they are, until the client takes it.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import closing
from typing import Any

from celery import Celery
from pydantic import Field, SecretStr

from penstock import routes
from penstock.contract import WIRE_VERSION, JobSpec
from penstock.errors import (
    PayloadKeyError,
    PenstockError,
    SettingsError,
    SpecError,
    WaitTimeoutError,
)
from penstock.payloads import Payload, Payloads, answering
from penstock.settings import Settings

EXPIRE_SECONDS = 300
MOST_ROWS = 1_000
_VIEW = "preview"


class PreviewSettings(Settings):
    """Where the workers' payloads lie: for `penstock preview` what they have themselves."""

    payload_url: str | None = Field(
        None, description="Redis that holds the payloads, where it is not the broker's."
    )
    payload_key: SecretStr | None = Field(
        None, description="32 bytes in base64; payloads in Redis are encrypted with it."
    )


class Previews(Payloads):
    """Payloads of no job: each is taken once, and soon gone."""

    def leave(self, preview_id: str, found: dict[str, Any]) -> None:
        name = _name(preview_id)
        sealed = self._seal(name, _VIEW, Payload(json.dumps(found).encode()))
        with answering():
            self._redis.set(name, sealed, ex=EXPIRE_SECONDS)

    def collect(self, preview_id: str) -> dict[str, Any] | None:
        """None where it is not there yet. Collecting it removes it."""
        name = _name(preview_id)
        with answering():
            # redis-py types an async answer into every command.
            data: bytes | None = self._redis.getdel(name)  # type: ignore[assignment]
        if data is None:
            return None
        found: dict[str, Any] = json.loads(self._open(name, _VIEW, data).body)
        return found


def preview(
    app: Celery, broker_url: str, spec: JobSpec, rows: int, timeout: float
) -> dict[str, Any]:
    """What a worker found; raises its sentence where it cannot read the source."""
    if not 1 <= rows <= MOST_ROWS:
        raise SpecError(f"A preview has 1 to {MOST_ROWS:,} rows.")
    preview_id = f"preview-{uuid.uuid4().hex}"
    with closing(_previews(broker_url)) as previews:
        app.send_task(
            routes.PREVIEW,
            args=[{"v": WIRE_VERSION, "job_id": preview_id, "rows": rows, "spec": spec.wire()}],
            queue=routes.QUEUES[routes.PREVIEW],
            # Nobody waits any longer: a worker that comes later need not read.
            expires=timeout,
            ignore_result=True,
            argsrepr=f"({preview_id})",
        )
        found = _awaited(previews, preview_id, timeout)
    if "error" in found:
        raise PenstockError(found["error"])
    return found


def _awaited(previews: Previews, preview_id: str, timeout: float) -> dict[str, Any]:
    until, pause = time.monotonic() + timeout, 0.05
    while True:
        try:
            found = previews.collect(preview_id)
        except PayloadKeyError:
            raise PayloadKeyError(
                "The preview is encrypted: PENSTOCK_PAYLOAD_KEY must be what the extract workers "
                "have."
            ) from None
        if found is not None:
            return found
        if time.monotonic() > until:
            raise WaitTimeoutError(
                f"No extract worker answered in {timeout:.0f} s: `penstock doctor` tells whether "
                "one runs. Where the workers have PENSTOCK_PAYLOAD_URL, it must be set here too."
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


def _previews(broker_url: str) -> Previews:
    settings = PreviewSettings.read()
    key = settings.payload_key.get_secret_value() if settings.payload_key else None
    try:
        return Previews(settings.payload_url or broker_url, key)
    except ImportError:
        raise SettingsError(
            "PENSTOCK_PAYLOAD_KEY is set, which takes the extra: install penstock[payload-key]."
        ) from None


def _name(preview_id: str) -> str:
    return f"penstock:preview:{preview_id}"
