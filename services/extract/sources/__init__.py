"""Every kind of source at a glance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.extract.source import Source
from services.extract.sources import postgres

SOURCES: dict[str, Callable[[Any, Any], Source]] = {"postgres": postgres.PostgresSource}
CHECKS: dict[str, Callable[[Any], str]] = {"postgres": postgres.check}
