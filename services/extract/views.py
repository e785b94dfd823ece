"""Forms of a block that lanes read: hashed members for platforms, the rows themselves for files.

What a platform's view leaves out stays in this process: raw identifiers are hashed here, before
anything is put in Redis.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import pyarrow as pa

from penstock.contract import JobSpec
from penstock.payloads import Payload
from penstock.spec import CONSENTS, IDENTIFIERS
from services.extract.identity import IDENTITIES, USES
from services.extract.identity.member import Members, Rules
from services.extract.source import Block, SourceRefused

ROWS = "rows"


class Views:
    """How a job's blocks become payloads."""

    def __init__(self, spec: JobSpec, views: Iterable[str], columns: tuple[str, ...]) -> None:
        self._spec = spec
        self._columns = columns
        self._views = tuple(views)
        self._mapped = _mapped(spec, columns)
        if spec.source.key is not None and spec.source.key not in columns:
            raise SourceRefused(_no_column(spec.source.key, "`key`", columns))
        #: For each view what it is given: name = column.
        self._wanted = {view: self._wants(view) for view in self._views if view != ROWS}

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read; empty for every column."""
        if ROWS in self._views:
            return ()
        key = () if self._spec.source.key is None else (self._spec.source.key,)
        wanted = (c for wants in self._wanted.values() for c in wants.values())
        return tuple(dict.fromkeys((*wanted, *key)))

    def make(self, block: Block) -> dict[str, Payload]:
        made: dict[str, Payload] = {}
        wanted = {c: c for wants in self._wanted.values() for c in wants.values()}
        text = block.text(wanted) if wanted else None
        for view in self._views:
            if view == ROWS:
                made[view] = _rows(block)
            elif text is not None:
                wants = self._wanted[view]
                given = pa.RecordBatch.from_arrays(
                    [text.column(c) for c in wants.values()], names=list(wants)
                )
                made[view] = _members(IDENTITIES[view](given, self._rules(view)))
        return made

    def _wants(self, view: str) -> dict[str, str]:
        found = {name: self._column(view, name) for name in USES[view]}
        wants = {name: column for name, column in found.items() if column is not None}
        if not wants:
            raise SourceRefused(
                f"The source has none of the columns that {_family(view).capitalize()} can use "
                f"({', '.join(USES[view])}); say in [source.columns] which columns hold them. "
                f"The source has {', '.join(self._columns[:30])}."
            )
        if not self._only_removes(view):
            wants |= {name: self._mapped[name] for name in CONSENTS if name in self._mapped}
        key = self._spec.source.key
        if key is not None and not self._identifies(key):
            wants["row_key"] = key
        return wants

    def _column(self, view: str, name: str) -> str | None:
        """A platform's own form of an identifier goes before the common one, unless the spec says
        which column to take.
        """
        own = f"{_family(view)}:{name}"
        if own in self._columns and name not in self._spec.source.columns:
            return own
        return self._mapped.get(name)

    def _identifies(self, column: str) -> bool:
        """Whether it holds what may leave this process hashed alone, and so cannot name a row."""
        return column.rpartition(":")[2] in IDENTIFIERS or any(
            column == self._mapped.get(name) for name in IDENTIFIERS
        )

    def _only_removes(self, view: str) -> bool:
        """Nobody's consent is needed for that; and who takes it back must not stay for it."""
        lanes = [lane for lane in self._spec.destinations if lane.view == view]
        return bool(lanes) and all(getattr(lane, "mode", None) == "remove" for lane in lanes)

    def _rules(self, view: str) -> Rules:
        identity, consent = self._spec.identity, self._spec.consent
        asked = not self._only_removes(view)
        return Rules(
            default_country=identity.default_country,
            prehashed=frozenset(identity.prehashed),
            consent=consent.value if asked else None,
            consent_required=consent.required and asked,
        )


def _rows(block: Block) -> Payload:
    body = pa.compress(block.data, codec="lz4", asbytes=True)
    return Payload(body, {"form": "csv", "rows": block.rows, "raw": len(block.data)})


def _members(members: Members) -> Payload:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, members.batch.schema, options=options) as writer:
        writer.write_batch(members.batch)
    return Payload(
        sink.getvalue().to_pybytes(),
        {"form": "arrow", "rows": members.rows, "skipped": members.skipped,
         "unusable": members.unusable, "rejects": [list(r) for r in members.rejects],
         # JSON has no other keys than text.
         "keys": {str(place): key for place, key in members.keys.items()}},
    )  # fmt: skip


def _mapped(spec: JobSpec, columns: tuple[str, ...]) -> dict[str, str]:
    """Contract name = column: what the spec says, and columns that bear a contract name."""
    for name, column in spec.source.columns.items():
        if column not in columns:
            raise SourceRefused(_no_column(column, f"mapped to {name!r}", columns))
    names = {n for view in USES.values() for n in view} | set(CONSENTS)
    return {n: n for n in names if n in columns} | spec.source.columns


def _family(view: str) -> str:
    return view.partition("_")[0]


def _no_column(column: str, use: str, columns: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(column, columns, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"The source has no column {column!r} ({use}){hint}; it has {', '.join(columns[:30])}."
