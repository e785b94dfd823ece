"""The Celery app as every process of Penstock has it, client and worker alike."""

from __future__ import annotations

from celery import Celery

from penstock import routes

#: Longer than twice the longest task: a message that is not acknowledged by then is sent again.
VISIBILITY_SECONDS = 3600


def make_app(broker_url: str, name: str = "penstock") -> Celery:
    app = Celery(name, broker=broker_url, backend=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_routes={task: {"queue": queue} for task, queue in routes.QUEUES.items()},
        task_default_queue=routes.JOBS_QUEUE,
        task_create_missing_queues=True,
        task_ignore_result=True,
        # Only closings keep a result, for the chord; it is figures, and the ledger has them too.
        result_expires=86_400,
        result_extended=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            # Look for unacknowledged messages every 10 s; the stock value makes it 100 s.
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        redis_socket_timeout=30.0,
        redis_socket_connect_timeout=10.0,
        redis_backend_health_check_interval=25,
        result_backend_always_retry=True,
        result_backend_max_retries=20,
        # What is sent while Redis is away for a moment waits this long, then fails to the caller.
        task_publish_retry_policy={
            "max_retries": 5,
            "interval_start": 0.1,
            "interval_step": 0.4,
            "interval_max": 2.0,
        },
    )
    # What is sent without a representation of its own, as Flower sends, gets an empty one.
    app.amqp.argsrepr_maxsize = app.amqp.kwargsrepr_maxsize = 0
    return app
