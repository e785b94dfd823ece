"""Custom Audiences of Meta: who is added is in at once, a replacement when its lane ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from penstock.connections import MetaConnection
from penstock.contract import LaneOutcome, Meta
from services.runtime.verdicts import Fatal
from services.upload.platform import Context, LaneEnd, Limits, Lot, Pace, Sender, Sent
from services.upload.platforms import meta_audience, meta_replace
from services.upload.platforms.meta_graph import Graph, check, graph_of
from services.upload.platforms.meta_payload import KEYS, VALUE_BYTES, limited_use
from services.upload.platforms.meta_replace import ReplaceSender
from services.upload.platforms.meta_send import MetaSender, Target, new_session_id

__all__ = ["PLATFORM", "MetaPlatform", "check"]

_LEFT = (
    "the replacement that was begun: Meta ends it 90 minutes after its start and then puts in "
    "place the members it has; a retry of the lane sets that right"
)


class MetaPlatform:
    # 10,000 rows a request is Meta's limit. It names no size: rows with all keys make 9.4 MB.
    limits: ClassVar[Limits] = Limits(rows=10_000, bytes=10 * 1024 * 1024)
    # It publishes no caps: its headers say how full an account's limits are.
    pace: ClassVar[Pace] = Pace()
    by_consent: ClassVar[bool] = False
    modes: ClassVar[frozenset[str]] = frozenset({"add", "remove", "replace", "mirror"})

    def __init__(
        self,
        connection: MetaConnection,
        destination: Meta,
        context: Context = Context(),  # noqa: ARG002, B008 - the same for all platforms; frozen
    ) -> None:
        self._connection = connection
        self._destination = destination
        self._limited_use = limited_use(destination)
        self._session_made: int | None = None

    @property
    def account(self) -> str:
        """Meta's limits are those of the ad account. Where the job does not say which that is, all
        lanes of the connection count as one.
        """
        named = self._destination.account_id
        return f"meta/act_{named}" if named else f"meta/{self._destination.connection}"

    def prepare(self, memo: Mapping[str, Any], lot: Lot) -> dict[str, Any]:
        wanted, made = self._destination, dict[str, Any]()
        if wanted.everywhere:
            if "account" not in memo:
                meta_audience.account_name(self._graph(), wanted.account_id or "")
                made["account"] = f"act_{wanted.account_id}"
            return made
        if "audience" not in memo:
            made["audience"] = self._find_or_create()
        if lot.action == "replace" and "replace_session" not in memo:
            made["replace_session"] = self._session_made = new_session_id()
        return made

    def look(self) -> dict[str, Any]:
        wanted = self._destination
        if wanted.everywhere:
            name = meta_audience.account_name(self._graph(), wanted.account_id or "")
            return {"audience": f"every one of {name} (act_{wanted.account_id})"}
        found = meta_audience.find(self._graph(), wanted)
        if found is not None:
            return {"audience": f"{found.name} (id {found.id})"}
        if not wanted.create:
            raise meta_audience.missing(wanted)
        return {"audience": "would be created"}

    def sender(self, memo: Mapping[str, Any], rows: int, lot: Lot) -> Sender:
        if lot.action == "replace":
            fresh = memo["replace_session"] == self._session_made
            return ReplaceSender(self._replacing(memo), memo, fresh=fresh)
        remove = lot.action == "remove"
        options = {} if remove else self._limited_use
        return MetaSender(self._target(memo, "users", options), rows, remove=remove)

    def validate(self, chunk: pa.RecordBatch, lot: Lot) -> Sent | None:  # noqa: ARG002
        """Meta has no request that only checks."""
        return None

    def close(self, memo: Mapping[str, Any], end: LaneEnd) -> LaneOutcome:
        details = {name: memo[name] for name in ("audience", "account") if name in memo}
        if self._destination.mode != "replace":
            # Whoever was accepted is in or out, whatever became of the lane.
            return LaneOutcome(details=details)
        error, lost_to = None, "skipped" if end.cancelled else "failed"
        if end.error is None and not end.cancelled:
            error = self._finish(memo)
            if error is None:
                return LaneOutcome(details=details)
        if "replace_next" in memo:
            details["left_behind"] = _LEFT
        return LaneOutcome(error=error, lost_to=lost_to, details=details)

    def _finish(self, memo: Mapping[str, Any]) -> str | None:
        """Let the replacement take effect; why it does not."""
        if "replace_next" not in memo:
            return "The source had no member for the audience, so it was left as it is."
        if "replace_first" not in memo:
            return "Meta accepted no member, so the replacement was not finished."
        try:
            meta_replace.finish(self._replacing(memo), memo)
        except Fatal as no:
            return no.reason
        return None

    def row_bytes(self, columns: list[str]) -> int:
        options = sum(len(str(value)) + 1 for value in self._limited_use.values())
        return 3 + VALUE_BYTES * sum(name in KEYS for name in columns) + options

    def _find_or_create(self) -> str:
        graph, wanted = self._graph(), self._destination
        found = meta_audience.find(graph, wanted)
        if found is not None:
            return str(found.id)
        if not wanted.create:
            raise meta_audience.missing(wanted)
        return str(meta_audience.create(graph, wanted))

    def _replacing(self, memo: Mapping[str, Any]) -> Target:
        return self._target(memo, "usersreplace", self._limited_use)

    def _target(self, memo: Mapping[str, Any], edge: str, options: Mapping[str, Any]) -> Target:
        graph, account = self._graph(), self._destination.account_id
        if self._destination.everywhere:
            path = f"{memo['account']}/usersofanyaudience"
            return Target(graph, path, account, options, may_not_count=True)
        return Target(graph, f"{memo['audience']}/{edge}", account, options)

    def _graph(self) -> Graph:
        return graph_of(self._connection)


PLATFORM = MetaPlatform
