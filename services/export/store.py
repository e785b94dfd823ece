"""The object store of an export: one S3 object, written in parts, read back, linked.

Every failure is a verdict in our own words. A call may take minutes where a store stalls (sixty
seconds an attempt, four attempts), so whoever holds a lease renews it beside these calls.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from botocore.exceptions import ClientError

from penstock.connections import S3Connection
from services.export.store_client import clients, seconds_within
from services.export.store_errors import UploadGone, in_our_words, is_denied, status_of
from services.runtime.verdicts import Retryable

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Store", "UploadGone", "check"]

_BLOCK = 1024 * 1024
_RESUMES_WITHOUT_PROGRESS = 4
_NOT_FOUND = 404


class S3Store:
    """Threads may share it. Building it makes no call: what is wrong shows with the first one."""

    def __init__(self, connection: S3Connection) -> None:
        self._connection = connection

    def begin(
        self,
        bucket: str,
        key: str,
        *,
        content_type: str,
        content_encoding: str | None = None,
        disposition: str | None = None,
    ) -> str:
        """Give the id of a new multipart upload.

        After a lost answer there may be a second one that nobody knows of: a lifecycle rule of the
        bucket is what ends those.
        """
        headers = _headers(content_type, content_encoding, disposition)
        with self._speaking(bucket) as s3:
            answer = s3.create_multipart_upload(Bucket=bucket, Key=key, **headers)
        return _told(answer, "UploadId")

    def put_part(
        self, bucket: str, key: str, upload_id: str, number: int, body: bytes | memoryview
    ) -> str:
        """Give the part's ETag. The same number again replaces the part."""
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        with self._speaking(bucket) as s3:
            answer = s3.upload_part(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=_sendable(body),
                ContentMD5=base64.b64encode(md5).decode(),
            )
        _confirm(answer, md5)
        return _told(answer, "ETag")

    def parts(self, bucket: str, key: str, upload_id: str) -> dict[int, str]:
        """Give the ETag of every part that the store has."""
        with self._speaking(bucket) as s3:
            pages = s3.get_paginator("list_parts").paginate(
                Bucket=bucket, Key=key, UploadId=upload_id
            )
            parts: dict[int, str] = {}
            for page in pages:
                _told(page, "UploadId")  # an empty answer is not an empty upload
                parts |= {part["PartNumber"]: part["ETag"] for part in page.get("Parts", ())}
        return parts

    def complete(self, bucket: str, key: str, upload_id: str, parts: dict[int, str]) -> None:
        """Make the object. UploadGone may mean that it was made before: `size` tells."""
        listed = [{"PartNumber": number, "ETag": parts[number]} for number in sorted(parts)]
        with self._speaking(bucket) as s3:
            # An error inside a 200 comes out of botocore as an error.
            answer = s3.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},  # type: ignore[typeddict-item]
            )
        # botocore takes a 200 whose body was lost on the way for a success.
        _told(answer, "ETag")

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Drop the upload and its parts. A part on its way may outlive it: abort again."""
        try:
            with self._speaking(bucket) as s3:
                s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        except UploadGone:
            pass

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes | memoryview,
        *,
        content_type: str,
        content_encoding: str | None = None,
        disposition: str | None = None,
    ) -> None:
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        headers = _headers(content_type, content_encoding, disposition)
        with self._speaking(bucket) as s3:
            answer = s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=_sendable(body),
                ContentMD5=base64.b64encode(md5).decode(),
                **headers,
            )
        _confirm(answer, md5)

    def size(self, bucket: str, key: str) -> int | None:
        """None where the object is not there; a bucket that is not there looks the same."""
        with self._speaking(bucket) as s3:
            try:
                return s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
            except ClientError as exc:
                if status_of(exc) == _NOT_FOUND:
                    return None
                raise

    def digest(
        self, bucket: str, key: str, on_block: Callable[[], None] | None = None
    ) -> tuple[int, str]:
        """Read the object back as the store holds it: its bytes and SHA-256 in hex.

        `on_block` is called after each block, and what it raises ends the reading.
        """
        total, sha = 0, hashlib.sha256()
        with closing(self._blocks(bucket, key)) as blocks:
            for block in blocks:
                sha.update(block)
                total += len(block)
                if on_block is not None:
                    on_block()
        return total, sha.hexdigest()

    def link(self, bucket: str, key: str, seconds: int) -> tuple[str, str]:
        """Give a link that needs no credentials, and when it ends (ISO 8601, UTC).

        That is sooner than asked where the credentials that sign it end sooner.
        """
        s3, credentials = clients.of(self._at_home(bucket))
        with in_our_words(bucket):
            url = s3.generate_presigned_url(
                "get_object",
                Params={"Bucket": bucket, "Key": key},
                ExpiresIn=seconds_within(credentials, seconds),
            )
        query = parse_qs(urlsplit(url).query)
        signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return url, (signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))).isoformat()

    @contextmanager
    def _speaking(self, bucket: str) -> Iterator[S3Client]:
        with in_our_words(bucket):
            yield clients.of(self._connection).s3

    def _at_home(self, bucket: str) -> S3Connection:
        """Give the connection with the bucket's own region.

        Requests are redirected there, but a link that was signed for another region is not valid.
        """
        with self._speaking(bucket) as s3:
            try:
                meta: Mapping[str, Any] = s3.head_bucket(Bucket=bucket)["ResponseMetadata"]
            except ClientError as exc:
                if not is_denied(exc):
                    raise
                meta = exc.response["ResponseMetadata"]  # it tells the region all the same
            region = meta["HTTPHeaders"].get("x-amz-bucket-region")
        if region in (None, s3.meta.region_name):
            return self._connection
        return self._connection.model_copy(update={"region": region})

    def _blocks(self, bucket: str, key: str) -> Generator[bytes]:
        """Give the object's bytes, going on where a connection broke.

        An empty block is a sign of life: what a store without Range sends a second time.
        """
        done, version, futile = 0, "", 0
        while True:
            body, version, begin = self._open(bucket, key, done, version)
            again = done - begin
            try:
                while block := _read(body, bucket):
                    fresh = block[again:]
                    again -= len(block) - len(fresh)
                    if fresh:
                        done, futile = done + len(fresh), 0
                    yield fresh
            except Retryable:
                futile += 1
                if futile > _RESUMES_WITHOUT_PROGRESS:
                    raise
            else:
                return
            finally:
                body.close()

    def _open(
        self, bucket: str, key: str, begin: int, version: str
    ) -> tuple[StreamingBody, str, int]:
        """Give the object from `begin` on: its stream, its version, where it begins in truth."""
        with self._speaking(bucket) as s3:
            if begin:
                answer = s3.get_object(
                    Bucket=bucket, Key=key, Range=f"bytes={begin}-", IfMatch=version
                )
            else:
                answer = s3.get_object(Bucket=bucket, Key=key)
        place = re.match(r"bytes (\d+)-", answer.get("ContentRange", ""))
        begins = int(place[1]) if place else 0
        # There are stores that ignore If-Match.
        if begin and (answer.get("ETag") != version or begins > begin):
            answer["Body"].close()
            raise Retryable("The object changed while it was read.")
        return answer["Body"], _told(answer, "ETag"), begins


def check(connection: S3Connection) -> str:
    """Find out whether the store answers and knows the credentials: a sentence, or a verdict."""
    with in_our_words(None):
        try:
            buckets = clients.of(connection).s3.list_buckets().get("Buckets", [])
        except ClientError as exc:
            if not is_denied(exc):
                raise
            return (
                "The store answers. These credentials may not list buckets, which no export needs; "
                "whether they may write to a job's bucket is not known from here."
            )
    return f"Signed in; {len(buckets)} bucket{'' if len(buckets) == 1 else 's'} in sight."


def _headers(
    content_type: str, content_encoding: str | None, disposition: str | None
) -> dict[str, Any]:
    headers = {
        "ContentType": content_type,
        "ContentEncoding": content_encoding,
        "ContentDisposition": disposition,
    }
    return {name: value for name, value in headers.items() if value is not None}


def _sendable(body: bytes | memoryview) -> Any:
    """botocore takes no memoryview, and a part is too large to copy."""
    return body if isinstance(body, bytes) else io.BufferedReader(_View(body.cast("B")))


class _View(io.RawIOBase):
    """A memoryview as a file, seekable because a retry sends it again."""

    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self._view = view
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self._view)}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        chunk = self._view[self._place : self._place + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._place += len(chunk)
        return len(chunk)


def _told(answer: Mapping[str, Any], name: str) -> str:
    """What the answer must say; one that was lost on the way says nothing and looks well."""
    if not answer.get(name):
        raise Retryable("The store's answer was cut short or garbled.")
    return str(answer[name])


def _confirm(answer: Mapping[str, Any], md5: bytes) -> None:
    """Compare the ETag where it is an MD5: with a key of KMS or the customer's it only looks so."""
    etag = _told(answer, "ETag").strip('"')
    by_key = answer.get("ServerSideEncryption", "AES256") != "AES256"
    if by_key or "SSECustomerAlgorithm" in answer or not re.fullmatch(r"[0-9a-f]{32}", etag):
        return
    if etag != md5.hex():
        raise Retryable("What arrived at the store is not what was sent.")


def _read(body: StreamingBody, bucket: str) -> bytes:
    with in_our_words(bucket):
        return body.read(_BLOCK)
