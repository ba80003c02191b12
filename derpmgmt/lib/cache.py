"""The cache in Redis, which may be away, hang or refuse to write: then it is empty, and pages answer as usual.

Nothing that must be right stands in it: limits of tries go uncounted, codes that were used stand in the database. A failure is
logged once, and for some seconds after it nobody asks Redis again, so that a hanging one delays a page once and not with each
question.
"""

import logging
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import redis
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

REST_SECONDS = 5.0
# Where it is, until when nobody asks; of this process.
_resting: dict[str, float] = {}


class _OneClient(RedisCacheClient):
    """Django makes a client for each question, which takes longer than the question; here one asks them all."""

    @cached_property
    def _one(self) -> Any:
        return super().get_client(write=True)

    def get_client(self, key: Any = None, *, write: bool = False) -> Any:
        return self._one


class OpenRedisCache(RedisCache):
    """Django's Redis cache that answers as an empty one while Redis fails; `add` then counts as done, so nobody is refused."""

    _servers: list[str]

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = _OneClient
        # Who asks again is `_ask`.
        self._options: dict[str, Any] = {**params.get("OPTIONS", {}), "retry": Retry(NoBackoff(), 0)}

    def _ask(self, ask: Callable[[], Any], instead: Any) -> Any:
        where = ",".join(self._servers)
        until = _resting.get(where)
        if until is not None and time.monotonic() < until:
            return instead
        try:
            try:
                answer = ask()
            except redis.TimeoutError:
                answer = ask()  # a machine that is very busy; one that hangs does so twice
        except (redis.RedisError, OSError) as error:
            if until is None:
                # The type only: texts of errors may name a password.
                log.warning("the cache is away, limits are not counted: %s", type(error).__name__)
            _resting[where] = time.monotonic() + REST_SECONDS
            return instead
        if until is not None:
            _resting.pop(where, None)
            log.warning("the cache is back")
        return answer

    def add(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(lambda: super(OpenRedisCache, self).add(*args, **kwargs), True))

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        return self._ask(lambda: super(OpenRedisCache, self).get(key, default, version), default)

    def set(self, *args: Any, **kwargs: Any) -> None:
        self._ask(lambda: super(OpenRedisCache, self).set(*args, **kwargs), None)

    def touch(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(lambda: super(OpenRedisCache, self).touch(*args, **kwargs), False))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(lambda: super(OpenRedisCache, self).delete(*args, **kwargs), False))

    def get_many(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return self._ask(lambda: super(OpenRedisCache, self).get_many(*args, **kwargs), {})

    def set_many(self, *args: Any, **kwargs: Any) -> list[Any]:
        return self._ask(lambda: super(OpenRedisCache, self).set_many(*args, **kwargs), [])

    def delete_many(self, *args: Any, **kwargs: Any) -> None:
        self._ask(lambda: super(OpenRedisCache, self).delete_many(*args, **kwargs), None)

    def has_key(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._ask(lambda: super(OpenRedisCache, self).has_key(*args, **kwargs), False))

    def incr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """As Django's; the count of a cache that is away begins anew. Raises `ValueError` for a key that is not there."""
        return int(self._ask(lambda: super(OpenRedisCache, self).incr(key, delta, version), max(delta, 0)))

    def clear(self) -> None:
        self._ask(lambda: super(OpenRedisCache, self).clear(), None)
