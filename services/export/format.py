"""What a format's module offers. A new format is one file that does this and one line in
`formats/__init__.py`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from penstock.payloads import Payload


class Format(Protocol):
    """Turns batches into pieces of one file; the pieces in order are the file."""

    content_type: ClassVar[str]

    def head(self, columns: list[str]) -> bytes:
        """What stands before the first row, in a file without rows too."""
        ...

    def rows(self, payload: Payload) -> bytes: ...
