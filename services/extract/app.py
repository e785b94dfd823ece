"""`celery -A services.extract.app worker -Q penstock.extract`."""

from penstock import routes
from services.extract.settings import ExtractSettings
from services.runtime.app import make_worker_app

# A process for each slot: reading and hashing want a core each.
app = make_worker_app(
    "extract", ExtractSettings, queues=[routes.EXTRACT_QUEUE], pool="prefork", worker_concurrency=1
)
