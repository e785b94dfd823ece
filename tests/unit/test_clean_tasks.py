"""What a worker shows of its messages and says of its errors: ids, types and places."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.utils.saferepr import saferepr
from celery.worker.consumer import consumer
from kombu.message import Message

from services.runtime.logs import BodyFilter, CleanFormatter, configure_logs
from services.runtime.tasks import CleanRequest, CleanTask

PERSON = "ann@example.org"
PARAMETERS = {"source": {"where": "email = %s", "parameters": [PERSON]}}
OURS = "(job, lane, 3)"


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    made = Celery("clean", set_as_current=False, task_cls=CleanTask)

    @made.task(name="a.task", lazy=False)
    def a_task(*_: Any) -> None:
        """What matters is its request."""

    yield made
    made.close()


def request(app: Celery, args: tuple[Any, ...], shown: str, **kwargs: Any) -> CleanRequest:
    """As the worker makes one of a message that a client sent."""
    headers = {
        "id": "1", "task": "a.task", "argsrepr": shown, "kwargsrepr": saferepr(kwargs),
    }  # fmt: skip
    message = Message(headers=headers, body=(args, kwargs, {}))
    return CleanRequest(message, app=app, decoded=True, hostname="w@h")


class TestRequest:
    def test_ids_are_shown(self, app: Celery) -> None:
        made = request(app, ({"job_id": "job", "lane": "lane", "seq": 3, "body": PERSON},), OURS)
        assert made.argsrepr == OURS
        told = made.info()
        assert (told["args"], told["kwargs"]) == (OURS, "{}")
        assert (told["id"], told["name"]) == ("1", "a.task")

    @pytest.mark.parametrize(
        "shown", [saferepr((PARAMETERS,)), repr(PERSON), OURS + PERSON, "(4915112345678,)", OURS]
    )
    @pytest.mark.parametrize("safe", [True, False])
    def test_what_another_wrote_is_not(self, app: Celery, shown: str, *, safe: bool) -> None:
        made = request(app, (PARAMETERS,), shown, spec=PARAMETERS)
        assert made.argsrepr == "(...)"
        told = made.info(safe=safe)
        assert (told["args"], told["kwargs"]) == ("(...)", "{}")
        assert PERSON not in repr(told)

    def test_our_ids_do_not_vouch_for_the_keywords(self, app: Celery) -> None:
        assert PERSON not in repr(request(app, (PARAMETERS,), OURS, spec=PERSON).info())

    def test_the_task_itself_gets_all_of_it(self, app: Celery) -> None:
        made = request(app, (PARAMETERS,), "")
        assert made.args == (PARAMETERS,)
        assert app.tasks["a.task"].Request is CleanRequest


class TestBodyFilter:
    NAME = "celery.worker.consumer.consumer"

    @staticmethod
    def _formatted(logger: str, level: int, text: str, *args: Any) -> str:
        """Through the logger's filters, as one of its lines."""
        try:
            int(PERSON)
        except ValueError:
            record = logging.getLogger(logger).makeRecord(
                logger, level, __file__, 1, text, args, sys.exc_info()
            )
        assert logging.getLogger(logger).filter(record)
        return CleanFormatter("%(levelname)s %(message)s").format(record)

    @pytest.fixture(autouse=True)
    def _configured(self) -> Iterator[None]:
        """The filter as the workers set it; what else that does to logging is undone."""
        root = logging.getLogger()
        manager = root.manager.loggerDict
        levels = {n: x.level for n, x in manager.items() if isinstance(x, logging.Logger)}
        handlers, level = root.handlers[:], root.level
        configure_logs("test")
        yield
        root.handlers[:], root.level = handlers, level
        for name, known in manager.items():
            if isinstance(known, logging.Logger):
                known.setLevel(levels.get(name, logging.NOTSET))
        found = logging.getLogger(self.NAME)
        for each in [f for f in found.filters if isinstance(f, BodyFilter)]:
            found.removeFilter(each)

    def test_celery_still_logs_there(self) -> None:
        assert consumer.logger.name == self.NAME

    @pytest.mark.parametrize(
        ("level", "text"),
        [
            (logging.WARNING, consumer.UNKNOWN_FORMAT),
            (logging.ERROR, consumer.UNKNOWN_TASK_ERROR),
            (logging.ERROR, consumer.INVALID_TASK_ERROR),
            (logging.CRITICAL, consumer.MESSAGE_DECODE_ERROR),
        ],
        ids=["format", "name", "arguments", "encoding"],
    )
    def test_no_body_is_logged(self, level: int, text: str) -> None:
        said = self._formatted(self.NAME, level, text, *[PERSON] * text.count("%"))
        assert PERSON not in said
        assert said.startswith(f"{logging.getLevelName(level)} A message was thrown away")
        assert "\n" not in said

    def test_a_broker_that_does_not_answer_is_named(self) -> None:
        said = self._formatted(self.NAME, logging.ERROR, consumer.CONNECTION_ERROR, "redis", "", "")
        assert said.startswith("ERROR consumer: Cannot connect to redis")

    def test_other_lines_are_left_as_they_are(self) -> None:
        said = self._formatted(self.NAME, logging.INFO, "Connected to %s", "redis")
        assert said.startswith("INFO Connected to redis")
        said = self._formatted("celery.worker", logging.ERROR, "Stopped: %s", "why")
        assert said.startswith("ERROR Stopped: why")


class TestFormatter:
    def test_of_an_exception_its_type_and_place_are_told(self) -> None:
        try:
            int(PERSON)  # which quotes it
        except ValueError:
            record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", (), sys.exc_info())
        said = CleanFormatter("%(message)s").format(record)
        assert PERSON not in said
        assert said.startswith("failed\nbuiltins.ValueError at test_clean_tasks.py:")

    def test_a_line_without_one_is_left_as_it_is(self) -> None:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "failed %s", ("twice",), None)
        assert CleanFormatter("%(message)s").format(record) == "failed twice"
