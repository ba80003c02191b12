"""How often something may be tried, counted by django-ratelimit in the shared cache; uncounted while the cache is away."""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis
from django.http import HttpRequest
from django.utils.translation import ngettext
from django_ratelimit.core import get_usage

from derpmgmt.lib.refusals import Refusal

log = logging.getLogger(__name__)


class TooManyRequests(Refusal):
    """The limit is reached; `wait_seconds` until it is lifted. The middleware turns it into a 429 page that says so."""

    code = "too_many_requests"

    def __init__(self, wait_seconds: int) -> None:
        super().__init__(wait_seconds=wait_seconds)
        self.wait_seconds = wait_seconds

    def __str__(self) -> str:
        minutes = -(-self.wait_seconds // 60)
        text = ngettext(
            "Too many tries. Wait %(count)d minute, then try again.",
            "Too many tries. Wait %(count)d minutes, then try again.",
            minutes,
        )
        return text % {"count": minutes}


class Limit(NamedTuple):
    """What is counted under one key (an address, an account), and how many times it may be ("10/5m")."""

    key: str
    rate: str


def consume(request: HttpRequest, *, group: str, key: str, rate: str) -> None:
    """Count one try of `group` for `key` (an address, an account); raises `TooManyRequests` beyond `rate` ("10/5m")."""
    usage = _usage(request, group, Limit(key, rate), increment=True)
    if usage and usage["should_limit"]:
        raise TooManyRequests(max(int(usage["time_left"]), 1))


def ask(request: HttpRequest, *, group: str, counts: Iterable[Limit]) -> None:
    """Raises `TooManyRequests`, with the longest wait, where one of the counts has reached its rate; counts nothing."""
    waits = [
        usage["time_left"]
        for limit in counts
        if (usage := _usage(request, group, limit, increment=False)) and usage["count"] >= usage["limit"]
    ]
    if waits:
        raise TooManyRequests(max(int(max(waits)), 1))


def count(request: HttpRequest, *, group: str, counts: Iterable[Limit]) -> None:
    """Count one try under each key; refuses nothing."""
    for limit in counts:
        _usage(request, group, limit, increment=True)


def _usage(request: HttpRequest, group: str, limit: Limit, *, increment: bool) -> dict[str, Any] | None:
    try:
        usage: dict[str, Any] | None = get_usage(
            request, group=group, key=lambda *_: limit.key, rate=limit.rate, increment=increment
        )
    except redis.RedisError as error:  # another cache than the panel's own, which says so itself
        log.warning("limits are not counted, the cache is away: %s", type(error).__name__)
        return None
    return usage
