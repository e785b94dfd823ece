"""An endpoint of one's own, to which each batch is posted, signed, until it has taken it.

Everything the endpoint must know stands in the body, for that is what the signature covers: in JSON
beside the rows, in Arrow as the schema's metadata `penstock`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pyarrow as pa
import requests

from penstock.connections import HttpConnection
from penstock.contract import Http, LaneOutcome
from services.runtime.verdicts import Fatal, RowsRejected, Verdict
from services.upload.platform import Context, LaneEnd, Lot, Sent
from services.upload.platforms import own
from services.upload.platforms.clients import OfThread
from services.upload.platforms.digests import DIGEST, hex_column
from services.upload.platforms.http_address import Address
from services.upload.platforms.http_answer import answer_of, unanswered

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
VERSION = 1
_CONNECT_SECONDS = 10.0


class HttpPlatform(own.OwnPlatform[Http]):
    def __init__(
        self, connection: HttpConnection, destination: Http, context: Context | None = None
    ) -> None:
        super().__init__(destination, context)
        self._endpoint = Endpoint(connection)

    @property
    def account(self) -> str:
        return f"http/{self._endpoint.address}"

    def look(self) -> dict[str, Any]:
        return {"endpoint": str(self._endpoint.address)}

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> HttpSender:  # noqa: ARG002
        arrow = self._destination.encoding == "arrow"
        return HttpSender(self._endpoint, self._context, self._facts, arrow=arrow)

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome:  # noqa: ARG002
        event = "failed" if end.error else "cancelled" if end.cancelled else "closed"
        key = f"{self._context.job_id}/{self._context.lane}/{event}"
        body = self._facts(event, key) | {"accepted": end.accepted, "error": end.error}
        try:
            self._endpoint.post(orjson.dumps(body), JSON, key)
        except Verdict as no:
            if event != "closed":
                # Told once: what ended badly must not wait for an endpoint that may be the cause.
                return LaneOutcome(details={"end": "the endpoint was not told"})
            if isinstance(no, RowsRejected):
                raise Fatal("The endpoint refused to be told of the job's end.") from None
            raise
        return LaneOutcome()

    def _facts(self, event: str, key: str) -> dict[str, Any]:
        return {
            "v": VERSION,
            "event": event,
            "key": key,
            "job_id": self._context.job_id,
            "job_name": self._context.job_name,
            "lane": self._context.lane,
            "options": self._destination.options,
        }


class HttpSender:
    def __init__(
        self,
        endpoint: Endpoint,
        context: Context,
        facts: Callable[[str, str], dict[str, Any]],
        *,
        arrow: bool,
    ) -> None:
        self._endpoint = endpoint
        self._context = context
        self._facts = facts
        self._arrow = arrow

    def send(self, chunk: pa.RecordBatch, *, last: bool) -> Sent:  # noqa: ARG002
        key = own.key_of(self._context, chunk)
        facts = self._facts("batch", key) | {"seq": self._context.seq}
        rows = own.handed_on(chunk)
        if self._arrow:
            answer = self._endpoint.post(_arrow(rows, facts), ARROW, key)
        else:
            answer = self._endpoint.post(_json(rows, facts), JSON, key)
        refusals = answer.get("rejected") or []
        if not isinstance(refusals, list):
            raise Fatal("The endpoint's `rejected` is not a list of rows.")
        return own.sent(chunk, refusals, "The endpoint")


def _json(rows: pa.RecordBatch, facts: dict[str, Any]) -> bytes:
    columns = [
        hex_column(column, None) if column.type == DIGEST else column.to_pylist()
        for column in rows.columns
    ]
    body = facts | {"columns": rows.schema.names, "rows": list(zip(*columns, strict=True))}
    return orjson.dumps(body)


def _arrow(rows: pa.RecordBatch, facts: dict[str, Any]) -> bytes:
    # A slice's bytes depend on what it was cut from, and the same rows must be the same body.
    rows = rows.take(pa.array(range(rows.num_rows), pa.int64()))
    rows = rows.replace_schema_metadata({"penstock": orjson.dumps(facts)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return sink.getvalue().to_pybytes()


class Endpoint:
    """Each post gives the endpoint's answer or raises a verdict."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self.address = Address.read(connection.url.get_secret_value())
        token = connection.bearer_token
        # http.client would quote it in its complaint.
        if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
            raise Fatal("The connection's `bearer_token` is not one that a header can carry.")

    def post(self, body: bytes, content_type: str, key: str) -> dict[str, Any]:
        try:
            with _sessions.get(self._connection).post(
                self._connection.url.get_secret_value(),
                data=body,
                headers={"Content-Type": content_type, **self._headers(body, key)},
                timeout=(_CONNECT_SECONDS, self._connection.timeout_seconds),
                allow_redirects=False,  # rows and token must not follow one
                stream=True,  # so that an endless answer can be left
            ) as response:
                return answer_of(response)
        except requests.RequestException as exc:
            raise unanswered(exc) from None

    def _headers(self, body: bytes, key: str) -> dict[str, str]:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        headers = {"Idempotency-Key": key, "Content-Digest": f"sha-256=:{digest}:"}
        if self._connection.secret is not None:
            now = int(time.time())
            secret = self._connection.secret.get_secret_value().encode()
            signed = hmac.new(secret, b"%d.%b" % (now, body), hashlib.sha256).hexdigest()
            headers["X-Penstock-Signature"] = f"t={now},v1={signed}"
        return headers


class _Bearer(requests.auth.AuthBase):
    """Without one requests would look for a password in the user's netrc, and send that."""

    def __init__(self, connection: HttpConnection) -> None:
        self._token = connection.bearer_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return request


def _session(connection: HttpConnection) -> requests.Session:
    session = requests.Session()
    session.auth = _Bearer(connection)
    session.headers["User-Agent"] = "penstock"
    return session


_sessions = OfThread(_session)


PLATFORM = HttpPlatform


def check(connection: HttpConnection) -> str:
    """Only whether somebody is there: no request is without effect at every endpoint."""
    return Endpoint(connection).address.reach(_CONNECT_SECONDS)
