"""A job's first rows, made into what each lane would send, for whoever asks: nothing is recorded.

Members are shown hashed, as platforms get them; rows of files stay here, only counted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pyarrow as pa

from penstock.contract import JobRef, JobSpec
from penstock.errors import PayloadsUnreachableError, PenstockError
from penstock.payloads import Payload
from penstock.preview import MOST_ROWS, Previews
from services.extract.source import Block, Source
from services.extract.views import ROWS, Views
from services.runtime.logs import clean_text, log
from services.runtime.worker import Worker

SourceOf = Callable[[Worker, JobSpec], Source]

_SUPPRESSED = "suppressed"
_DENIED = "consent denied"
_CONSENT = ("unspecified", "granted", "denied")


def answer(worker: Worker, source_of: SourceOf, message: dict[str, Any]) -> None:
    """Leave what was found, or why nothing was, where the client looks for it."""
    preview_id = JobRef.read(message).job_id
    settings = worker.settings
    key = settings.payload_key.get_secret_value() if settings.payload_key else None
    with closing(Previews(settings.payload_url or settings.broker_url, key)) as previews:
        try:
            spec, _ = JobSpec.from_wire(message.get("spec"))
            rows = min(int(message.get("rows", 0)), MOST_ROWS)
            previews.leave(preview_id, _found(worker, source_of, spec, rows))
        except PayloadsUnreachableError:
            raise  # where the answer would have to lie
        except Exception as exc:
            previews.leave(preview_id, {"error": clean_text(exc)})
            if not isinstance(exc, PenstockError):
                raise
            log.warning("%s has none: %s", preview_id, exc)


def _found(worker: Worker, source_of: SourceOf, spec: JobSpec, rows: int) -> dict[str, Any]:
    lanes = spec.lanes()
    source = source_of(worker, spec)
    names = dict.fromkeys(lane.view for lane in lanes.values())
    views = Views(spec, names, source.describe(total=False).columns)
    with source.open(views.columns, None) as reader:
        block = reader.read(rows) or Block.empty(source.selected)
    made = views.make(block)
    return {
        "name": spec.name,
        "rows": block.rows,
        "lanes": [
            {
                "lane": name,
                "kind": lane.kind,
                "mode": getattr(lane, "mode", None),
                **(
                    {"columns": list(block.columns), "rows": block.rows}
                    if lane.view == ROWS
                    else _members(worker, made[lane.view], getattr(lane, "mode", None))
                ),
            }
            for name, lane in lanes.items()
        ],
    }


def _members(worker: Worker, payload: Payload, mode: str | None) -> dict[str, Any]:
    """The columns as text, a list for each member, and what was left out by the row's place: a
    row whole (no field), or a value of it.
    """
    with pa.ipc.open_stream(payload.body) as stream:
        table = stream.read_all()
    names = table.schema.names
    members = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    left_out = [list(reject) for reject in payload.about["rejects"]]
    if mode != "remove" and "consent" in names:
        row, code = names.index("row"), names.index("consent")
        denied = [m for m in members if m[code] is not None and 2 in divmod(m[code], 3)]  # noqa: PLR2004
        left_out += [[m[row], "", _DENIED] for m in denied]
        members = [m for m in members if m not in denied]
    # Whoever must not be sent may still be taken out, as when the job runs.
    if mode != "remove":
        digests = {v for member in members for v in member if isinstance(v, bytes)}
        unwanted = worker.ledger.suppression.known(list(digests))
        row = names.index("row")
        left_out += [[m[row], "", _SUPPRESSED] for m in members if not unwanted.isdisjoint(m)]
        members = [m for m in members if unwanted.isdisjoint(m)]
    return {
        "columns": names,
        "members": [[_shown(n, v) for n, v in zip(names, m, strict=True)] for m in members],
        "left_out": sorted(left_out),
        "skipped": payload.about["rows"] - len(members),
    }


def _shown(name: str, value: Any) -> str | int | None:
    if isinstance(value, bytes):
        return value.hex()
    if name == "consent" and value is not None:
        ad_user_data, ad_personalization = divmod(value, 3)
        return f"{_CONSENT[ad_user_data]}, {_CONSENT[ad_personalization]}"
    return value if value is None or isinstance(value, int) else str(value)
