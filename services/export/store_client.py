"""The clients of object stores: how each is made, and that each is made once."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from penstock.connections import S3Connection
from services.runtime.verdicts import Fatal

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Client(NamedTuple):
    s3: S3Client
    credentials: Credentials


class Clients:
    """One client a connection and process, for all threads: it holds the open sockets."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[S3Connection, Client] = {}

    def of(self, connection: S3Connection) -> Client:
        with self._lock:
            if connection not in self._clients:
                self._clients[connection] = _connect(connection)
            return self._clients[connection]


clients = Clients()
# A child must not write to its parent's sockets, nor wait for a lock that one of its threads held.
os.register_at_fork(after_in_child=clients.forget)


def _connect(connection: S3Connection) -> Client:
    secret, token = connection.secret_access_key, connection.session_token
    if bool(connection.access_key_id) != bool(secret):
        raise Fatal("`access_key_id` and `secret_access_key` of the connection belong together.")
    session = boto3.session.Session(
        aws_access_key_id=connection.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=token.get_secret_value() if token else None,
        region_name=connection.region,
    )
    credentials = session.get_credentials()
    if credentials is None:
        # Not left to the first call: the client would be kept, and never look for them again.
        raise NoCredentialsError
    path_style = connection.path_style
    if path_style is None:
        path_style = connection.endpoint_url is not None
    config = Config(
        signature_version="s3v4",
        # Not "auto", which signs links for the global host name: that redirects to the region's,
        # where the signature is not valid.
        s3={"addressing_style": "path" if path_style else "virtual"},
        retries={"mode": "standard", "max_attempts": 3},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        tcp_keepalive=True,
        # Many stores that speak S3 refuse the CRC32 trailers that botocore adds by itself. The
        # Content-MD5 of each part does the same for all of them, AWS too, and asks nothing of
        # `complete`, which knows ETags alone.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        s3 = session.client("s3", endpoint_url=connection.endpoint_url, config=config)
    except ValueError:
        raise Fatal("`region` or `endpoint_url` of the connection is not valid.") from None
    return Client(s3, credentials)


def seconds_within(credentials: Credentials, seconds: int) -> int:
    """As many, or those that the credentials still have."""
    # Private, and the only place that tells; plain keys have none, and do not end.
    end = getattr(credentials, "_expiry_time", None)
    if end is None:
        return seconds
    return max(1, min(seconds, int((end - datetime.now(UTC)).total_seconds())))
