"""Every upload platform at a glance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.upload.platform import Platform
from services.upload.platforms import google_ads_api, meta_graph
from services.upload.platforms.google_ads import GoogleAdsPlatform
from services.upload.platforms.meta import MetaPlatform

#: By the destination's kind: a connection of that kind, the destination, and how many seconds lie
#: between two looks at what the platform is still working on.
PLATFORMS: dict[str, Callable[[Any, Any, float], Platform]] = {
    "google_ads": GoogleAdsPlatform,
    "meta": lambda connection, destination, _: MetaPlatform(connection, destination),
}

#: For `penstock doctor`: one cheap call with the connection alone. A sentence, or a verdict raised.
CHECKS: dict[str, Callable[[Any], str]] = {
    "google_ads": google_ads_api.check,
    "meta": meta_graph.check,
}
