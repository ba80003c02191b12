"""Who is connected to a customer's relays, by the relays' own word.

Relays are asked in threads of their own: one that hangs holds nobody else up, neither the queue's worker nor another customer.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import redis
from django.core.cache import cache
from django.db import connection
from django.db.models import Max
from django.utils import timezone

from acl.devices.models import Admission, Device
from containers.derp.presence import CannotAsk, Present
from containers.derp.presence import read_present as read_relay
from containers.derp.probe import ProbeTarget
from containers.models import Relay
from containers.services.relays import target_of
from derpmgmt.lib import queue
from derpmgmt.lib.kept import Kept
from serials.rentals.models import Rental

log = logging.getLogger(__name__)
T = TypeVar("T")

# So long one relay may take, in seconds.
RELAY_SECONDS = 2.0
# What was read counts so long; relays are asked for a page at most once in so many seconds.
KNOWN_SECONDS = 60
_ASK_PAUSE_SECONDS = 4
# Where another process had them asked, this one looks so much later whether it is its turn.
_LOOK_AGAIN_SECONDS = 1
# By rental, until when (`time.monotonic`) this process need not look.
_quiet_until: Kept[float] = Kept(10_000)
# Kept longer than it counts, so that the next reading knows since when somebody is there.
_KEPT_SECONDS = 24 * 3600
# Customers, and for a sweep relays, that one process deals with at the same time.
_AT_ONCE = 32


@lru_cache
def _threads_of(_pid: int) -> ThreadPoolExecutor:
    # By process: a forked child would wait for threads that only its parent has.
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="presence")


class Presence(NamedTuple):
    """A device that is connected now: to which relay (pk), from where, since when."""

    relay: int
    ip: str
    since: datetime


class Reading(NamedTuple):
    """What a rental's relays said at `at`: who is connected by node key (hexadecimal), and which relays (pks) were silent."""

    at: datetime
    present: Mapping[str, Presence]
    silent: frozenset[int]
    # Whether any relay answered, or there is none.
    is_known: bool


# Who is there


def finder(rental_pks: Collection[int]) -> Callable[[Device], bool | None]:
    """Asks all relays of these rentals, now and at the same time, and says then of a device whether it is at one of them.

    None = none that answered has it, and not all answered: devices are at home at one relay, but visit the others.
    """
    relays = list(Relay.objects.live().select_related("server").filter(rental__in=rental_pks))
    read = partial(read_relay, timeout=RELAY_SECONDS)
    answers = ask_each(relays, read)
    present: dict[int, set[str]] = {pk: set() for pk in rental_pks}
    silent = set()
    for relay in relays:
        answer = answers[relay.pk]
        if answer is None:
            silent.add(relay.rental_id)
        else:
            present[relay.rental_id or 0] |= {one.node_key for one in answer}

    def is_present(device: Device) -> bool | None:
        if device.node_key in present[device.rental_id]:
            return True
        return None if device.rental_id in silent else False

    return is_present


def ask_presence(*, rental_pk: int) -> None:
    """Have the rental's relays asked who is there, unless that was done a moment ago. Announces `presence_asked`."""
    now = time.monotonic()
    if now < (_quiet_until.find(rental_pk) or 0):
        return
    try:
        is_first = cache.add(f"presence-asked:{rental_pk}", 1, _ASK_PAUSE_SECONDS)
    except redis.RedisError:
        return
    _quiet_until.keep(rental_pk, now + (_ASK_PAUSE_SECONDS if is_first else _LOOK_AGAIN_SECONDS))
    if is_first:
        queue.announce("presence_asked", rental_pk)


def last_reading(rental: Rental) -> Reading | None:
    """What the rental's relays said within the last minute; None when they were not asked."""
    kept = _last_reading(rental.pk)
    if kept is None or time.time() - kept["at"] > KNOWN_SECONDS:
        return None
    present = {
        key: Presence(relay, ip, _moment(since)) for key, (relay, ip, _port, since) in kept["present"].items()
    }
    return Reading(
        _moment(kept["at"]), present, frozenset(kept.get("silent", ())), kept.get("is_known", True)
    )


def present_devices(rental: Rental) -> Mapping[str, Presence] | None:
    """Who is connected by node key, as far as the relays said so within the last minute; None when none of them did."""
    reading = last_reading(rental)
    return reading.present if reading is not None and reading.is_known else None


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, tz=timezone.get_current_timezone())


def read_presence(rental_pk: int) -> "Future[None]":
    """Ask the rental's relays who is connected, and keep it for the pages, with which of them were silent."""
    return start_apart(partial(_read_presence, rental_pk))


def _read_presence(rental_pk: int) -> None:
    relays = standing(rental_pk)
    answers = ask_each(relays, partial(read_relay, timeout=RELAY_SECONDS))
    now = time.time()
    last = _last_reading(rental_pk) or {"at": 0.0, "present": {}}
    admitted = _admitted_since(rental_pk, last["at"])
    present: dict[str, tuple[int, str, int, float]] = {}
    for relay, found in answers.items():
        for one in found or ():
            since = _since(one, relay, last, admitted, now)
            # Devices visit other relays than their own for a moment: where it has been longest, it is at home.
            if one.node_key not in present or since < present[one.node_key][3]:
                present[one.node_key] = (relay, one.ip, one.port, since)
    silent = silent_ones(relays, answers)
    is_known = not silent or any(found is not None for found in answers.values())
    kept = {"at": now, "present": present, "silent": silent, "is_known": is_known}
    try:
        cache.set(_key(rental_pk), kept, _KEPT_SECONDS)
    except redis.RedisError as error:
        log.warning("who is connected is not kept, the cache is away: %s", error)


def _since(
    one: Present, relay: int, last: dict[str, Any], admitted: dict[tuple[int, str], float], now: float
) -> float:
    """Since when a client is there: the same connection as at the last reading, or one that was let in after it."""
    known = last["present"].get(one.node_key)
    if known and known[:3] == (relay, one.ip, one.port):
        return float(known[3])
    return admitted.get((relay, one.node_key), now)


def _admitted_since(rental_pk: int, moment: float) -> dict[tuple[int, str], float]:
    rows = Admission.objects.filter(rental=rental_pk, is_allowed=True, at__gt=_moment(moment)).order_by()
    latest = rows.values_list("relay_id", "node_key").annotate(Max("at"))
    return {(relay, node_key): at.timestamp() for relay, node_key, at in latest}


def forget_presence(rental_pk: int) -> None:
    """Forget who was connected to the rental's relays; raises `redis.RedisError` when the cache is away."""
    cache.delete(_key(rental_pk))


def _last_reading(rental_pk: int) -> dict[str, Any] | None:
    try:
        reading: dict[str, Any] | None = cache.get(_key(rental_pk))
    except redis.RedisError:
        return None
    return reading


def _key(rental_pk: int) -> str:
    return f"presence:{rental_pk}"


# The relays


def standing(rental_pk: int) -> list[Relay]:
    """The rental's relays that may be there, those on their way out too."""
    return list(Relay.objects.live().select_related("server").filter(rental=rental_pk))


def ask_each(relays: Iterable[Relay], ask: Callable[[ProbeTarget], T]) -> dict[int, T | None]:
    """Ask relays at the same time; answers by primary key, None for those that could not be asked."""
    targets = {relay.pk: target_of(relay) for relay in relays}
    if not targets:
        return {}

    def attempt(target: ProbeTarget) -> T | None:
        try:
            return ask(target)
        except CannotAsk:
            return None

    try:
        with ThreadPoolExecutor(min(len(targets), _AT_ONCE)) as pool:
            answers = list(pool.map(attempt, targets.values()))
    except RuntimeError:
        # The process is ending and starts no thread any more: what is under way is finished one by one.
        answers = [attempt(target) for target in targets.values()]
    return dict(zip(targets, answers, strict=True))


def silent_ones(relays: Iterable[Relay], answers: Mapping[int, object]) -> list[int]:
    """The relays (pks) that did not answer and may have devices: what never carried a packet stands in nobody's map."""
    return [relay.pk for relay in relays if relay.proven_at is not None and answers[relay.pk] is None]


def start_apart(work: Callable[[], None]) -> "Future[None]":
    """Run `work`, which waits for relays, in a thread of its own; what it raises is logged."""
    return _threads_of(os.getpid()).submit(_apart, work)


def _apart(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, with a database connection of its own."""
    try:
        work()
    except Exception:
        log.exception("relays could not be asked")
    finally:
        connection.close()
