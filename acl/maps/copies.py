"""Copies of what live URLs answer: in Redis without expiry, and as files under `VAR_DIR/live/` for when Redis is away too.

Beside them in Redis: how often was asked (limits), and who fetched what (until the clock writes it to the database). Knows no
database. Secrets never come here, only their keyed hashes.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from derpmgmt.lib.files import write_private

log = logging.getLogger(__name__)

# A Redis that does not answer within this time is left alone for a while: the copies on disk serve meanwhile.
_REDIS_SECONDS = 0.5
_REST_SECONDS = 2.0

# Requests a minute. Headscale asks every 30 s when it follows our advice; behind one address there may be many.
PER_URL = 60
PER_ADDRESS = 300

# A live URL has at most so many lines a day in the log; who is new after that is counted without a name, in one line a version.
LINES_A_DAY = 50
# Lines that wait to be written; beyond it fetches are served but not logged.
_LONGEST_LOG = 100_000
_KEEP_COUNTS = timedelta(days=3)
# How the keys of the copies in Redis begin.
_COPY = "live:copy:"

# Whoever has read the database later wins, so that a slow writer never brings an old copy back. A moment that is still to come
# was written by a wrong clock: it holds nobody up.
_KEEP = """
local known = tonumber(redis.call('HGET', KEYS[1], 'read_at') or 0)
if known > tonumber(ARGV[1]) and known <= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'read_at', ARGV[1], 'text', ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Copy:
    """What a live URL answers, as it was when the database was read at `read_at`. Times are seconds since 1970.

    `body` is the map as JSON, `file` as Headscale's YAML. They count until `counts_until`, when the regions are let go after the end
    of the rental (None = they name none), and until `lapses_at`, when the map's version lapses. A URL that is revoked, or whose
    rental is closed, will never lead to a map again.
    """

    read_at: float
    body: str = ""
    file: str = ""
    version: int | None = None
    counts_until: float | None = None
    lapses_at: float | None = None
    is_revoked: bool = False
    is_closed: bool = False


@dataclass(frozen=True)
class Glance:
    """What Redis knows about a live URL when it is asked for."""

    copy: Copy | None
    of_address: int
    of_url: int
    lines: int
    is_log_full: bool


@dataclass(frozen=True)
class Fetches:
    """Fetches of one version in one form by one address and program on one day; `key` is the same however often it is read."""

    key: str
    secret_hash: str
    version: int | None
    ip: str
    browser: str
    file_format: str
    count: int
    last_at: datetime


class _Rest:
    """Remembers, in this process, that something was away a moment ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0

    def begin(self) -> None:
        self._until = time.monotonic() + self._seconds

    def end(self) -> None:
        self._until = 0.0

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self._until


redis_rest = _Rest(_REST_SECONDS)
database_rest = _Rest(5.0)


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=_REDIS_SECONDS,
        socket_connect_timeout=_REDIS_SECONDS,
        retry=Retry(NoBackoff(), 1),
        decode_responses=True,
    )


def _redis() -> redis.Redis:
    return _client(settings.CACHES["default"]["LOCATION"])


def _day(now: datetime) -> str:
    return f"{timezone.localdate(now):%Y%m%d}"


def _folder() -> Path:
    return Path(settings.VAR_DIR) / "live"


def _path(secret_hash: str) -> Path:
    return _folder() / f"{secret_hash}.json"


def _parse(text: str | None) -> Copy | None:
    try:
        return Copy(**json.loads(text)) if text else None
    except (ValueError, TypeError):
        return None  # written by another release: as good as none


def glance(secret_hash: str, network: str, now: datetime) -> Glance | None:
    """Count one request by `network` and see what is known of the live URL; None when Redis is away."""
    if redis_rest.is_on:
        return None
    minute = int(now.timestamp() // 60)
    by_url, by_address = f"live:asked:{secret_hash}:{minute}", f"live:asked:{network}:{minute}"
    try:
        with _redis().pipeline(transaction=False) as pipe:
            pipe.hget(f"{_COPY}{secret_hash}", "text")
            pipe.incr(by_address)
            pipe.expire(by_address, 120)
            pipe.incr(by_url)
            pipe.expire(by_url, 120)
            pipe.hlen(f"live:count:{_day(now)}:{secret_hash}")
            pipe.zcard("live:fetched")
            text, of_address, _, of_url, _, lines, waiting = pipe.execute()
    except redis.RedisError as error:
        _note_redis_away(error)
        return None
    return Glance(_parse(text), of_address, of_url, lines, waiting >= _LONGEST_LOG)


def keep(secret_hash: str, copy: Copy) -> None:
    """Store a copy in Redis and on disk, unless a later one stands there; what is away is logged and no more.

    Nothing is left on disk of a URL that will never lead to a map again.
    """
    text, now = json.dumps(asdict(copy), ensure_ascii=False), timezone.now().timestamp()
    is_late = False
    try:
        if not redis_rest.is_on:
            values = (repr(copy.read_at), text, repr(now))
            is_late = not _redis().eval(_KEEP, 1, f"{_COPY}{secret_hash}", *values)
    except redis.RedisError as error:
        _note_redis_away(error)
    try:
        path = _path(secret_hash)
        if copy.is_revoked or copy.is_closed:
            path.unlink(missing_ok=True)
            return
        known = read_file(secret_hash)
        if is_late or (known and copy.read_at < known.read_at <= now):
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
    except OSError as error:
        log.warning("the copy of a live URL could not be written or removed: %s", error)


def kept_hashes() -> set[str]:
    """The URLs of which there are copies, on disk or in Redis."""
    kept = {path.stem for path in _folder().glob("[!.]*.json")}
    try:
        if not redis_rest.is_on:
            kept |= {key.removeprefix(_COPY) for key in _redis().scan_iter(f"{_COPY}*", count=1000)}
    except redis.RedisError as error:
        _note_redis_away(error)
    return kept


def forget(secret_hashes: Iterable[str]) -> None:
    """Remove these URLs' copies, wherever they are; what is away is logged and no more."""
    for secret_hash in secret_hashes:
        try:
            _path(secret_hash).unlink(missing_ok=True)
        except OSError as error:
            log.warning("the copy of a live URL could not be removed: %s", error)
        try:
            if not redis_rest.is_on:
                _redis().delete(f"{_COPY}{secret_hash}")
        except redis.RedisError as error:
            _note_redis_away(error)


def remove_unfinished(before: datetime) -> None:
    """Remove the files that a writer left half written when it died before that moment."""
    for path in _folder().glob(".*"):
        try:
            if path.stat().st_mtime < before.timestamp():
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a half written copy of a live URL could not be removed: %s", error)


def read_file(secret_hash: str) -> Copy | None:
    """The copy on disk."""
    try:
        return _parse(_path(secret_hash).read_text())
    except OSError:
        return None


def record_fetch(
    secret_hash: str, seen: Glance, *, version: int | None, ip: str, browser: str, file_format: str
) -> None:
    """Count one fetch towards the log; bounded, and dropped when Redis is away."""
    if seen.is_log_full:
        return
    now = timezone.now()
    day, field = _day(now), json.dumps([version, ip, browser, file_format], ensure_ascii=False)
    counts = f"live:count:{day}:{secret_hash}"
    try:
        # Whoever has a line goes on in it.
        if seen.lines >= LINES_A_DAY and not _redis().hexists(counts, field):
            field = json.dumps([version, "", "", file_format])
        with _redis().pipeline(transaction=False) as pipe:
            pipe.hincrby(counts, field, 1)
            pipe.expire(counts, _KEEP_COUNTS)
            pipe.zadd("live:fetched", {f"{day} {secret_hash} {field}": now.timestamp()})
            pipe.execute()
    except redis.RedisError as error:
        _note_redis_away(error)


def read_fetches(limit: int) -> tuple[list[Fetches], float]:
    """The lines of the log that grew since they were last forgotten, longest waiting first, and up to when they count.

    Counts are of the whole day, so that reading twice tells the same. Raises `redis.RedisError` when Redis is away.
    """
    client = _redis()
    waiting: Any = client.zrange("live:fetched", 0, limit - 1, withscores=True)
    with client.pipeline(transaction=False) as pipe:
        for member, _ in waiting:
            day, secret_hash, field = member.split(" ", 2)
            pipe.hget(f"live:count:{day}:{secret_hash}", field)
        counts = pipe.execute()
    found = []
    for (member, score), count in zip(waiting, counts, strict=True):
        _, secret_hash, field = member.split(" ", 2)
        # Three values were written by a release that knew one form only.
        version, ip, browser, file_format = (*json.loads(field), "json")[:4]
        key = hashlib.sha256(member.encode()).hexdigest()
        at = datetime.fromtimestamp(score, UTC)
        found.append(Fetches(key, secret_hash, version, ip, browser, file_format, int(count or 1), at))
    return found, waiting[-1][1] if waiting else 0.0


def forget_fetches(until: float) -> None:
    """Forget which lines grew up to `until`; what was fetched since is read again."""
    _redis().zremrangebyscore("live:fetched", "-inf", until)


def wait_seconds(now: datetime) -> int:
    """Until the counts of requests begin anew."""
    return 60 - int(now.timestamp()) % 60


def _note_redis_away(error: redis.RedisError) -> None:
    if not redis_rest.is_on:
        log.warning("live URLs are served without Redis, which is away: %s", error)
    redis_rest.begin()
