"""`celery -A services.export.app worker -Q penstock.export`."""

from penstock import routes
from services.export.settings import ExportSettings
from services.runtime.app import make_worker_app

# Compression and the network both let other threads run.
app = make_worker_app(
    "export",
    ExportSettings,
    queues=[routes.LANE_QUEUES["s3"]],
    pool="threads",
    worker_concurrency=2,
)
