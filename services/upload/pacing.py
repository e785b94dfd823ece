"""The limiter that all upload workers share: by account it slows before the platform refuses.

It lives in Redis and is allowed to be lost there: then requests go as if nothing were scarce, and
the platform's next answer says what to do.
"""

from __future__ import annotations

import math
import os
import random
import threading
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.payloads import redis_url
from services.runtime.logs import log
from services.upload.platform import Pace, Usage
from services.upload.settings import UploadSettings

_ADMIT = Path(__file__).with_name("pacing.lua").read_text(encoding="utf-8")

# Arguments: percent used or "", seconds to hold.
_REPORT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local percent, seconds = ARGV[1], tonumber(ARGV[2])
local function text(number) return string.format('%.6f', number) end
if percent ~= '' then
  redis.call('HSET', KEYS[1], 'percent', percent, 'told', text(now))
end
local held = tonumber(redis.call('HGET', KEYS[1], 'held')) or 0
if seconds > 0 and now + seconds > held then
  held = now + seconds
  redis.call('HSET', KEYS[1], 'held', text(held), 'rest', text(seconds))
end
local keep = math.ceil(math.max(held - now, 0)) + 900
if redis.call('TTL', KEYS[1]) < keep then redis.call('EXPIRE', KEYS[1], keep) end
"""

_FULL_PERCENT = 100.0
#: How long an account rests that is used up and whose platform does not say for how long.
_REST_SECONDS = 60.0
_LONGEST_HOLD_SECONDS = 86_400.0
#: A request waits no longer for its turn to be told.
_PATIENCE_SECONDS = 2.0


class Pacing:
    """Any number of threads may use one. Nothing here raises because Redis is away."""

    def __init__(self, url: str) -> None:
        # A connection that died while idle is tried anew, once; a Redis that is slow is not.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._redis = redis.Redis.from_url(
            redis_url(url),
            socket_timeout=_PATIENCE_SECONDS,
            socket_connect_timeout=_PATIENCE_SECONDS,
            retry=again,
        )
        self._admit = self._redis.register_script(_ADMIT)
        self._report = self._redis.register_script(_REPORT)
        self._lock = threading.Lock()
        self._away = False

    def admit(self, account: str, job: str, pace: Pace) -> float:
        """Seconds to wait before the job's next request to the account; 0.0: go, and it is counted.

        Who waits asks again afterwards. Where several jobs want more than there is, they get turns;
        a job that does not come back loses its own within 15 seconds.
        """
        try:
            wait = self._admit(
                keys=[
                    _key(account, part) for part in ("state", "turns", "promises", "minute", "day")
                ],
                args=[job, pace.per_minute or 0, pace.per_day or 0, random.random()],
            )
        except redis.RedisError as exc:
            self._missed(exc)
            return 0.0
        self._answered()
        return float(wait)

    def told(self, account: str, usage: Usage) -> None:
        """What a response said of the account's usage. Up to 70 percent nothing waits; from there
        to 100 the space between requests grows; at 100 the account rests. It counts for 10 minutes.
        """
        percent = _within(usage.percent, _FULL_PERCENT)
        rest = _within(usage.regain_seconds, _LONGEST_HOLD_SECONDS) or _REST_SECONDS
        self._tell(account, f"{percent:.3f}", rest if percent >= _FULL_PERCENT else 0.0)

    def hold(self, account: str, seconds: float) -> None:
        """The platform named a wait: no request of the account goes before it is over. A hold that
        lasts longer already stays.
        """
        self._tell(account, "", _within(seconds, _LONGEST_HOLD_SECONDS))

    def close(self) -> None:
        self._redis.close()

    def _tell(self, account: str, percent: str, seconds: float) -> None:
        try:
            self._report(keys=[_key(account, "state")], args=[percent, f"{seconds:.6f}"])
        except redis.RedisError as exc:
            self._missed(exc)
        else:
            self._answered()

    def _missed(self, exc: redis.RedisError) -> None:
        with self._lock:
            known, self._away = self._away, True
        if not known:
            log.warning(
                "The Redis that paces requests does not answer, or is full (%s): until it does,"
                " they go unpaced.",
                type(exc).__name__,
            )

    def _answered(self) -> None:
        with self._lock:
            known, self._away = self._away, False
        if known:
            log.info("The Redis that paces requests answers again.")


_made_lock = threading.Lock()
_made: dict[tuple[int, str], Pacing] = {}


def pacing_of(settings: UploadSettings) -> Pacing:
    """One a process and Redis: a process that forks shares no socket with its children."""
    url = settings.payload_url or settings.broker_url
    here = (os.getpid(), url)
    with _made_lock:
        if here not in _made:
            _made[here] = Pacing(url)
        return _made[here]


def _key(account: str, part: str) -> str:
    # The braces keep an account's keys on one node, where Redis is a cluster.
    return f"penstock:pace:{{{account}}}:{part}"


def _within(number: float, most: float) -> float:
    """A platform's figure, from a header: it may be anything."""
    return min(max(number, 0.0), most) if not math.isnan(number) else 0.0
