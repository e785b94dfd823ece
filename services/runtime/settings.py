"""What the environment says to every worker; a service adds its own in its settings.py."""

from __future__ import annotations

import base64

from pydantic import Field, SecretStr, field_validator

from penstock.ledger import Policy
from penstock.settings import ClientSettings


class WorkerSettings(ClientSettings):
    """What every worker reads."""

    ledger_url: str = Field(
        description="Postgres that holds the ledger: postgresql://user:password@host:5432/database."
    )
    payload_url: str | None = Field(
        None, description="Redis that holds the payloads, where it is not the broker's."
    )
    payload_key: SecretStr | None = Field(
        None, description="32 bytes in base64; payloads in Redis are encrypted with it."
    )
    lease_seconds: float = Field(
        30, gt=0, description="A worker that is not heard of for so long counts as dead."
    )
    grace_seconds: float = Field(
        20, gt=0, description="A message that nobody took up for so long is sent again."
    )
    max_crashes: int = Field(
        5, ge=1, description="So often may a batch's worker die before the batch is given up."
    )
    max_restarts: int = Field(
        5, ge=1, description="So often may a stream without a key start over."
    )
    report_rows: int = Field(
        10_000, ge=0, description="So many rejected rows of a lane are kept for its report."
    )
    ledger_connections: int = Field(
        4, ge=1, description="Connections to the ledger that one worker process may hold."
    )

    @field_validator("payload_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                size = len(base64.b64decode(value.get_secret_value(), validate=True))
            except ValueError:
                size = 0
            if size != 32:  # noqa: PLR2004 - AES-256
                raise ValueError("it must be 32 bytes in base64")
        return value

    def policy(self) -> Policy:
        return Policy(
            self.lease_seconds,
            self.grace_seconds,
            self.max_crashes,
            self.max_restarts,
            self.report_rows,
        )


class LaneSettings(WorkerSettings):
    """What workers read that bring rows to a destination."""

    lane_tries: int = Field(
        12,
        ge=1,
        description="So often is a platform or store that fails tried before the lane ends.",
    )
    backoff_seconds: float = Field(
        1, gt=0, description="The first wait after a failure; it doubles, with jitter."
    )
    backoff_longest_seconds: float = Field(
        300, gt=0, description="The longest wait that the back-off reaches."
    )
