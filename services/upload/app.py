"""`celery -A services.upload.app worker -Q penstock.upload.meta`, and so on for each platform."""

from penstock import routes
from services.runtime.app import make_worker_app
from services.upload.settings import UploadSettings

# Uploaders wait for the network: threads share one process's memory and clients.
app = make_worker_app(
    "upload",
    UploadSettings,
    queues=[routes.LANE_QUEUES[kind] for kind in routes.PLATFORMS],
    pool="threads",
    worker_concurrency=4,
)
