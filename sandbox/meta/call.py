"""One Graph call, however it was written: query, form or JSON, token here or there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from sandbox.meta.errors import GraphError, bad_parameter

_VERSION = re.compile(r"v\d+\.\d+")


@dataclass(frozen=True)
class GraphCall:
    verb: str
    version: str
    path: tuple[str, ...]
    params: Mapping[str, Any]
    token: str

    @classmethod
    def read(
        cls, verb: str, target: str, headers: Message | Mapping[str, str], body: bytes
    ) -> GraphCall:
        """Read a call; a `method` parameter outranks the verb, and the body the query."""
        url = urlsplit(target)
        version, *path = (unquote(part) for part in url.path.strip("/").split("/"))
        if not _VERSION.fullmatch(version):
            version, path = "", [version, *path]
        params: dict[str, Any] = dict(parse_qsl(url.query, keep_blank_values=True))
        if body:
            params |= _body_params(headers.get("Content-Type") or "", body)
        scheme, _, bearer = (headers.get("Authorization") or "").partition(" ")
        token = params.get("access_token") or (
            bearer if scheme.lower() in ("bearer", "oauth") else ""
        )
        verb = str(params.get("method") or verb).upper()
        return cls(verb, version, tuple(path), params, str(token).strip())

    def json(self, name: str) -> Any:
        """Give a parameter that is JSON: a string of it in a form, itself in a JSON body."""
        value = self.params.get(name)
        if not isinstance(value, str):
            return value
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            # Without its cause: that one quotes what was sent.
            raise bad_parameter(f"Param {name} must be valid JSON") from None

    def names(self, name: str) -> list[str]:
        value = self.params.get(name) or ""
        return [part.strip() for part in str(value).split(",") if part.strip()]


def _body_params(content_type: str, body: bytes) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            params = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise bad_parameter("The body must be valid JSON") from None
        if not isinstance(params, dict):
            raise bad_parameter("The body must be a JSON object")
        return params
    if kind == "application/x-www-form-urlencoded":
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
        except UnicodeDecodeError:
            raise bad_parameter("The body must be UTF-8") from None
    raise GraphError(
        100,
        "(#100) The body must be form-encoded or JSON",
        status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )
