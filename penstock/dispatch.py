"""Sends what a verb of the ledger left to be done. The sweep sends again what gets lost."""

from __future__ import annotations

import uuid
from typing import Any

from celery import Celery, chord

from penstock import routes
from penstock.contract import Batch, JobRef, LaneRef
from penstock.ledger import Next
from penstock.payloads import Payloads

_IDS = uuid.UUID("6d3c1f0e-6f1b-4a86-9a52-70656e73746b")


def task_id(*parts: object) -> str:
    """The same work has the same task id, however often it is sent."""
    return str(uuid.uuid5(_IDS, "/".join(map(str, parts))))


class Dispatch:
    def __init__(self, app: Celery, payloads: Payloads | None = None) -> None:
        self._app = app
        self._payloads = payloads

    def follow(self, todo: Next | None) -> None:
        """Send all of it, what frees memory first."""
        if todo is None:
            return
        self._drop(todo)
        self._deliver(todo)
        for seq, generation in todo.refill:
            self.refill(Batch(todo.job_id, seq, generation))
        if todo.extract:
            self.extract(todo.job_id)
        for kind, lane, index, lanes in todo.close:
            self.close(todo.job_id, kind, lane, index, lanes)
        if todo.finalize:
            self._send(routes.FINALIZE, [[], JobRef(todo.job_id).wire()])
        if todo.open:
            self.reopen(todo.job_id)

    def open(self, job_id: str, document: dict[str, Any]) -> None:
        self._send(routes.OPEN, [document], task_id("open", job_id))

    def reopen(self, job_id: str) -> None:
        """The spec is in the ledger already."""
        self._send(routes.OPEN, [JobRef(job_id).wire()], task_id("open", job_id))

    def extract(self, job_id: str) -> None:
        self._send(routes.EXTRACT, [JobRef(job_id).wire()])

    def refill(self, batch: Batch) -> None:
        self._send(routes.REFILL, [Batch(batch.job_id, batch.seq, batch.generation).wire()])

    def start_chord(self, todo: Next) -> None:
        """The header is one closing task for each lane: a size known now, and never a batch."""
        header = [
            self._app.signature(
                routes.CLOSE[kind],
                args=[LaneRef(todo.job_id, lane).wire()],
                task_id=task_id("close", todo.job_id, lane),
                queue=routes.LANE_QUEUES[kind],
                ignore_result=False,
                argsrepr=f"({todo.job_id}, {lane})",
            )
            for kind, lane, _, _ in todo.close
        ]
        # The task id given to a chord becomes its group's id as well as its body's.
        chord(
            header, self._finalize(todo.job_id), app=self._app, task_id=_chord_id(todo.job_id)
        ).apply_async()

    def close(self, job_id: str, kind: str, lane: str, index: int, lanes: int) -> None:
        """Send a closing task again, as the same part of the same chord."""
        group = _chord_id(job_id)
        backend = self._app.backend
        # Redis may have lost how many parts the chord has; one that is there stays untouched.
        backend.client.set(backend.get_key_for_group(group, ".s"), lanes, nx=True, ex=86_400)
        self._app.send_task(
            routes.CLOSE[kind],
            args=[LaneRef(job_id, lane).wire()],
            task_id=task_id("close", job_id, lane),
            group_id=group,
            group_index=index,
            chord=self._finalize(job_id),
            queue=routes.LANE_QUEUES[kind],
            ignore_result=False,
            argsrepr=f"({job_id}, {lane})",
        )

    def _finalize(self, job_id: str) -> Any:
        return self._app.signature(
            routes.FINALIZE,
            args=[JobRef(job_id).wire()],
            task_id=_chord_id(job_id),
            queue=routes.JOBS_QUEUE,
            argsrepr=f"({job_id})",
        )

    def _drop(self, todo: Next) -> None:
        if self._payloads is not None:
            for epoch, seq, view in todo.drop:
                self._payloads.drop(todo.job_id, epoch, seq, view)

    def _deliver(self, todo: Next) -> None:
        if not todo.deliver:
            return
        with self._app.producer_pool.acquire(block=True) as producer:
            for kind, lane, seq, generation in todo.deliver:
                self._app.send_task(
                    routes.DELIVER[kind],
                    args=[Batch(todo.job_id, seq, generation, lane).wire()],
                    task_id=task_id(todo.job_id, generation, lane, seq),
                    queue=routes.LANE_QUEUES[kind],
                    producer=producer,
                    ignore_result=True,
                    argsrepr=f"({todo.job_id}, {lane}, {seq})",
                )

    def _send(self, name: str, args: list[Any], id_: str | None = None) -> None:
        ref = args[-1] if isinstance(args[-1], dict) else {}
        self._app.send_task(
            name,
            args=args,
            task_id=id_ or str(uuid.uuid4()),
            queue=routes.QUEUES[name],
            ignore_result=True,
            argsrepr=f"({ref.get('job_id', '')})",
        )


def _chord_id(job_id: str) -> str:
    return task_id("chord", job_id)
