"""Custom Audiences of Meta: who is sent is in at once, so there is no end to bring about."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
import pyarrow as pa

from penstock.connections import MetaConnection
from penstock.contract import LaneOutcome, Meta
from services.runtime.closing import Wait
from services.runtime.verdicts import Fatal, Retryable
from services.upload.platform import LaneEnd, Limits, Sent
from services.upload.platforms.digests import hex_column
from services.upload.platforms.meta_errors import NotThere
from services.upload.platforms.meta_graph import Graph, graph_of

INVALID = "Meta: invalid entry"
_KEYS = {
    "email": "EMAIL",
    "phone": "PHONE",
    "first_name": "FN",
    "last_name": "LN",
    "city": "CT",
    "postal_code": "ZIP",
    "country": "COUNTRY",
    "external_id": "EXTERN_ID",
}
_AS_GIVEN = "external_id"
_VALUE_BYTES = 67
_PAGE = "200"


class MetaPlatform:
    # 10,000 rows a request is Meta's limit. It names no size: rows with all eight keys make 5.4 MB.
    limits: ClassVar[Limits] = Limits(rows=10_000, bytes=8 * 1024 * 1024)

    def __init__(self, connection: MetaConnection, destination: Meta) -> None:
        self._connection = connection
        self._destination = destination

    def prepare(self, memo: Mapping[str, Any]) -> dict[str, Any]:
        if "audience" in memo:
            return {}
        graph, wanted = graph_of(self._connection), self._destination
        if wanted.audience_id is None:
            return {"audience": _named(graph, wanted.account_id or "", wanted.audience or "")}
        try:
            graph.get(wanted.audience_id, fields="name")
        except NotThere:
            raise Fatal(
                f"Meta has no audience {wanted.audience_id}, or the access token may not see it."
            ) from None
        return {"audience": wanted.audience_id}

    def sender(self, memo: Mapping[str, Any], rows: int) -> MetaSender:
        return MetaSender(graph_of(self._connection), memo["audience"], rows)

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome | Wait:  # noqa: ARG002
        # Whoever was accepted is in the audience, whatever became of the lane.
        return LaneOutcome(details=dict(memo))

    def row_bytes(self, columns: list[str]) -> int:
        return 3 + _VALUE_BYTES * sum(name in _KEYS for name in columns)


class MetaSender:
    """Sends in a session of its own.

    Meta's counts are those of a session so far: shared with other batches they could not be told
    apart.
    """

    def __init__(self, graph: Graph, audience: str, rows: int) -> None:
        self._graph = graph
        self._audience = audience
        self._rows = rows
        self._session: _Session | None = None

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:
        # Gone until the whole answer is here. After anything else nobody knows whether the chunk
        # was counted: what is left goes into a new session, whose counts begin at nothing. Meta
        # holds one person once, so the chunk may go in twice.
        session, self._session = self._session or _Session(self._rows), None
        body = {"payload": _payload(chunk), "session": session.mark(last=last)}
        answer = self._graph.post(f"{self._audience}/users", orjson.dumps(body))
        invalid = session.invalid_of(answer, chunk.num_rows)
        self._session = session
        return Sent(chunk.num_rows - invalid, {INVALID: invalid} if invalid else {})


class _Session:
    def __init__(self, rows: int) -> None:
        self._id = secrets.randbelow(2**63 - 1) + 1
        self._rows = rows
        self._batch = 0
        self._received = 0
        self._invalid = 0

    def mark(self, *, last: bool) -> dict[str, Any]:
        self._batch += 1
        return {
            "session_id": self._id,
            "batch_seq": self._batch,
            "last_batch_flag": last,
            "estimated_num_total": self._rows,
        }

    def invalid_of(self, answer: Mapping[str, Any], rows: int) -> int:
        """How many of the rows just sent are invalid entries."""
        received, invalid = answer.get("num_received"), answer.get("num_invalid_entries", 0)
        if type(received) is not int or type(invalid) is not int:
            raise Retryable("Meta answered without saying how many rows it received.")
        new, newly_invalid = received - self._received, invalid - self._invalid
        if new != rows or not 0 <= newly_invalid <= rows:
            raise Retryable(f"Meta counted {new} rows where {rows} were sent.")
        self._received, self._invalid = received, invalid
        return newly_invalid


def _payload(chunk: pa.RecordBatch) -> dict[str, Any]:
    names = [name for name in _KEYS if name in chunk.schema.names]
    columns = [
        [value or "" for value in chunk.column(name).to_pylist()]
        if name == _AS_GIVEN
        else hex_column(chunk.column(name), "")
        for name in names
    ]
    return {
        "schema": [_KEYS[name] for name in names],
        "data": list(zip(*columns, strict=True)),
    }


def _named(graph: Graph, account: str, name: str) -> str:
    """The id of the one audience of that very name."""
    found: list[str] = []
    page = {"fields": "name", "limit": _PAGE}
    while True:
        try:
            answer = graph.get(f"act_{account}/customaudiences", **page)
        except NotThere:
            raise Fatal(
                f"Meta has no ad account {account}, or the access token may not see it."
            ) from None
        found += [str(one["id"]) for one in answer.get("data", ()) if one.get("name") == name]
        paging = answer.get("paging") or {}
        if "next" not in paging:
            break
        # By the cursor: the link to the next page has the token in it.
        page["after"] = paging["cursors"]["after"]
    if not found:
        raise Fatal(f"Ad account {account} has no audience named {name!r}.")
    if len(found) > 1:
        raise Fatal(
            f"Ad account {account} has {len(found)} audiences named {name!r}: give `audience_id`."
        )
    return found[0]
