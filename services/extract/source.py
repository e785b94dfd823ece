"""What a source's module offers. A new source is one file that does this, one line in
`sources/__init__.py`, and one line in the conformance suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pyarrow import csv

from penstock.errors import PenstockError


class SourceRefused(PenstockError):  # noqa: N818 - a verdict on the job
    """The source cannot be read as the spec asks; reading again would not help."""


class SourceBroke(PenstockError):  # noqa: N818
    """The source broke off or does not answer; it may do so later."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of rows as the server wrote them: CSV without a header, NULL empty and unquoted."""

    data: bytes
    rows: int
    #: The key of the last row, where the spec names a key.
    last_key: str | None
    columns: tuple[str, ...]

    @classmethod
    def empty(cls, columns: tuple[str, ...]) -> Block:
        return cls(b"", 0, None, columns)

    def text(self, wanted: dict[str, str]) -> pa.RecordBatch:
        """Columns as text, under the names they are `wanted` by (name = column)."""
        if not self.rows:
            return pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in wanted})
        # By position: a query may give two columns one name.
        numbered = [f"c{n}" for n in range(len(self.columns))]
        picked = {name: numbered[self.columns.index(column)] for name, column in wanted.items()}
        table = csv.read_csv(
            pa.BufferReader(self.data),
            csv.ReadOptions(
                column_names=numbered, use_threads=False, block_size=max(len(self.data) + 1, 1024)
            ),
            # A row of one column that is NULL is an empty line.
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                include_columns=list(dict.fromkeys(picked.values())),
                column_types=dict.fromkeys(numbered, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        return pa.RecordBatch.from_arrays(
            [table.column(c).combine_chunks() for c in picked.values()], names=list(picked)
        )


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a source before its first row."""

    columns: tuple[str, ...]
    total: int | None
    total_is_exact: bool


class Reader(Protocol):
    def read(self, rows: int) -> Block | None:
        """The next rows, at most so many; None at the end. Raises SourceBroke or SourceRefused."""
        ...


class Source(Protocol):
    """One job's source. `describe` comes first, then `open`, any number of times."""

    def describe(self, *, total: bool) -> Description: ...

    def open(
        self, columns: Sequence[str], after: str | None, upto: str | None = None
    ) -> AbstractContextManager[Reader]:
        """Read the columns (all where empty) of the rows whose key lies in (after, upto]; without a
        key both are None.
        """
        ...

    def interrupt(self) -> None:
        """Called from another thread: what is being read is wanted no more. Whoever waits for the
        source gets a SourceBroke.
        """
        ...

    @property
    def selected(self) -> tuple[str, ...]:
        """The columns that the last `open` reads, in order."""
        ...
