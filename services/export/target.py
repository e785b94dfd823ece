"""Where a lane's file goes: its store, its key, and the headers it is served with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from penstock.connections import Connections, S3Connection
from penstock.contract import S3, JobSpec
from penstock.errors import ConnectionsError, SpecError
from services.export.formats import FORMATS
from services.export.store import S3Store
from services.runtime.verdicts import Fatal


@dataclass(frozen=True, slots=True)
class Target:
    store: S3Store
    destination: S3
    bucket: str
    key: str
    content_type: str
    disposition: str


def target_of(connections: Connections, spec: JobSpec, job_id: str, lane: str) -> Target:
    destination = spec.lanes()[lane]
    if not isinstance(destination, S3):
        raise Fatal(f"Lane {lane!r} is no file.")
    try:
        connection = connections.get(destination.connection, "s3")
    except (SpecError, ConnectionsError) as exc:
        raise Fatal(str(exc)) from None
    key = destination.key.replace("{job_id}", job_id).replace("{name}", _plain(spec.name))
    packed = destination.compression == "gzip"
    return Target(
        S3Store(cast(S3Connection, connection)),
        destination,
        destination.bucket,
        key,
        # As what it is: a browser told of an encoding would unpack the file and keep its name.
        "application/gzip" if packed else FORMATS[destination.format].content_type,
        f'attachment; filename="{_plain(key.rsplit("/", 1)[-1])}"',
    )


def _plain(text: str) -> str:
    """Safe in a key and in a header."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)
