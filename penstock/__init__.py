"""Penstock: customers from a database to ad platforms and files, through Celery and Redis."""

from penstock.client import Client
from penstock.contract import JobSpec
from penstock.errors import PenstockError

__all__ = ["Client", "JobSpec", "PenstockError"]
