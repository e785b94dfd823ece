"""Private servers for the demo, for development and for the tests.

Each one listens on a free port of 127.0.0.1 (or on a unix socket), keeps its data in a
directory of its own, and ends with the process that started it, however that one ends.
"""

from sandbox.servers.platforms import (
    DataManagerSandbox,
    EndpointSandbox,
    GoogleAdsSandbox,
    LinkedInSandbox,
    MetaSandbox,
)
from sandbox.servers.postgres import Postgres
from sandbox.servers.process import Process, ServerError, free_port
from sandbox.servers.redis import Redis
from sandbox.servers.s3 import Moto, Rclone

__all__ = [
    "DataManagerSandbox",
    "EndpointSandbox",
    "GoogleAdsSandbox",
    "LinkedInSandbox",
    "MetaSandbox",
    "Moto",
    "Postgres",
    "Process",
    "Rclone",
    "Redis",
    "ServerError",
    "free_port",
]
