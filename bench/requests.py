"""What building a request costs: a chunk as the payload has it, up to the bytes for the wire.

Beside each platform's way stands what its own samples do; LinkedIn has no SDK, and its
documentation shows the JSON. Those are given their rows as Python values with the digests in hex
already, for which our way has to pay. The ways take turns, and both must ask for the same.
"""

from __future__ import annotations

import gc
import json
import random
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final
from urllib.parse import parse_qs

import pyarrow as pa
import requests
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.api import FacebookAdsApi
from facebook_business.session import FacebookSession
from google.ads import datamanager_v1
from google.ads.googleads.v26.services.types import offline_user_data_job_service
from requests.adapters import BaseAdapter

from bench import samples
from bench.hash_identities import cpu_seconds, people
from penstock.connections import MetaConnection, TokenConnection
from services.extract.identity import IDENTITIES, Rules
from services.upload.chunk import chunks
from services.upload.platform import Limits
from services.upload.platforms import data_manager_requests, google_ads_request, linkedin
from services.upload.platforms.digests import DIGEST, hex_column
from services.upload.platforms.meta_graph import Graph
from services.upload.platforms.meta_payload import KEYS
from services.upload.platforms.meta_send import MetaSender, Target

EMAIL_AND_PHONE = ("email", "phone")
MAIL_AND_DEVICE = ("email", "mobile_ad_id")


class _OnTheWire(Exception):  # noqa: N818 - how a request leaves its client, with its body
    def __init__(self, body: bytes | str) -> None:
        super().__init__()
        self.body = body.encode() if isinstance(body, str) else body


class _Wire(BaseAdapter):
    """Where a client of HTTP would begin to send."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        raise _OnTheWire(request.body or b"")

    def close(self) -> None:
        """There is nothing open."""


def _bodies(sends: Iterable[Callable[[], Any]]) -> list[bytes]:
    found = []
    for send in sends:
        try:
            send()
        except _OnTheWire as request:
            found.append(request.body)
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """One platform and one set of identifiers."""

    name: str
    members: pa.RecordBatch
    ours: Callable[[], list[bytes]]
    #: What it is called -> how it builds the same.
    others: dict[str, Callable[[], list[bytes]]]
    #: What the platform makes of a request.
    read: Callable[[bytes], Any]
    #: What a request of 10,000 members is to stay below.
    aim_ms: float | None = None

    def check(self) -> None:
        asked = [self.read(body) for body in self.ours()]
        for name, build in self.others.items():
            if [self.read(body) for body in build()] != asked:
                raise SystemExit(f"{self.name}: {name} asks for something else")


def run(rows: int, rounds: int) -> None:
    print(
        f"requests: {rows:,} members from the payload's columns to the bytes of the request; "
        f"CPU, median of {rounds} rounds"
    )
    for case in _cases(rows):
        case.check()
        ways = {"": case.ours, **case.others}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        gc.collect()
        # A pass of the collector over the SDKs and this bench's own rows takes ten times what some
        # of these take, and would fall to one or the other by chance.
        gc.freeze()
        for _ in range(rounds):
            for name, build in ways.items():
                spent[name].append(1000 * cpu_seconds(build))
        gc.unfreeze()
        own = median(spent[""])
        told = [f"{own:.1f} ms, {1000 * rows / own:,.0f} members per CPU second"]
        if case.aim_ms is not None and rows == 10_000:
            told.append(f"{'under' if own < case.aim_ms else 'NOT UNDER'} {case.aim_ms:.0f} ms")
        for name in case.others:
            pairs = zip(spent[name], spent[""], strict=True)
            ratio = median(theirs / ours for theirs, ours in pairs)
            told.append(f"{name} {median(spent[name]):,.0f} ms, {ratio:.1f} times ours")
        print(f"  {case.name}: " + " · ".join(told))


def _cases(rows: int) -> Iterable[Case]:
    google, meta = _members(rows, "google"), _members(rows, "meta")
    all_of = [name for name in KEYS if name in meta.schema.names]
    yield _google_ads("email and phone", google.select(EMAIL_AND_PHONE))
    yield _google_ads("all columns", google)
    yield _data_manager("email and phone", google.select(EMAIL_AND_PHONE))
    yield _data_manager("all columns", google)
    yield _meta("email and phone", meta.select(EMAIL_AND_PHONE))
    yield _meta(f"all {len(all_of)} columns", meta.select(all_of))
    yield _linkedin("email", meta.select(["email"]))
    yield _linkedin("email and mobile ad id", meta.select(MAIL_AND_DEVICE))


def _members(rows: int, view: str) -> pa.RecordBatch:
    """The second chunk of a batch, since only the first begins where its buffers do."""
    dice = random.Random(11)
    batch = people(2 * rows)
    more = {
        "state": ["Texas"] * batch.num_rows,
        "gender": [dice.choice("mf") for _ in range(batch.num_rows)],
        "date_of_birth": [
            f"{dice.randrange(1940, 2005)}-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}"
            for _ in range(batch.num_rows)
        ],
        "mobile_ad_id": [
            str(uuid.UUID(int=dice.getrandbits(128), version=4)) for _ in range(batch.num_rows)
        ],
    }
    for name, values in more.items():
        batch = batch.append_column(name, pa.array(values, pa.string()))
    found = IDENTITIES[view](batch, Rules(default_country="US")).batch
    if found.num_rows != batch.num_rows:
        raise SystemExit(f"{view}: made-up people are expected to be usable, all of them")
    return found.slice(rows)


def _records(members: pa.RecordBatch) -> list[samples.Record]:
    names = [name for name in members.schema.names if name != "row"]
    columns = [_values(members.column(name)) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    return hex_column(column, None) if column.type == DIGEST else column.to_pylist()


# ---- Google Ads


def _google_ads(what: str, members: pa.RecordBatch) -> Case:
    records = _records(members)

    def ours() -> list[bytes]:
        return [google_ads_request.add_request(samples.JOB, members).SerializeToString()]

    return Case(
        f"google_ads, {what}",
        members,
        ours,
        {
            "the SDK's example": partial(
                samples.google_example, samples.google_client(True), records
            ),
            "the same without proto-plus": partial(
                samples.google_example, samples.google_client(False), records
            ),
        },
        offline_user_data_job_service.AddOfflineUserDataJobOperationsRequest.pb().FromString,
        60,
    )


# ---- Data Manager API


def _data_manager(what: str, members: pa.RecordBatch) -> Case:
    def ours() -> list[bytes]:
        return [data_manager_requests.add_request(samples.LIST, members).SerializeToString()]

    return Case(
        f"data_manager, {what}",
        members,
        ours,
        {"the SDK's samples": partial(samples.data_manager_sample, _records(members))},
        datamanager_v1.IngestAudienceMembersRequest.pb().FromString,
    )


# ---- Meta


def _meta(what: str, members: pa.RecordBatch) -> Case:
    """Both through `requests` up to its transport, which does no sending."""
    rows = members.num_rows
    graph = Graph(MetaConnection(kind="meta", access_token="sandbox"))
    graph._http.mount("https://", _Wire())  # noqa: SLF001 - as a proxy of the user's would be
    target = Target(graph, "222/users", None)
    session = FacebookSession(access_token="sandbox")
    session.requests.mount("https://", _Wire())
    audience = CustomAudience("222", api=FacebookAdsApi(session))
    columns = [_values(members.column(name)) for name in members.schema.names]
    users = [["" if v is None else v for v in row] for row in zip(*columns, strict=True)]
    schema = [KEYS[name] for name in members.schema.names]
    mark = {"session_id": 1, "batch_seq": 1, "last_batch_flag": True, "estimated_num_total": rows}

    def ours() -> list[bytes]:
        sender = MetaSender(target, rows, remove=False)
        return _bodies([partial(sender.send, members, last=True)])

    def add_users() -> list[bytes]:
        return _bodies(
            [partial(audience.add_users, schema, users, is_raw=True, pre_hashed=True, session=mark)]
        )

    return Case(f"meta, {what}", members, ours, {"the SDK's add_users": add_users}, _meta_rows, 15)


def _meta_rows(body: bytes) -> tuple[list[str], list[list[str]]]:
    if body.startswith(b"{"):
        payload = json.loads(body)["payload"]
    else:
        payload = json.loads(parse_qs(body.decode())["payload"][0])
    return payload["schema"], payload["data"]


# ---- LinkedIn


def _linkedin(what: str, members: pa.RecordBatch) -> Case:
    limits: Limits = linkedin.LinkedInPlatform.limits
    connection = TokenConnection(kind="linkedin", access_token="sandbox")
    api = linkedin.Api(connection, linkedin.API_VERSION)
    api._http.mount("https://", _Wire())  # noqa: SLF001 - as a proxy of the user's would be
    sender = linkedin.LinkedInSender(api, "333", 0.0, "ADD")
    plain = requests.Session()
    plain.mount("https://", _Wire())
    records = _records(members)
    url: Final = f"{linkedin.API_URL}/rest/dmpSegments/333/users"

    def ours() -> list[bytes]:
        return _bodies(
            partial(sender.send, chunk, last=True) for chunk in chunks(members, limits, 1)
        )

    def posted() -> list[bytes]:
        return _bodies(
            partial(samples.post_elements, plain, url, records[first : first + limits.rows])
            for first in range(0, len(records), limits.rows)
        )

    return Case(f"linkedin, {what}", members, ours, {"dicts and json.dumps": posted}, json.loads)
