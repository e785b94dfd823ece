"""A query's parameters: plain JSON values, or one whose SQL type is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

# As it is: white space in a parameter is data.
Verbatim = Annotated[str, StringConstraints(strip_whitespace=False)]


class TypedParam(BaseModel):
    """A parameter whose SQL type is told, for what JSON cannot say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal[
        "text",
        "integer",
        "bigint",
        "numeric",
        "boolean",
        "date",
        "timestamp",
        "timestamptz",
        "uuid",
    ] = Field(description="The SQL type that the value is bound with.")
    # NULL does not travel: it is the default.
    value: Verbatim | int | float | bool | None = Field(
        None,
        description="The value; dates and times in ISO form, as text. NULL if left out.",
    )

    def python(self) -> Any:
        """The value as psycopg binds it with that type."""
        if self.value is None:
            return None
        return _CONVERT[self.type](self.value)

    @model_validator(mode="after")
    def _fits(self) -> TypedParam:
        try:
            self.python()
        except (ValueError, TypeError, ArithmeticError, LookupError):
            raise ValueError(f"the value is no {self.type}") from None
        return self


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "text": str,
    "integer": int,
    "bigint": int,
    "numeric": lambda value: Decimal(str(value)),
    "boolean": lambda value: {"true": True, "false": False}[str(value).lower()],
    "date": date.fromisoformat,
    "timestamp": lambda value: datetime.fromisoformat(value).replace(tzinfo=None),
    "timestamptz": lambda value: _aware(datetime.fromisoformat(value)),
    "uuid": lambda value: UUID(str(value)),
}


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a timestamptz needs its offset")
    return value


Param = TypedParam | bool | int | float | Verbatim | None


def typed(name: str, value: Any) -> Any:
    """A date or a time with its type beside it; anything else as it is, where it fits."""
    if isinstance(value, datetime):
        kind = "timestamptz" if value.tzinfo else "timestamp"
        return {"type": kind, "value": value.isoformat()}
    if isinstance(value, date):
        return {"type": "date", "value": value.isoformat()}
    fits = isinstance(value, TypedParam | dict | bool | int | float | str | None)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"{name!r} must be text, a number, true or false, or a table with `type` and `value`"
        )
    return value
