"""The only truth: what has happened to each job, lane and batch, in Postgres.

Verbs, grouped by who speaks them; their SQL stands beside them and nowhere else. A verb that
changes a job locks its row first, so that verbs on one job happen one after another and none can
wait for another in a circle.
"""

from penstock.ledger.base import Ledger, Next, Policy

__all__ = ["Ledger", "Next", "Policy"]
