"""An erasure as a source: its people out of the ledger, as the digests that each platform knows.

A column belongs to one family of platforms (`google:email`), so a lane gets its own digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from penstock.contract import Source as SourceSpec
from penstock.ledger import Ledger
from penstock.person import KNOWN_BY
from services.extract.source import Block, Description, SourceRefused

PLACE: Final = "place"


class ErasureSource:
    def __init__(self, ledger: Ledger, spec: SourceSpec) -> None:
        self._ledger = ledger
        self._erasure_id = spec.erasure or ""
        self.selected: tuple[str, ...] = (PLACE, *KNOWN_BY)

    def describe(self, *, total: bool) -> Description:
        people = self._ledger.erasures.people(self._erasure_id)
        if people is None:
            raise SourceRefused(f"The ledger has no erasure {self._erasure_id!r}.")
        return Description((PLACE, *KNOWN_BY), people if total else None, total)

    @contextmanager
    def open(
        self, columns: Sequence[str], after: str | None, upto: str | None = None
    ) -> Iterator[_Reader]:
        self.selected = (PLACE, *(c for c in columns or KNOWN_BY if c != PLACE))
        yield _Reader(self._ledger, self._erasure_id, self.selected, after, upto)

    def interrupt(self) -> None:
        """Nothing waits long here: a page is one short query."""


class _Reader:
    def __init__(
        self, ledger: Ledger, erasure_id: str, columns: tuple[str, ...],
        after: str | None, upto: str | None,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._erasure_id = erasure_id
        self._columns = columns
        self._after = int(after or 0)
        self._upto = None if upto is None else int(upto)

    def read(self, rows: int) -> Block | None:
        page = self._ledger.erasures.page(self._erasure_id, self._after, self._upto, rows)
        if not page:
            return None
        self._after = page[-1][0]
        # Numbers and hex alone: nothing in it that CSV would have to quote.
        lines = (
            ",".join([str(place), *(digests.get(c, "") for c in self._columns[1:])])
            for place, digests in page
        )
        data = "".join(f"{line}\n" for line in lines).encode()
        return Block(data, len(page), str(self._after), self._columns)
