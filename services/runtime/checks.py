"""For `penstock doctor`: a real call with each connection, made where its credentials are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.connections import Connections
from services.runtime.logs import clean_text


def check_connections(
    connections: Connections, checks: dict[str, Callable[[Any], str]]
) -> list[dict[str, Any]]:
    found = []
    for name, kind in connections.of_kind(*checks).items():
        try:
            ok, said = True, checks[kind](connections.get(name))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the operator must read of it
            ok, said = False, clean_text(exc)
        found.append({"connection": name, "kind": kind, "ok": ok, "message": said})
    return found
