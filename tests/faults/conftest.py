"""The fault tests run whole jobs as the acceptance tests do."""

from tests.acceptance.conftest import connections, stack

__all__ = ["connections", "stack"]
