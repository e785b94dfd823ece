"""The claim check: a batch's payload lies in Redis under its ids, and messages carry the ids alone.

One Redis hash a batch, one field a *view* (the form of the rows that a kind of lane reads). A
field goes when the lanes that read it have settled; the hash expires by itself whatever happens.
A payload may be missing at any time: the ledger knows the source range it came from.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import redis

from penstock.errors import PayloadKeyError, PayloadsUnreachableError

_HEAD = struct.Struct("<4sBI")
_MAGIC = b"PSTK"
_PLAIN, _SEALED = 1, 2
EXPIRE_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Payload:
    """Rows of one batch in one view."""

    body: bytes
    #: What the reader must know: form, rows, and what was left out on the way. Figures only.
    about: dict[str, Any] = field(default_factory=dict)


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Payloads:
    def __init__(self, url: str, key: str | None = None) -> None:
        self._redis = redis.Redis.from_url(
            redis_url(url), socket_timeout=60, socket_connect_timeout=10, health_check_interval=30
        )
        self._cipher = _cipher(key) if key else None

    def put(self, job_id: str, epoch: int, seq: int, views: dict[str, Payload]) -> int:
        """Write a batch's payloads; returns their size in Redis."""
        name = _name(job_id, epoch, seq)
        sealed: dict[Any, Any] = {
            view: self._seal(name, view, payload) for view, payload in views.items()
        }
        if sealed:
            with answering(), self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(name, mapping=sealed)
                pipe.expire(name, EXPIRE_SECONDS)
                pipe.execute()
        return sum(map(len, sealed.values()))

    def take(self, job_id: str, epoch: int, seq: int, view: str) -> Payload | None:
        """The payload, or None where Redis lost it. Taking does not remove it."""
        name = _name(job_id, epoch, seq)
        with answering():
            # redis-py types an async answer into every command.
            data: bytes | None = self._redis.hget(name, view)  # type: ignore[assignment]
        return None if data is None else self._open(name, view, data)

    def drop(self, job_id: str, epoch: int, seq: int, *views: str) -> None:
        self._redis.hdel(_name(job_id, epoch, seq), *views)

    def clear(self, job_id: str) -> int:
        """Delete all that a job left, what a killed worker put and never recorded included."""
        names = list(self._redis.scan_iter(match=_name(job_id, "*", "*"), count=1000))
        for start in range(0, len(names), 500):
            self._redis.unlink(*names[start : start + 500])
        return len(names)

    def close(self) -> None:
        self._redis.close()

    def _seal(self, name: str, view: str, payload: Payload) -> bytes:
        about = json.dumps(payload.about, separators=(",", ":")).encode()
        if self._cipher is None:
            return b"".join((_HEAD.pack(_MAGIC, _PLAIN, len(about)), about, payload.body))
        nonce = os.urandom(12)
        # Bound to its place: a sealed payload copied under another name does not open.
        where = f"{name}/{view}".encode()
        plain = b"".join((struct.pack("<I", len(about)), about, payload.body))
        sealed = self._cipher.encrypt(nonce, plain, where)
        return b"".join((_HEAD.pack(_MAGIC, _SEALED, len(nonce)), nonce, sealed))

    def _open(self, name: str, view: str, data: bytes) -> Payload:
        whole = len(data) >= _HEAD.size
        magic, form, size = _HEAD.unpack_from(data) if whole else (b"", 0, 0)
        if magic != _MAGIC or form not in (_PLAIN, _SEALED):
            raise PayloadKeyError("A payload in Redis is not of this release's form.")
        rest = memoryview(data)[_HEAD.size :]
        if form == _SEALED:
            if self._cipher is None:
                raise PayloadKeyError("A payload is encrypted and this worker has no key for it.")
            try:
                plain = self._cipher.decrypt(
                    bytes(rest[:size]), bytes(rest[size:]), f"{name}/{view}".encode()
                )
            except Exception:  # noqa: BLE001 - cryptography's InvalidTag is known only where it is installed
                raise PayloadKeyError(
                    "A payload was encrypted with another PENSTOCK_PAYLOAD_KEY than this worker's."
                ) from None
            rest = memoryview(plain)
            (size,) = struct.unpack_from("<I", rest)
            rest = rest[4:]
        about = json.loads(bytes(rest[:size]))
        return Payload(bytes(rest[size:]), about)


@contextmanager
def answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as exc:
        raise PayloadsUnreachableError(
            f"The Redis that holds the payloads does not answer, or is full ({type(exc).__name__})."
        ) from None


def redis_url(url: str) -> str:
    """kombu writes a unix socket as redis+socket://, redis-py as unix://."""
    if url.startswith("redis+socket://"):
        rest = url.removeprefix("redis+socket://")
        path, _, query = rest.partition("?")
        db = next((p[13:] for p in query.split("&") if p.startswith("virtual_host=")), "0")
        return f"unix://{path}?db={db.strip('/') or '0'}"
    return url


def _name(job_id: str, epoch: int | str, seq: int | str) -> str:
    return f"penstock:payload:{job_id}:{epoch}:{seq}"


def _cipher(key: str) -> _Cipher:
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise PayloadKeyError from None
    if len(raw) != 32:  # noqa: PLR2004 - AES-256
        raise PayloadKeyError
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra

    return AESGCM(raw)
