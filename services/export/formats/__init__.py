"""Every format at a glance."""

from __future__ import annotations

from services.export.format import Format
from services.export.formats.csv import Csv

FORMATS: dict[str, Format] = {"csv": Csv()}
