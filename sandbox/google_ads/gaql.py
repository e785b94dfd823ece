"""The part of the Google Ads Query Language a Customer Match upload needs, parsed in earnest:
SELECT fields FROM resource WHERE field = value AND ... LIMIT n. All else is a QueryError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandbox.google_ads.failures import Refused, refused

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'[^'\n]*'|"[^"\n]*")
      | (?P<open>['"])
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<operator>!=|<=|>=|=|<|>)
      | (?P<mark>[,()])
      | (?P<other>\S)
    )""",
    re.VERBOSE,
)
_OTHER_OPERATORS = {"IN", "NOT", "LIKE", "CONTAINS", "BETWEEN", "DURING", "IS", "REGEXP_MATCH"}


@dataclass(frozen=True)
class Value:
    text: str
    kind: str
    """string, number or word, as it was written."""


@dataclass(frozen=True)
class Query:
    fields: tuple[str, ...]
    resource: str
    conditions: tuple[tuple[str, Value], ...]
    limit: int | None


def query_refused(code: str, message: str) -> Refused:
    return refused(f"query_error.{code}", message)


def parse(text: str) -> Query:
    return _Parser(text).query()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def query(self) -> Query:
        self._keyword("SELECT", "EXPECTED_SELECT")
        fields = [self._word("BAD_FIELD_NAME")]
        while self._skip(","):
            fields.append(self._word("BAD_FIELD_NAME"))
        self._keyword("FROM", "EXPECTED_FROM")
        resource = self._word("BAD_RESOURCE_TYPE_IN_FROM_CLAUSE")
        conditions = []
        if self._skip("WHERE"):
            conditions.append(self._condition())
            while self._skip("AND"):
                conditions.append(self._condition())
        limit = self._limit() if self._skip("LIMIT") else None
        if self._at < len(self._tokens):
            raise query_refused("UNEXPECTED_INPUT", "The query goes on after its end.")
        return Query(tuple(fields), resource, tuple(conditions), limit)

    def _condition(self) -> tuple[str, Value]:
        field = self._word("BAD_FIELD_NAME")
        kind, text = self._next()
        if kind != "operator" and text.upper() not in _OTHER_OPERATORS:
            raise query_refused("BAD_OPERATOR", "A field is followed by an operator.")
        if text != "=":
            raise query_refused("BAD_OPERATOR", "The sandbox compares with = alone.")
        kind, text = self._next()
        if kind == "string":
            return field, Value(text[1:-1], kind)
        if kind in ("number", "word"):
            return field, Value(text, kind)
        raise query_refused("BAD_VALUE", "A condition ends with one value.")

    def _limit(self) -> int:
        kind, text = self._next()
        if kind != "number" or not text.isdigit() or int(text) < 1:
            raise query_refused("BAD_LIMIT_VALUE", "A limit is a whole number from 1.")
        return int(text)

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise query_refused("UNEXPECTED_END_OF_QUERY", "The query ends too early.")
        self._at += 1
        return self._tokens[self._at - 1]

    def _word(self, code: str) -> str:
        kind, text = self._next()
        if kind != "word":
            raise query_refused(code, "A name was expected.")
        return text

    def _keyword(self, keyword: str, code: str) -> None:
        if not self._skip(keyword):
            raise query_refused(code, f"{keyword} was expected.")

    def _skip(self, expected: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at][1].upper() == expected:
            self._at += 1
            return True
        return False


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "open":
            raise query_refused("STRING_NOT_TERMINATED", "A string has no end.")
        if kind == "other":
            raise query_refused("BAD_SYMBOL", "The query has a symbol that means nothing.")
        tokens.append((kind, match[kind]))
    return tokens
