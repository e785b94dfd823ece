"""The sandboxes of the ad platforms as processes, and the wires by which a test pulls at them."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from sandbox.servers.process import Process, ServerError, free_port

_PROJECT = Path(__file__).resolve().parents[2]
_TIMEOUT = 60.0


class _Platform(Process):
    """Serves `module` on ports that stay the same through restarts; its members don't stay."""

    def __init__(
        self, module: str, directory: Path, *, port: int, control: int, arguments: tuple[str, ...]
    ) -> None:
        self.port = port or free_port()
        self.control = control or free_port()
        super().__init__(
            [
                *(sys.executable, "-u", "-m", module),
                *("--port", str(self.port), "--control", str(self.control), *arguments),
            ],
            log_path=directory.resolve() / f"{module.rpartition('.')[2]}.log",
            ready=self._said_ready,
            cwd=_PROJECT,
        )

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self.control}"

    def fault(self, method: str, fault: str, **fields: Any) -> None:
        """Plan a fault; fields: times, after, delay, data."""
        self._ask("POST", "/faults", {"method": method, "fault": fault, **fields})

    def faults(self) -> list[dict[str, Any]]:
        """Every planned fault, with how often it has fired."""
        return list(self._ask("GET", "/faults"))

    def clear(self) -> None:
        """Forget the faults."""
        self._ask("DELETE", "/faults")

    def members(self, audience_id: str) -> list[str]:
        return list(self._ask("GET", f"/members/{quote(audience_id, safe='')}")["members"])

    def count(self, audience_id: str) -> int:
        return int(self._ask("GET", f"/members/{quote(audience_id, safe='')}?count=1")["count"])

    def calls(self) -> Any:
        return self._ask("GET", "/calls")

    def state(self) -> Any:
        return self._ask("GET", "/state")

    def reset(self) -> None:
        """Forget members, jobs, sessions, calls and faults; audiences and settings stay."""
        self._ask("POST", "/reset", {})

    def settings(self, **values: Any) -> Any:
        """Change the named settings; all of them as they are now."""
        return self._ask("POST", "/settings", values)

    def add_audience(self, **fields: Any) -> Any:
        return self._ask("POST", "/audiences", fields)

    def _ask(self, verb: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.control_url + path,
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _DIRECT.open(request, timeout=_TIMEOUT) as response:
                return json.load(response)
        except HTTPError as error:
            with error:
                told = error.read().decode(errors="replace")
            raise ServerError(f"{self.name}: {verb} {path}: {error.code} {told}") from None

    def _said_ready(self) -> bool:
        """It has printed the line that names both of its ports."""
        for line in self.output().splitlines():
            if line.startswith("{") and line.endswith("}"):
                told = json.loads(line)
                return (told.get("port"), told.get("control")) == (self.port, self.control)
        return False


class GoogleAdsSandbox(_Platform):
    """Google Ads, as far as Customer Match goes."""

    def __init__(
        self, directory: Path, *, port: int = 0, control: int = 0, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__(
            "sandbox.google_ads", directory, port=port, control=control, arguments=arguments
        )

    @property
    def endpoint(self) -> str:
        """What a gRPC channel takes."""
        return f"127.0.0.1:{self.port}"


class DataManagerSandbox(_Platform):
    """Google's Data Manager API, as far as audience members go."""

    def __init__(
        self, directory: Path, *, port: int = 0, control: int = 0, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__(
            "sandbox.data_manager", directory, port=port, control=control, arguments=arguments
        )

    @property
    def endpoint(self) -> str:
        """What a gRPC channel takes."""
        return f"127.0.0.1:{self.port}"


class MetaSandbox(_Platform):
    """Meta's Graph API, as far as custom audiences go."""

    def __init__(
        self, directory: Path, *, port: int = 0, control: int = 0, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__("sandbox.meta", directory, port=port, control=control, arguments=arguments)

    @property
    def url(self) -> str:
        """What the SDK's session takes as its GRAPH."""
        return f"http://127.0.0.1:{self.port}"


class LinkedInSandbox(_Platform):
    """LinkedIn's Marketing API, as far as Matched Audiences go."""

    def __init__(
        self, directory: Path, *, port: int = 0, control: int = 0, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__(
            "sandbox.linkedin", directory, port=port, control=control, arguments=arguments
        )

    @property
    def url(self) -> str:
        """What a connection takes as its `api_url`."""
        return f"http://127.0.0.1:{self.port}"


class EndpointSandbox(_Platform):
    """A destination of one's own; an audience of its control port is a lane."""

    def __init__(
        self, directory: Path, *, port: int = 0, control: int = 0, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__(
            "sandbox.endpoint", directory, port=port, control=control, arguments=arguments
        )

    @property
    def url(self) -> str:
        """What a connection takes as its `url`."""
        return f"http://127.0.0.1:{self.port}/batches?token=in-the-query"


# Without the proxies of the environment, which know nothing of this machine's own ports.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
