from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.extract.identity import birth, phone
from services.extract.identity.consent import Consents
from services.extract.identity.device import advertising_id
from services.extract.identity.digest import HEX, from_hex, sha256
from services.extract.identity.member import Members, Rules
from services.extract.identity.numbering import PLANS
from services.extract.identity.rejects import Rejects
from services.extract.identity.text import (
    lower,
    matches,
    null_where,
    over_distinct,
    prefixed,
    present,
)

Clean = Callable[[pa.StringArray], pa.StringArray]
Place = Callable[[pa.StringArray, pa.StringArray | None], pa.StringArray]
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
        self._rejects = Rejects()

    def has(self, *names: str) -> bool:
        return set(names) <= set(self._rows.schema.names)

    def text(self, name: str) -> pa.StringArray | None:
        """Trimmed, and NULL where empty."""
        if not self.has(name):
            return None
        return present(self._rows.column(name))

    def email(self, clean: Clean) -> pa.FixedSizeBinaryArray | None:
        return self._hashed("email", "not an e-mail address", lambda plain: sha256(clean(plain)))

    def phone(self, prefix: str) -> pa.FixedSizeBinaryArray | None:
        raw = self.text("phone")
        if raw is None:
            return None
        plain, ready = self._plain("phone", raw)
        found = phone.international(plain, self.countries)
        hashed = sha256(prefixed(prefix, found.numbers) if prefix else found.numbers)
        hashed = _with_ready(hashed, raw, ready)
        self._rejects.values("phone", "no country code", found.without_code)
        known = null_where(raw, pc.fill_null(found.without_code, fill_value=False))
        self._lost("phone", "not a phone number", known, hashed)
        return hashed

    def word(
        self, name: str, clean: Clean, reason: str = "no letters"
    ) -> pa.FixedSizeBinaryArray | None:
        """A column whose values repeat: names and genders."""
        return self._hashed(
            name,
            reason,
            lambda plain: over_distinct(plain, lambda distinct: sha256(clean(distinct))),
        )

    def place(self, name: str, reason: str, clean: Place) -> pa.FixedSizeBinaryArray | None:
        """A column whose normal form hangs on the row's country."""
        return self._hashed(
            name, reason, lambda plain: over_distinct(clean(plain, self.countries), sha256)
        )

    def birth(self) -> dict[str, pa.FixedSizeBinaryArray]:
        """The parts of a date of birth, each hashed by itself."""
        raw = self.text("date_of_birth")
        if raw is None:
            return {}
        dates = over_distinct(raw, birth.dates)
        self._lost("date_of_birth", "not an ISO date since 1900", raw, dates)
        return {name: over_distinct(part, sha256) for name, part in birth.parts(dates).items()}

    def mobile_ad_id(self) -> pa.StringArray | None:
        """In clear: platforms take these ids unhashed, and a hash of one as none."""
        raw = self.text("mobile_ad_id")
        if raw is None:
            return None
        ids = advertising_id(raw)
        self._lost("mobile_ad_id", "not an advertising id", raw, ids)
        return ids

    def country(self) -> pa.FixedSizeBinaryArray | None:
        if self.countries is None:
            return None
        digests = over_distinct(self.countries, lambda distinct: sha256(lower(distinct)))
        raw, ready = self.text("country"), self._country[1]
        return digests if raw is None else _with_ready(digests, raw, ready)

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
        self._rejects.values("country", "not an ISO alpha-2 code", nonsense)
        if default:
            capitals = pc.fill_null(capitals, default)
        return null_where(capitals, nonsense), ready

    def members(
        self,
        columns: dict[str, pa.Array | None],
        usable: pa.BooleanArray,
        *,
        platform_takes_consent: bool,
    ) -> Members:
        count = self._rows.num_rows
        made = {name: column for name, column in columns.items() if column is not None}
        made["row"] = pa.array(np.arange(count, dtype=np.uint32))
        if self.has("row_key"):
            made["row_key"] = _without_addresses(self._rows.column("row_key"))
        consents = Consents(self._rows, self._rules)
        if platform_takes_consent and (codes := consents.codes) is not None:
            made["consent"] = codes

        kept = pa.repeat(True, count)
        refusals = consents.refusals(platform_takes_it=platform_takes_consent)
        for reason, field, where in (*refusals, ("no usable identifier", "", pc.invert(usable))):
            self._rejects.rows(reason, pc.and_(kept, where), field)
            kept = pc.and_not(kept, where)
        batch = pa.record_batch(made)
        rejects = self._rejects.first()
        return Members(
            batch=batch if kept.true_count == count else batch.filter(kept),
            rows=count,
            skipped=self._rejects.skipped,
            unusable=self._rejects.unusable,
            rejects=rejects,
            keys=_keys(made.get("row_key"), {place for place, *_ in rejects}),
        )

    def given(self, *columns: pa.Array | None) -> pa.BooleanArray:
        """Where all of the columns have a value."""
        found = pa.repeat(True, self._rows.num_rows)
        for column in columns:
            if column is None:
                return pa.repeat(False, self._rows.num_rows)
            found = pc.and_(found, column.is_valid())
        return found

    def _hashed(
        self,
        name: str,
        reason: str,
        digests: Callable[[pa.StringArray], pa.FixedSizeBinaryArray],
    ) -> pa.FixedSizeBinaryArray | None:
        raw = self.text(name)
        if raw is None:
            return None
        plain, ready = self._plain(name, raw)
        hashed = _with_ready(digests(plain), raw, ready)
        self._lost(name, reason, raw, hashed)
        return hashed

    def _plain(self, name: str, raw: pa.StringArray) -> Plain:
        """The values that want hashing, and where those are that are hashes already."""
        if name not in self._rules.prehashed:
            return raw, None
        ready = pc.fill_null(matches(raw, HEX), fill_value=False)
        return null_where(raw, ready), ready

    def _lost(self, name: str, reason: str, raw: pa.StringArray, found: pa.Array) -> None:
        if found.null_count > raw.null_count:
            self._rejects.values(name, reason, pc.and_(raw.is_valid(), found.is_null()))


def _with_ready(
    hashed: pa.FixedSizeBinaryArray, raw: pa.StringArray, ready: pa.BooleanArray | None
) -> pa.FixedSizeBinaryArray:
    if ready is None:
        return hashed
    return pc.replace_with_mask(hashed, ready, from_hex(raw.filter(ready)))


def _without_addresses(keys: pa.StringArray) -> pa.StringArray:
    # A key goes where members go, in clear: one that is an e-mail address after all must not.
    return null_where(keys, pc.match_substring(keys, "@"))


def _keys(keys: pa.Array | None, places: set[int]) -> dict[int, str]:
    if keys is None:
        return {}
    found = ((place, keys[place].as_py()) for place in sorted(places))
    return {place: key for place, key in found if key is not None}
