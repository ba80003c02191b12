"""How often something may be tried, counted by django-ratelimit in the shared cache."""

import logging

import redis
from django.http import HttpRequest
from django_ratelimit.core import get_usage

log = logging.getLogger(__name__)


class TooManyRequests(Exception):
    """The limit is reached; `wait_seconds` until it is lifted. The middleware turns it into a 429 page that says so."""

    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"too many requests, wait {wait_seconds} s")
        self.wait_seconds = wait_seconds


def consume(request: HttpRequest, *, group: str, key: str, rate: str) -> None:
    """Count one try of `group` for `key` (an address, an account); raises `TooManyRequests` beyond `rate` ("10/5m").

    A cache that is away must not take the pages with it: then nothing is counted, and the log says so.
    """
    try:
        usage = get_usage(request, group=group, key=lambda *_: key, rate=rate, increment=True)
    except redis.RedisError as error:
        log.warning("limits are not counted, the cache is away: %s", error)
        return
    if usage and usage["should_limit"]:
        raise TooManyRequests(max(int(usage["time_left"]), 1))
