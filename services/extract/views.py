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
from services.extract.identity import IDENTITIES, USES
from services.extract.identity.member import Members, Rules
from services.extract.source import Block, SourceRefused

ROWS = "rows"


class Views:
    """How a job's blocks become payloads."""

    def __init__(self, spec: JobSpec, views: Iterable[str], columns: tuple[str, ...]) -> None:
        self._views = tuple(views)
        self._rules = Rules(
            default_country=spec.identity.default_country,
            prehashed=frozenset(spec.identity.prehashed),
        )
        self._mapped = _mapped(spec, columns)
        if spec.source.key is not None and spec.source.key not in columns:
            raise SourceRefused(_no_column(spec.source.key, "`key`", columns))
        for view in self._views:
            if view != ROWS and not self._wanted(view):
                raise SourceRefused(
                    f"The source has none of the columns that {view.capitalize()} can use "
                    f"({', '.join(USES[view])}); say in [source.columns] which columns hold them. "
                    f"The source has {', '.join(columns[:30])}."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read; empty for every column."""
        if ROWS in self._views:
            return ()
        return tuple(dict.fromkeys(c for view in self._views for c in self._wanted(view).values()))

    def make(self, block: Block) -> dict[str, Payload]:
        made: dict[str, Payload] = {}
        wanted = {
            k: v for view in self._views if view != ROWS for k, v in self._wanted(view).items()
        }
        text = block.text(wanted) if wanted else None
        for view in self._views:
            if view == ROWS:
                made[view] = _rows(block)
            elif text is not None:
                made[view] = _members(
                    IDENTITIES[view](text.select(list(self._wanted(view))), self._rules)
                )
        return made

    def _wanted(self, view: str) -> dict[str, str]:
        return {name: self._mapped[name] for name in USES[view] if name in self._mapped}


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
         "unusable": members.unusable},
    )  # fmt: skip


def _mapped(spec: JobSpec, columns: tuple[str, ...]) -> dict[str, str]:
    """Contract name = column: what the spec says, and columns that bear a contract name."""
    for name, column in spec.source.columns.items():
        if column not in columns:
            raise SourceRefused(_no_column(column, f"mapped to {name!r}", columns))
    names = {n for view in USES.values() for n in view}
    return {n: n for n in names if n in columns} | spec.source.columns


def _no_column(column: str, use: str, columns: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(column, columns, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"The source has no column {column!r} ({use}){hint}; it has {', '.join(columns[:30])}."
