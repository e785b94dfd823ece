"""The limiter on a real Redis. Time passes by moving what is written there into the past, so that
order and counts are checked, and no test waits for a window to end."""

from __future__ import annotations

import heapq
import logging
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from penstock.payloads import redis_url as for_redis_py
from sandbox.servers import Redis
from services.upload.pacing import Pacing
from services.upload.platform import Pace, Usage

ROOT = Path(__file__).parents[2]
ACCOUNT = "meta/act_1"
OTHER = "meta/act_2"
NO_CAPS = Pace()
BUCKET = 1800


@pytest.fixture
def pacing(redis_url: str) -> Iterator[Pacing]:
    pacing = Pacing(redis_url)
    yield pacing
    pacing.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(for_redis_py(redis_url)) as client:
        yield client


def later(client: redis.Redis, seconds: float) -> None:
    """As if so much time had passed. Days are kept in half hours, and move by whole ones."""
    for name in client.scan_iter():
        part = name.rsplit(b":", 1)[1]
        if part == b"state":
            for field in ("last", "held", "told"):
                if value := client.hget(name, field):
                    client.hset(name, field, repr(float(value) - seconds))
        elif part == b"promises":
            moved = {}
            for member, due in client.zrange(name, 0, -1, withscores=True):
                until, made, job = member.split(b" ", 2)
                moved[b"%.6f %s %s" % (float(until) - seconds, made, job)] = due - seconds
            with client.pipeline() as pipe:
                pipe.delete(name).zadd(name, moved).execute()
        elif part == b"minute":
            for place, sent in enumerate(client.lrange(name, 0, -1)):
                client.lset(name, place, repr(float(sent) - seconds))
        elif part == b"day" and seconds >= BUCKET:
            counts = client.hgetall(name)
            client.delete(name)
            client.hset(
                name, mapping={int(b) - int(seconds / BUCKET): n for b, n in counts.items()}
            )


def admitted(pacing: Pacing, calls: int, pace: Pace, job: str = "job") -> int:
    return sum(pacing.admit(ACCOUNT, job, pace) == 0 for _ in range(calls))


class Play:
    """Callers that always want one more request, and come back when they were told to."""

    def __init__(self, pacing: Pacing, client: redis.Redis, pace: Pace = NO_CAPS) -> None:
        self._pacing, self._client, self._pace = pacing, client, pace
        self._now = 0.0
        self._callers: list[tuple[float, int, str]] = []
        self.order: list[str] = []
        self.asked = 0

    def enter(self, **callers: int) -> None:
        for job, count in callers.items():
            for _ in range(count):
                self._push(self._now, job)

    def until(self, *, requests: int = 0, seconds: float = 0.0) -> list[str]:
        """The jobs whose requests went in the meantime."""
        start, end = len(self.order), self._now + seconds
        while len(self.order) - start < requests or self._callers[0][0] < end:
            when, _, job = heapq.heappop(self._callers)
            if when > self._now:
                later(self._client, when - self._now)
                self._now = when
            wait = self._pacing.admit(ACCOUNT, job, self._pace)
            self.asked += 1
            assert self.asked < 5000
            if wait == 0:
                self.order.append(job)
            self._push(self._now + wait, job)
        if end > self._now:
            later(self._client, end - self._now)
            self._now = end
        return self.order[start:]

    def _push(self, when: float, job: str) -> None:
        heapq.heappush(self._callers, (when, self.asked + len(self._callers), job))


def test_where_nothing_is_scarce_nothing_waits_and_nothing_is_kept(
    pacing: Pacing, client: redis.Redis
) -> None:
    assert admitted(pacing, 200, NO_CAPS) == 200
    assert client.dbsize() == 0
    pacing.told(ACCOUNT, Usage(70))
    assert admitted(pacing, 200, NO_CAPS) == 200
    assert admitted(pacing, 200, Pace(per_minute=200, per_day=200)) == 200


def test_a_minute_s_cap_holds_whoever_asks(redis_url: str) -> None:
    ask = (
        "import sys; from services.upload.pacing import Pacing;"
        "from services.upload.platform import Pace;"
        f"p = Pacing({redis_url!r});"
        f"print(sum(p.admit({ACCOUNT!r}, sys.argv[1], Pace(per_minute=6)) == 0 for _ in range(10)))"
    )
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(
            lambda job: subprocess.run(
                [sys.executable, "-c", ask, job], cwd=ROOT, check=True, capture_output=True
            ),
            ("one", "two"),
        )
        assert sum(int(run.stdout) for run in runs) == 6


def test_any_minute_counts_not_the_clock_s(pacing: Pacing, client: redis.Redis) -> None:
    pace = Pace(per_minute=6)
    assert admitted(pacing, 2, pace) == 2
    later(client, 40)
    assert admitted(pacing, 10, pace) == 4
    later(client, 25)
    assert admitted(pacing, 10, pace) == 2
    later(client, 70)
    assert admitted(pacing, 10, pace) == 6


def test_any_day_counts_not_the_calendar_s(pacing: Pacing, client: redis.Redis) -> None:
    pace = Pace(per_day=5)
    assert admitted(pacing, 2, pace) == 2
    later(client, 20 * BUCKET)
    assert admitted(pacing, 9, pace) == 3
    later(client, 27 * BUCKET)
    wait = pacing.admit(ACCOUNT, "job", pace)
    assert 0 < wait < 3 * BUCKET
    later(client, 3 * BUCKET)
    assert admitted(pacing, 9, pace) == 2
    assert pacing.admit(ACCOUNT, "job", pace) > 10 * BUCKET


def test_the_more_is_used_the_longer_the_space_between_requests(pacing: Pacing) -> None:
    waits = []
    for percent in (76, 82, 88, 94, 99.9):
        account = f"meta/act_{percent}"
        pacing.told(account, Usage(percent))
        assert pacing.admit(account, "job", NO_CAPS) == 0
        waits.append(pacing.admit(account, "job", NO_CAPS))
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert waits[-1] < 40


def test_a_better_figure_counts_at_once_and_an_old_one_no_more(
    pacing: Pacing, client: redis.Redis
) -> None:
    pacing.told(ACCOUNT, Usage(99))
    assert admitted(pacing, 5, NO_CAPS) == 1
    pacing.told(ACCOUNT, Usage(50))
    assert admitted(pacing, 50, NO_CAPS) == 50
    pacing.told(ACCOUNT, Usage(99))
    later(client, 590)
    assert admitted(pacing, 5, NO_CAPS) == 1
    later(client, 11)
    assert admitted(pacing, 50, NO_CAPS) == 50


@pytest.mark.parametrize(("usage", "rest"), [(Usage(100), 60), (Usage(130, 240), 240)])
def test_an_account_that_is_used_up_rests(
    pacing: Pacing, client: redis.Redis, usage: Usage, rest: float
) -> None:
    pacing.told(ACCOUNT, usage)
    later(client, rest - 10)
    assert admitted(pacing, 5, NO_CAPS) == 0
    later(client, 20)
    assert admitted(pacing, 5, NO_CAPS) == 1


def test_a_hold_is_for_all_on_the_account_and_for_no_other(
    pacing: Pacing, client: redis.Redis
) -> None:
    pacing.hold(ACCOUNT, 100)
    pacing.hold(ACCOUNT, 1)  # does not shorten it
    later(client, 50)
    for job in ("one", "two", "three"):
        assert pacing.admit(ACCOUNT, job, Pace(per_minute=60)) > 0
        assert pacing.admit(OTHER, job, Pace(per_minute=60)) == 0
    later(client, 200)
    assert admitted(pacing, 60, NO_CAPS) == 60


def test_after_a_hold_callers_come_one_by_one(pacing: Pacing, client: redis.Redis) -> None:
    pacing.hold(ACCOUNT, 300)
    play = Play(pacing, client)
    play.enter(one=10, two=10)
    play.until(seconds=299)
    assert play.order == []
    asked = play.asked
    assert asked == 20
    went = Counter(play.until(seconds=11))
    assert abs(went["one"] - went["two"]) <= 1
    assert 8 <= went.total() <= 13
    assert play.asked - asked <= 4 * went.total()


@pytest.mark.parametrize("callers", [(1, 1), (8, 8), (8, 1), (40, 3)])
def test_two_jobs_get_turns(pacing: Pacing, client: redis.Redis, callers: tuple[int, int]) -> None:
    pacing.told(ACCOUNT, Usage(85))
    play = Play(pacing, client)
    play.enter(one=callers[0], two=callers[1])
    went = Counter(play.until(requests=60))
    assert abs(went["one"] - went["two"]) <= 2  # half of each, one more or less
    # A line of its own for each and no stampede; in a long one, who is far behind asks each minute.
    assert play.asked <= 4 * 60 + 5 * sum(callers)


def test_two_jobs_get_turns_though_they_never_wait_as_told(pacing: Pacing) -> None:
    pacing.told(ACCOUNT, Usage(70.5))
    went: Counter[str] = Counter()
    while went.total() < 40:
        for job in ("one", "one", "one", "one", "two"):
            went[job] += pacing.admit(ACCOUNT, job, NO_CAPS) == 0
    assert abs(went["one"] - went["two"]) <= 2


def test_a_cap_s_burst_is_shared_too(pacing: Pacing, client: redis.Redis) -> None:
    play = Play(pacing, client, Pace(per_minute=20))
    play.enter(one=30, two=15)
    play.until(requests=20)  # nobody had to wait yet: first come, first served
    went = Counter(play.until(requests=60))
    assert abs(went["one"] - went["two"]) <= 6  # twice as many callers are not twice the share


def test_who_comes_later_is_neither_behind_nor_ahead(pacing: Pacing, client: redis.Redis) -> None:
    pacing.told(ACCOUNT, Usage(75))
    play = Play(pacing, client)
    play.enter(one=6)
    play.until(requests=40)
    play.enter(two=6, three=2)
    went = Counter(play.until(requests=30))
    assert all(abs(count - 10) <= 1 for count in went.values())
    assert len(went) == 3


def test_who_is_to_come_much_later_neither_stops_others_nor_has_it_all_when_back(
    pacing: Pacing, client: redis.Redis
) -> None:
    pacing.told(ACCOUNT, Usage(99))
    assert admitted(pacing, 2, NO_CAPS, "one") == 1
    pacing.told(ACCOUNT, Usage(75))
    play = Play(pacing, client)
    play.enter(two=3)
    assert len(play.until(seconds=20)) >= 20
    play.enter(one=3)
    went = Counter(play.until(requests=20))
    assert abs(went["one"] - went["two"]) <= 4


@pytest.mark.parametrize("gone", [0, 20])
def test_one_job_alone_gets_all_though_another_stopped_asking(
    pacing: Pacing, client: redis.Redis, gone: int
) -> None:
    pacing.told(ACCOUNT, Usage(85))  # a request every 7.5 seconds
    assert pacing.admit(ACCOUNT, "one", NO_CAPS) == 0
    assert admitted(pacing, gone, NO_CAPS, "gone") == 0
    play = Play(pacing, client)
    play.enter(one=3)
    lost = 3 if gone else 0  # while it was still expected
    assert 39 - lost <= len(play.until(seconds=300)) <= 41


def test_everything_expires(pacing: Pacing, client: redis.Redis) -> None:
    pacing.told(ACCOUNT, Usage(75))
    pacing.hold(OTHER, 5000)
    for job in ("one", "two\nlines {and} more", "one", "two"):
        pacing.admit(ACCOUNT, job, Pace(per_minute=2, per_day=2))
        pacing.admit(OTHER, job, Pace(per_minute=2, per_day=2))
    names = client.keys()
    assert {name.rsplit(b":", 1)[1] for name in names} == {
        b"state", b"turns", b"promises", b"minute", b"day",
    }  # fmt: skip
    assert all(0 < client.ttl(name) <= 26 * 3600 for name in names)
    assert client.ttl(f"penstock:pace:{{{OTHER}}}:state") > 5000


def test_a_redis_that_lost_all_lets_all_go(pacing: Pacing, client: redis.Redis) -> None:
    pacing.hold(ACCOUNT, 100)
    assert pacing.admit(ACCOUNT, "job", Pace(2)) > 0
    client.flushdb()
    client.script_flush()
    assert admitted(pacing, 9, Pace(2)) == 2


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_strange_figure_does_no_lasting_harm(
    pacing: Pacing, client: redis.Redis, figure: float
) -> None:
    pacing.told(ACCOUNT, Usage(figure, figure))
    pacing.hold(ACCOUNT, figure)
    assert pacing.admit(ACCOUNT, "job", NO_CAPS) < 86400 + 60
    later(client, 2 * 86400)
    assert admitted(pacing, 9, NO_CAPS) == 9


def test_without_redis_requests_go_and_the_log_says_so_once(
    private_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock")
    pacing = Pacing(private_redis.url)
    pacing.hold(ACCOUNT, 100)
    assert pacing.admit(ACCOUNT, "job", NO_CAPS) > 0
    private_redis.kill()
    for _ in range(3):
        assert pacing.admit(ACCOUNT, "job", Pace(1)) == 0
        pacing.told(ACCOUNT, Usage(99))
        pacing.hold(ACCOUNT, 100)
    (record,) = caplog.records
    assert "go unpaced" in record.getMessage()
    private_redis.start()
    pacing.hold(ACCOUNT, 100)
    assert pacing.admit(ACCOUNT, "job", NO_CAPS) > 0
    assert "answers again" in caplog.records[-1].getMessage()
    with private_redis.client() as client:
        client.config_set("maxmemory", 1)
    assert pacing.admit(ACCOUNT, "job", NO_CAPS) == 0
    assert len(caplog.records) == 3
    pacing.close()
