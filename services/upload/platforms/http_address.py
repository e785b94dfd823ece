"""Where an endpoint is. Path and query are left out of all that is shown: they may hold tokens."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from services.runtime.verdicts import Fatal, Retryable

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    tls: bool
    _url: str = field(repr=False)

    @classmethod
    def read(cls, url: str) -> Self:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")  # what a connection would stumble over
        except ValueError:
            host = port = None
        if not host or parts.scheme not in _PORTS:
            raise Fatal("The connection's `url` is not the address of a web server.")
        if "@" in parts.netloc:
            raise Fatal("The connection's `url` holds a user: use `bearer_token` for credentials.")
        return cls(host, port or _PORTS[parts.scheme], parts.scheme == "https", url)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def reach(self, seconds: float) -> str:
        """Open a connection and say nothing on it."""
        if select_proxy(self._url, get_environ_proxies(self._url)):
            return f"{self} is reached through a proxy: not tried."
        try:
            with socket.create_connection((self.host, self.port), seconds) as plain:
                if not self.tls:
                    return f"{self} takes connections."
                with self._trust().wrap_socket(plain, server_hostname=self.host):
                    return f"{self} takes connections, with a certificate that is trusted."
        except ssl.SSLError:
            raise Retryable(
                f"The certificate of {self} is not trusted here, or TLS failed."
            ) from None
        except OSError:
            raise Retryable(f"{self} cannot be reached from here.") from None

    def _trust(self) -> ssl.SSLContext:
        """Those whom requests trusts too."""
        told = requests.Session().merge_environment_settings(self._url, {}, None, None, None)
        store = Path(told["verify"] if isinstance(told["verify"], str) else DEFAULT_CA_BUNDLE_PATH)
        if store.is_dir():
            return ssl.create_default_context(capath=store)
        return ssl.create_default_context(cafile=store)
