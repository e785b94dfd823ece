"""What a caller may catch. Where an exception has no text of its own, its docstring is the text."""

from __future__ import annotations


class PenstockError(Exception):
    """Penstock could not do what was asked."""

    # Every text of this family is written by us and free of row data: it may be logged and stored.

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or " ".join((type(self).__doc__ or "").split()))


class SpecError(PenstockError):
    """The job's spec is not valid."""


class VersionError(SpecError):
    """The message has a version that this release does not know."""


class SettingsError(PenstockError):
    """A setting is missing or wrong."""


class ConnectionsError(SettingsError):
    """The connections file is missing or wrong."""


class JobExistsError(PenstockError):
    """A job with this id exists already and has a different spec; choose another id."""


class UnknownJobError(PenstockError):
    """There is no job with this id."""


class JobStateError(PenstockError):
    """The job's state does not allow this."""


class LedgerUnreachableError(PenstockError):
    """The ledger does not answer; check PENSTOCK_LEDGER_URL and that its Postgres is up."""


class LedgerSchemaError(PenstockError):
    """The ledger's tables are missing or of another release; run `penstock init`."""


class LedgerRefusedError(PenstockError):
    """The ledger refused a statement: a defect of Penstock, or of the ledger's Postgres."""


class BrokerUnreachableError(PenstockError):
    """The broker does not answer; check PENSTOCK_BROKER_URL and that its Redis is up."""


class PayloadsUnreachableError(PenstockError):
    """The Redis that holds the payloads does not answer, or is full."""


class PayloadKeyError(SettingsError):
    """PENSTOCK_PAYLOAD_KEY is not the base64 form of 32 bytes."""


class WaitTimeoutError(PenstockError):
    """The job had not ended when the time to wait was over."""
