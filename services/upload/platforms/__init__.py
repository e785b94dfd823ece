"""Every upload platform, by the kind of its destinations.

Each is a module of the kind's name that offers `PLATFORM` (its class) and `check` (one cheap call
for `penstock doctor`). They are loaded when a task first needs them: a worker of one platform does
not hold the SDKs of the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from penstock import routes
from services.upload.platform import Context, Platform


def platform(kind: str, connection: Any, destination: Any, context: Context) -> Platform:
    return cast(Platform, _module(kind).PLATFORM(connection, destination, context))


def load(kind: str) -> None:
    """An SDK takes seconds to import: not while a lease runs that nobody renews."""
    _module(kind)


def check(kind: str, connection: Any) -> str:
    """A sentence, or a verdict raised."""
    return cast(str, _module(kind).check(connection))


def _module(kind: str) -> Any:
    if kind not in routes.PLATFORMS:
        raise KeyError(kind)
    return import_module(f"services.upload.platforms.{kind}")
