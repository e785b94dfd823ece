"""`celery -A services.jobs.app worker -Q penstock.jobs`, and `celery -A services.jobs.app beat`."""

from penstock import routes
from services.jobs.settings import JobsSettings
from services.runtime.app import make_worker_app

app = make_worker_app(
    "jobs", JobsSettings, queues=[routes.JOBS_QUEUE], pool="threads", worker_concurrency=4
)
_every = app.settings.sweep_seconds
app.conf.update(
    # In memory: what beat would keep in a file is that the sweep is due, and it always is.
    beat_scheduler="celery.beat:Scheduler",
    beat_max_loop_interval=1,
    beat_schedule={
        "sweep": {
            "task": routes.SWEEP,
            "schedule": _every,
            # Calls that pile up while no worker runs are worth nothing.
            "options": {"expires": max(_every, 2), "ignore_result": True},
        }
    },
)
