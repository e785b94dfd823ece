"""What the endpoint took: each batch once, whatever comes again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson

from sandbox.calls import Calls
from sandbox.endpoint.post import Post, Refused
from sandbox.faults import Faults

#: `status` answers with `status`, `headers` and `body` in place of the work, `answer` with them
#: after it; `endless` answers without an end; the rest is for the server, which has the connection.
FAULTS = ("status", "answer", "endless", "slow", "reset", "drop_after", "hang")
POST = "post"


@dataclass
class _Taken:
    digest: str
    post: Post
    rejected: list[dict[str, Any]]


@dataclass
class _Lane:
    taken: dict[str, _Taken] = field(default_factory=dict)
    #: Posts whose key was known, and whose rows were those that are there already.
    repeated: int = 0
    #: The same key with other rows: the later ones stand for the earlier.
    replaced: int = 0
    ends: list[dict[str, Any]] = field(default_factory=list)
    authorization: str = ""

    def rows(self) -> Iterator[list[Any]]:
        for taken in self.taken.values():
            refused = {one["row"] for one in taken.rejected}
            yield from (r for n, r in enumerate(taken.post.rows) if n not in refused)


class EndpointPlatform:
    """An audience of the control port is a lane."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        #: A row that holds one of these is rejected for the reason beside it.
        self._rejected: dict[str, str] = {}
        #: What comes with one of these is refused as a whole.
        self._refused: set[str] = set()
        self.faults = Faults(FAULTS, (POST,))
        self.calls = Calls()

    def take(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        post = Post.read(headers, body, self._secret)
        with self._lock:
            lane = self._lanes.setdefault(post.facts["lane"], _Lane())
            lane.authorization = headers.get("Authorization", "")
            if post.facts["event"] != "batch":
                return self._ended(lane, post)
            key = post.facts["key"]
            known = lane.taken.get(key)
            if known is not None and known.digest == post.digest:
                lane.repeated += 1
                return {"rejected": known.rejected}
            if any(value in self._refused for row in post.rows for value in row):
                raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "a row that is not wanted")
            lane.replaced += known is not None
            lane.taken[key] = _Taken(post.digest, post, list(self._rejections(post)))
            return {"rejected": lane.taken[key].rejected}

    def members(self, audience_id: str) -> Iterable[str]:
        """Every row as JSON, without its place in the batch; twice where it was taken twice."""
        with self._lock:
            return [orjson.dumps(row[1:]).decode() for row in self._lanes[audience_id].rows()]

    def member_count(self, audience_id: str) -> int:
        with self._lock:
            return sum(1 for _ in self._lanes[audience_id].rows())

    def state(self) -> Mapping[str, Any]:
        with self._lock:
            return {name: _shown(lane) for name, lane in self._lanes.items()}

    def reset(self) -> None:
        with self._lock:
            self._lanes.clear()

    def add_audience(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ValueError(f"an endpoint has no audiences to add ({', '.join(body)})")

    def change_settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            self._rejected = dict(body.get("rejected", self._rejected))
            self._refused = set(body.get("refused", self._refused))
            return {"rejected": self._rejected, "refused": sorted(self._refused)}

    def _ended(self, lane: _Lane, post: Post) -> dict[str, Any]:
        if all(end["key"] != post.facts["key"] for end in lane.ends):
            lane.ends.append(dict(post.facts))
        return {}

    def _rejections(self, post: Post) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(post.rows):
            for column, value in zip(post.columns, row, strict=True):
                if value in self._rejected:
                    yield {"row": number, "field": column, "reason": self._rejected[value]}
                    break


def _shown(lane: _Lane) -> dict[str, Any]:
    posts = [taken.post for taken in lane.taken.values()]
    return {
        "batches": len(posts),
        "rows": sum(1 for _ in lane.rows()),
        "repeated": lane.repeated,
        "replaced": lane.replaced,
        "ends": lane.ends,
        "authorization": lane.authorization,
        "columns": posts[-1].columns if posts else [],
        "last": dict(posts[-1].facts) if posts else {},
    }
