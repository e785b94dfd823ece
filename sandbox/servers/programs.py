"""Where the programs of the servers are: on this system, or inside a wheel that brings them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Literal

Prefer = Literal["system", "wheel"]


def on_path(*names: str) -> Path | None:
    """The first of the names that PATH knows.

    A link stays a link: redis-server is one, and looks at the name it was called by.
    """
    found = (shutil.which(name) for name in names)
    return next((Path(path) for path in found if path), None)


def in_wheel(distribution: str, *names: str) -> Path | None:
    """The executable of one of the names among the files that the distribution installed."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if file.name in names and os.access(path, os.X_OK):
            return Path(os.path.normpath(path))
    return None


def choose(system: Path | None, wheel: Path | None, *, prefer: Prefer, missing: str) -> Path:
    """The preferred one, else the other, else an error that says what to install."""
    found = (system or wheel) if prefer == "system" else (wheel or system)
    if found is None:
        raise FileNotFoundError(missing)
    return found
