"""connections.toml: the credentials that a job only names. They stay with the workers.

The file is checked as a whole when it is loaded; the variables and files that a table asks for are
read when its connection is first used, so that a worker needs its own credentials alone.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from penstock.connection_kinds import (
    KINDS,
    Connection,
    DataManagerConnection,
    GoogleAdsConnection,
    HttpConnection,
    MetaConnection,
    PostgresConnection,
    PythonConnection,
    S3Connection,
    StripeConnection,
    TokenConnection,
)
from penstock.contract import JobSpec
from penstock.errors import ConnectionsError, SpecError

__all__ = [
    "KINDS", "Connection", "Connections", "DataManagerConnection", "GoogleAdsConnection",
    "HttpConnection", "MetaConnection", "PostgresConnection", "PythonConnection", "S3Connection",
    "StripeConnection", "TokenConnection",
]  # fmt: skip

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class _Table:
    """A table as it is written: nothing of it is filled in."""

    where: str
    model: type[Connection]
    values: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.values["kind"])

    def check(self) -> None:
        """Raise a ConnectionsError where it is wrong whatever is filled in."""
        later = set()
        plain: dict[str, Any] = {}
        for key, value in self.values.items():
            name = self._field(key)
            plain[name] = value
            if name != key or (isinstance(value, str) and _VARIABLE.search(value)):
                later.add(name)
        self._validated(plain, later)

    def filled(self) -> Connection:
        values: dict[str, Any] = {}
        for key, value in self.values.items():
            name = self._field(key)
            if name != key:
                values[name] = self._from_file(key, str(value))
            else:
                values[name] = self._from_variables(value) if isinstance(value, str) else value
        # Nothing is left for later, so this either raises or returns one.
        return cast(Connection, self._validated(values, set()))

    def _field(self, key: str) -> str:
        """The field that a key gives: `url_file` is where `url` is to be read."""
        if key.endswith("_file") and key not in self.model.model_fields:
            return key.removesuffix("_file")
        return key

    def _validated(self, values: dict[str, Any], later: set[str]) -> Connection | None:
        """None where only what is still to be filled in does not fit."""
        fields = self.model.model_fields
        try:
            return self.model.model_validate(values)
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_input=False, include_context=False)
        known = (
            e for e in errors
            if e["type"] == "extra_forbidden" or not later.intersection(map(str, e["loc"][:1]))
        )  # fmt: skip
        error = next(known, None)
        if error is None:
            return None
        field = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            hint = _nearest(field, fields)
            raise ConnectionsError(f"{self.where} has an unknown key {field!r}{hint}.")
        if error["type"] == "missing":
            raise ConnectionsError(f"{self.where} has no {field!r}, which is needed.")
        text = error["msg"].removeprefix("Value error, ")
        raise ConnectionsError(f"{self.where}{f': {field}' if field else ''} {text}.")

    def _from_file(self, key: str, path: str) -> str:
        at = f"{self.where}: `{key}`"
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise ConnectionsError(f"{at} cannot be read: {exc.strerror}.") from None
        except UnicodeDecodeError:
            raise ConnectionsError(f"{at} names a file that is not UTF-8 text.") from None

    def _from_variables(self, value: str) -> str:
        def fill(match: re.Match[str]) -> str:
            # Beside the settings, the one place that reads the environment: the file names it.
            found = os.environ.get(match[1])
            if found is None:
                raise ConnectionsError(
                    f"{self.where} wants the variable {match[1]}, which is not set."
                )
            return found

        return _VARIABLE.sub(fill, value)


class Connections:
    def __init__(self, tables: dict[str, _Table], path: Path) -> None:
        self._tables = tables
        self._path = path
        self._filled: dict[str, Connection] = {}

    @classmethod
    def load(cls, path: Path | None) -> Connections:
        if path is None:
            raise ConnectionsError(
                "PENSTOCK_CONNECTIONS is not set: it is the path of connections.toml."
            )
        return cls(_tables_of(path), path)

    def get(self, name: str, *kinds: str) -> Connection:
        """The connection of that name, of one of the kinds where any is told, with its variables
        and files filled in. A SpecError where there is none, a ConnectionsError where it cannot be
        filled in.
        """
        table = self._named(name, *kinds)
        if name not in self._filled:
            self._filled[name] = table.filled()
        return self._filled[name]

    def of_kind(self, *kinds: str) -> dict[str, str]:
        """Name and kind of those that are of one of the kinds."""
        return {name: t.kind for name, t in self._tables.items() if t.kind in kinds}

    def check(self, spec: JobSpec) -> None:
        """Raise a SpecError where the spec names what is not there or is of another kind. Nothing
        is filled in for that: whoever checks need not have the credentials.
        """
        if spec.source.erasure is None:
            self._check_source(spec.source.connection)
        for destination in spec.destinations:
            self._named(destination.connection, destination.kind)

    def _check_source(self, name: str) -> None:
        source = self._named(name)
        if not source.model.is_source:
            because = source.model.no_source_because
            raise SpecError(
                f"Connection {name!r} ({source.kind}) cannot be a source"
                f"{f': {because}' if because else ''}."
            )

    def _read_again(self) -> dict[str, _Table]:
        """A connection may have been added since the worker started. Those that were there stay as
        they were: a worker does not change its credentials in the middle of a job.
        """
        # One that cannot be read any more stays as it was at the start.
        with suppress(ConnectionsError):
            self._tables = _tables_of(self._path) | self._tables
        return self._tables

    def _named(self, name: str, *kinds: str) -> _Table:
        found = self._tables.get(name) or self._read_again().get(name)
        if found is None:
            hint = _nearest(name, self._tables, "; did you mean {!r}?") or "."
            raise SpecError(f"There is no connection {name!r} in {self._path.name}{hint}")
        if kinds and found.kind not in kinds:
            raise SpecError(
                f"Connection {name!r} is of kind {found.kind!r}, "
                f"and {' or '.join(kinds)} is needed."
            )
        return found


def _tables_of(path: Path) -> dict[str, _Table]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConnectionsError(f"{path} cannot be read: {exc.strerror}.") from None
    except UnicodeDecodeError:
        raise ConnectionsError(f"{path} cannot be read: it is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConnectionsError(f"{path} is not valid TOML: {exc}.") from None
    return {name: _table(path, name, table) for name, table in document.items()}


def _table(path: Path, name: str, values: Any) -> _Table:
    where = f"{path.name}, [{name}]"
    if not isinstance(values, dict):
        raise ConnectionsError(f"{where} must be a table with a `kind`.")
    model = KINDS.get(str(values.get("kind")))
    if model is None:
        raise ConnectionsError(
            f"{where} has {'the unknown' if 'kind' in values else 'no'} `kind`; "
            f"known are {', '.join(KINDS)}."
        )
    table = _Table(where, model, values)
    table.check()
    return table


def _nearest(name: str, known: Iterable[str], words: str = " (did you mean {!r}?)") -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return words.format(close[0]) if close else ""
