"""What an S3 store's errors mean for an export, in our words.

The store's own may quote keys, urls and signatures, and are never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from services.runtime.verdicts import Fatal, Retryable, Verdict


class UploadGone(Verdict):
    """The multipart upload, or a part of it, is not there (any more): completed by an attempt that
    was killed before it could say so, aborted, or expired by a lifecycle rule.

    The caller decides: where the object is there, it may be adopted; else the upload starts over.
    """


_IS_GONE = {
    "NoSuchUpload": "The multipart upload is no longer there: completed, aborted or expired.",
    "InvalidPart": "The store does not have a part of the upload as it was sent.",
}
# `{bucket}` is filled in. The last resort for a code that is not here is its status.
_IS_FATAL = {
    "NoSuchBucket": "There is no bucket {bucket} in this store: create it, or correct `bucket`.",
    "InvalidBucketName": "No bucket can have the name {bucket}: correct `bucket`.",
    "NoSuchKey": "The object is not in bucket {bucket}.",
    "KeyTooLongError": "`key` is longer than the store takes (S3: 1,024 bytes).",
    "EntityTooSmall": "A part other than the last is smaller than the store takes (S3: 5 MiB).",
    "EntityTooLarge": "A part or object is larger than the store takes (S3: 5 GiB in one request).",
    "InvalidAccessKeyId": "Cannot sign in: the store does not know the access key.",
    "SignatureDoesNotMatch": "Cannot sign in: the secret access key is wrong.",
    "InvalidToken": "Cannot sign in: the session token is wrong.",
    "ExpiredToken": "Cannot sign in: the session token has expired.",
    "AuthorizationHeaderMalformed": "Cannot sign in: the `region` is wrong for bucket {bucket}.",
    "PermanentRedirect": "Bucket {bucket} is in another region: correct `region`.",
    "InvalidObjectState": "The object in bucket {bucket} is archived and cannot be read.",
    "NotImplemented": "The store does not offer what an export needs ({code}).",
}
_IS_RETRYABLE = {
    "BadDigest": "What arrived at the store is not what was sent.",
    "IncompleteBody": "What arrived at the store is not all that was sent.",
    "XAmzContentSHA256Mismatch": "What arrived at the store is not what was sent.",
    "RequestTimeout": "The store waited too long for the rest of a request.",
    "RequestTimeTooSkewed": "The clocks of this machine and of the store are too far apart.",
    "OperationAborted": "Another request for the same object is under way.",
    "ConditionalRequestConflict": "Another request for the same object is under way.",
    "PreconditionFailed": "The object changed while it was read.",
    "InvalidRange": "The object changed while it was read.",
}
_ASKS_TO_SLOW_DOWN = frozenset({
    "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException",
    "RequestLimitExceeded", "TooManyRequests", "TooManyRequestsException",
    "BandwidthLimitExceeded",
})  # fmt: skip
_OF_HEAD = {
    ("HeadObject", "404"): "NoSuchKey",
    ("HeadBucket", "404"): "NoSuchBucket",
    ("HeadObject", "301"): "PermanentRedirect",
    ("HeadBucket", "301"): "PermanentRedirect",
}
_FORBIDDEN = 403
_TOO_MANY = 429
_SERVER_ERROR = 500
# The 200 is one with an error inside, where botocore gave up on it.
_MAY_PASS = (200, 408)
# A denial on HEAD may stand for a missing object: S3 tells only those who may list.
_PERMISSIONS = {
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "PutObject": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListParts": "s3:ListMultipartUploadParts",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "ListBuckets": "s3:ListAllMyBuckets",
}
_HOPELESS_TLS = {
    "CERTIFICATE_VERIFY_FAILED": "The store's certificate is not trusted.",
    "WRONG_VERSION_NUMBER": "The store does not speak TLS: is `endpoint_url` http, not https?",
}
# The first that fits.
_NO_ANSWER: tuple[tuple[tuple[type[Exception], ...], Callable[[str], Verdict], str], ...] = (
    (
        (boto.NoCredentialsError, boto.PartialCredentialsError),
        Fatal,
        "There are no credentials for this store, neither in the connection nor for boto3 to find.",
    ),
    (
        (boto.CredentialRetrievalError, boto.MetadataRetrievalError),
        Retryable,
        "The credentials for the store could not be fetched.",
    ),
    ((boto.ParamValidationError,), Fatal, "`bucket` or `key` is not one that S3 can have."),
    (
        (boto.InvalidRegionError, boto.EndpointResolutionError),
        Fatal,
        "`region` or `endpoint_url` of the connection is not valid.",
    ),
    (
        (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError),
        Retryable,
        "The store cannot be reached.",
    ),
    ((boto.ReadTimeoutError,), Retryable, "The store did not answer in time."),
    (
        (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, HTTPError),
        Retryable,
        "The connection to the store broke.",
    ),
    ((ResponseParserError,), Retryable, "The store's answer was cut short or garbled."),
)


@contextmanager
def in_our_words(bucket: str | None) -> Iterator[None]:
    try:
        yield
    except boto.ClientError as exc:
        raise _of_answer(exc, bucket) from None
    except (boto.BotoCoreError, HTTPError, ResponseParserError) as exc:
        raise _of_no_answer(exc) from None


def code_of(exc: boto.ClientError) -> str:
    """HEAD answers have no body: there botocore gives the status as the code."""
    code = str(exc.response.get("Error", {}).get("Code", ""))
    return code if re.fullmatch(r"\w[\w.]{0,59}", code) else "no code"


def status_of(exc: boto.ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_denied(exc: boto.ClientError) -> bool:
    code = code_of(exc)
    return status_of(exc) == _FORBIDDEN and code not in _IS_FATAL and code not in _IS_RETRYABLE


def _of_answer(exc: boto.ClientError, bucket: str | None) -> Verdict:
    status = status_of(exc)
    code = code_of(exc)
    code = _OF_HEAD.get((exc.operation_name, code), code)
    said = f"{exc.operation_name} ({status}{'' if code == str(status) else f' {code}'})"
    if code in _IS_GONE:
        return UploadGone(_IS_GONE[code])
    if code in _ASKS_TO_SLOW_DOWN or status == _TOO_MANY:
        return Retryable("The store asks to slow down.", _retry_after(exc), throttled=True)
    if code in _IS_FATAL:
        return Fatal(_IS_FATAL[code].format(bucket=repr(bucket), code=code))
    if is_denied(exc):
        where = f" in bucket {bucket!r}" if bucket else ""
        needed = _PERMISSIONS.get(exc.operation_name)
        needs = f"; they need {needed}" if needed else ""
        return Fatal(f"The store denies these credentials {said}{where}{needs}.")
    if code in _IS_RETRYABLE or status in _MAY_PASS or status >= _SERVER_ERROR:
        reason = _IS_RETRYABLE.get(code, f"The store failed at {said}.")
        return Retryable(reason, _retry_after(exc))
    return Fatal(f"The store refused {said}.")


def _of_no_answer(exc: Exception) -> Verdict:
    if isinstance(exc, boto.SSLError):
        for sign, meaning in _HOPELESS_TLS.items():
            if sign in str(exc):
                return Fatal(meaning)
    for kinds, verdict, reason in _NO_ANSWER:
        if isinstance(exc, kinds):
            return verdict(reason)
    # What is left is boto3's own configuration: profiles, SSO, files.
    return Fatal(f"boto3's configuration for this store does not work ({type(exc).__name__}).")


def _retry_after(exc: boto.ClientError) -> float | None:
    seconds = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(seconds) if re.fullmatch(r"\d{1,6}", seconds) else None
