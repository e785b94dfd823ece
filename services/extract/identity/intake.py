from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity import phone
from services.extract.identity.digest import HEX, from_hex, sha256
from services.extract.identity.member import Members, Rules
from services.extract.identity.numbering import PLANS
from services.extract.identity.text import (
    lower,
    matches,
    null_where,
    over_distinct,
    prefixed,
    present,
)

Clean = Callable[[pa.StringArray], pa.StringArray]
Plain = tuple[pa.StringArray, pa.BooleanArray | None]

ALPHA2 = pa.array(PLANS)


class Intake:
    """One batch on its way to a platform: its columns, read by the rules, and what was unusable.

    Each reading method is called once per column, or the column's unusable values count twice.
    A column that the source lacks reads as None.
    """

    def __init__(self, rows: pa.RecordBatch, rules: Rules) -> None:
        self._rows = rows
        self._rules = rules
        self._unusable: dict[str, int] = {}

    def has(self, *names: str) -> bool:
        return set(names) <= set(self._rows.schema.names)

    def text(self, name: str) -> pa.StringArray | None:
        """Trimmed, and NULL where empty."""
        if not self.has(name):
            return None
        return present(self._rows.column(name))

    def email(self, clean: Clean) -> pa.FixedSizeBinaryArray | None:
        return self._counted("email", "not an e-mail address", lambda plain: sha256(clean(plain)))

    def phone(self, prefix: str) -> pa.FixedSizeBinaryArray | None:
        without_code = 0

        def digests(plain: pa.StringArray) -> pa.FixedSizeBinaryArray:
            nonlocal without_code
            found = phone.international(plain, self.countries)
            without_code = found.without_code
            return sha256(prefixed(prefix, found.numbers) if prefix else found.numbers)

        hashed = self._counted("phone", "not a phone number", digests)
        self._count("phone: no country code", without_code)
        self._count("phone: not a phone number", -without_code)
        return hashed

    def word(self, name: str, clean: Clean) -> pa.FixedSizeBinaryArray | None:
        """A column whose values repeat: names and places."""
        return self._counted(
            name,
            "no letters",
            lambda plain: over_distinct(plain, lambda distinct: sha256(clean(distinct))),
        )

    def postal_code(
        self, clean: Callable[[pa.StringArray, pa.StringArray | None], pa.StringArray]
    ) -> pa.FixedSizeBinaryArray | None:
        return self._counted(
            "postal_code",
            "not a postal code",
            lambda plain: over_distinct(clean(plain, self.countries), sha256),
        )

    def country(self) -> pa.FixedSizeBinaryArray | None:
        if self.countries is None:
            return None
        digests = over_distinct(self.countries, lambda distinct: sha256(lower(distinct)))
        raw, ready = self.text("country"), self._country[1]
        if raw is None or ready is None:
            return digests
        return pc.replace_with_mask(digests, ready, from_hex(raw.filter(ready)))

    @property
    def countries(self) -> pa.StringArray | None:
        """Alpha-2 in capitals: the default where a row says nothing, NULL where it errs."""
        return self._country[0]

    @cached_property
    def _country(self) -> tuple[pa.StringArray | None, pa.BooleanArray | None]:
        default = self._rules.default_country
        raw = self.text("country")
        if raw is None:
            return (pa.repeat(default, self._rows.num_rows) if default else None), None
        plain, ready = self._plain("country", raw)
        capitals = pc.ascii_upper(plain)
        nonsense = pc.and_(capitals.is_valid(), pc.invert(pc.is_in(capitals, ALPHA2)))
        self._count("country: not an ISO alpha-2 code", pc.sum(nonsense).as_py() or 0)
        if default:
            capitals = pc.fill_null(capitals, default)
        return null_where(capitals, nonsense), ready

    def members(self, columns: dict[str, pa.Array | None], usable: pa.BooleanArray) -> Members:
        made = {name: column for name, column in columns.items() if column is not None}
        batch = pa.record_batch(made).filter(usable) if made else pa.record_batch({})
        skipped = self._rows.num_rows - batch.num_rows
        return Members(
            batch=batch,
            rows=self._rows.num_rows,
            skipped={"no usable identifier": skipped} if skipped else {},
            unusable={reason: count for reason, count in self._unusable.items() if count},
        )

    def given(self, *columns: pa.Array | None) -> pa.BooleanArray:
        """Where all of the columns have a value."""
        found = pa.repeat(True, self._rows.num_rows)
        for column in columns:
            if column is None:
                return pa.repeat(False, self._rows.num_rows)
            found = pc.and_(found, column.is_valid())
        return found

    def _counted(
        self,
        name: str,
        reason: str,
        digests: Callable[[pa.StringArray], pa.FixedSizeBinaryArray],
    ) -> pa.FixedSizeBinaryArray | None:
        raw = self.text(name)
        if raw is None:
            return None
        plain, ready = self._plain(name, raw)
        hashed = digests(plain)
        if ready is not None:
            hashed = pc.replace_with_mask(hashed, ready, from_hex(raw.filter(ready)))
        self._count(f"{name}: {reason}", hashed.null_count - raw.null_count)
        return hashed

    def _plain(self, name: str, raw: pa.StringArray) -> Plain:
        """The values that want hashing, and where those are that are hashes already."""
        if name not in self._rules.prehashed:
            return raw, None
        ready = pc.fill_null(matches(raw, HEX), fill_value=False)
        return null_where(raw, ready), ready

    def _count(self, reason: str, count: int) -> None:
        self._unusable[reason] = self._unusable.get(reason, 0) + count
