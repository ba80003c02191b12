"""Who is connected to a customer's relays, by the relays' own word, and cutting off who may not be there any more.

A relay asks about a device only when it connects, so what changes later is made so here. All of it runs in threads of its own:
a relay that hangs holds nobody else up, neither the queue's worker nor another customer.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import redis
from django.core.cache import cache
from django.db import connection
from django.db.models import Max
from django.utils import timezone

from acl.models import Admission, Device, DevicePolicy
from containers.derp.presence import CannotAsk, Present, close_peers
from containers.derp.presence import read_present as read_relay
from containers.derp.probe import ProbeTarget
from containers.models import Relay
from containers.services.relays import target_of
from derpmgmt.lib import queue
from serials.models import Rental

log = logging.getLogger(__name__)
T = TypeVar("T")

# So long one relay may take, in seconds.
RELAY_SECONDS = 2.0
# After this the relays are looked at again: a device that was let in just before the change may have come in just after it.
LOOK_AGAIN_SECONDS = 1.0
# A cut whose worker died is made up for by a sweep, which looks back so far.
LOOK_BACK = timedelta(minutes=1)
# What was read counts so long; relays are asked for a page at most once in so many seconds.
KNOWN_SECONDS = 60
_ASK_PAUSE_SECONDS = 4
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


def may_connect(rental: Rental, now: datetime) -> bool:
    """Whether anybody at all may use the rental's relays now."""
    return rental.is_entitled(now) and rental.user.is_active


# Cutting off


def cut_device(device_pk: int) -> "Future[None] | None":
    """Close a revoked device's connections to all relays of its customer; None when it is not revoked (any more)."""
    revoked = Device.objects.filter(pk=device_pk, status=Device.Status.REVOKED)
    device = revoked.first()
    if device is None:
        return None
    return _cut(device.rental_id, revoked.exists, keys={device.node_key})


def cut_rental(rental_pk: int) -> "Future[None] | None":
    """Close every connection to the relays of a rental that has no rights now; None when it has."""

    def is_due() -> bool:
        rental = Rental.objects.select_related("user").filter(pk=rental_pk).first()
        return rental is not None and not may_connect(rental, timezone.now())

    return _cut(rental_pk, is_due) if is_due() else None


def cut_unknown(rental_pk: int) -> "Future[None] | None":
    """Close the connections of all but a rental's approved devices and those on trial; None when devices are not checked."""

    def is_due() -> bool:
        return not Rental.objects.filter(pk=rental_pk, device_policy__is_open=True).exists()

    now = timezone.now()
    known = Device.objects.filter(rental=rental_pk, status=Device.Status.APPROVED)
    on_trial = Device.objects.filter(rental=rental_pk, place_until__gt=now)
    spare = {row.node_key for row in (*known.only("node_key"), *on_trial.only("node_key"))}
    return _cut(rental_pk, is_due, spare=spare) if is_due() else None


class DueCuts(NamedTuple):
    """What was cut lately: devices, owners of rentals, and rentals whose devices are checked again; by primary keys."""

    devices: list[int]
    users: list[int]
    rentals: list[int]


def due_cuts(now: datetime) -> DueCuts:
    """What was cut lately and may not have been, should a worker have died over it or its bell be lost."""
    since = now - LOOK_BACK
    devices = Device.objects.filter(status=Device.Status.REVOKED, revoked_at__gte=since)
    barred = Rental.objects.filter(user__banned_at__gte=since)
    checked = DevicePolicy.objects.filter(enforced_at__gte=since, is_open=False)
    return DueCuts(
        list(devices.values_list("pk", flat=True)),
        list(barred.values_list("user_id", flat=True)),
        list(checked.values_list("rental_id", flat=True)),
    )


def _cut(
    rental_pk: int,
    is_due: Callable[[], bool],
    keys: Collection[str] | None = None,
    spare: Collection[str] = (),
) -> "Future[None]":
    """Close connections now and a moment later once more, each time only if `is_due` still says so."""

    def look() -> None:
        if not is_due():
            return
        close = partial(close_peers, keys=keys, spare=spare, timeout=RELAY_SECONDS)
        for relay, closed in _ask_each(_standing(rental_pk), close).items():
            if closed is None:
                log.info("relay %s cannot be asked to close connections", relay)
            elif closed:
                log.info("relay %s: closed the connections of %s devices", relay, closed)

    def look_twice() -> None:
        look()
        time.sleep(LOOK_AGAIN_SECONDS)
        look()

    return start_apart(look_twice)


# Who is there


def finder(rental_pks: Collection[int]) -> Callable[[Device], bool | None]:
    """Asks all relays of these rentals, now and at the same time, and says then of a device whether it is at one of them.

    None = none that answered has it, and not all answered: devices are at home at one relay, but visit the others.
    """
    relays = list(Relay.objects.live().select_related("server").filter(rental__in=rental_pks))
    read = partial(read_relay, timeout=RELAY_SECONDS)
    answers = _ask_each(relays, read)
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
    try:
        is_first = cache.add(f"presence-asked:{rental_pk}", 1, _ASK_PAUSE_SECONDS)
    except redis.RedisError:
        return
    if is_first:
        queue.announce("presence_asked", rental_pk)


def present_devices(rental: Rental) -> dict[str, Presence] | None:
    """Who is connected by node key (hexadecimal), as the relays said within the last minute; None when nothing is known."""
    reading = _last_reading(rental.pk)
    if reading is None or time.time() - reading["at"] > KNOWN_SECONDS:
        return None
    return {
        key: Presence(relay, ip, datetime.fromtimestamp(since, tz=timezone.get_current_timezone()))
        for key, (relay, ip, _port, since) in reading["present"].items()
    }


def read_presence(rental_pk: int) -> "Future[None]":
    """Ask the rental's relays who is connected, and keep it for the pages. A relay that is silent has nobody."""
    return start_apart(partial(_read_presence, rental_pk))


def _read_presence(rental_pk: int) -> None:
    answers = _ask_each(_standing(rental_pk), partial(read_relay, timeout=RELAY_SECONDS))
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
    try:
        cache.set(_key(rental_pk), {"at": now, "present": present}, _KEPT_SECONDS)
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
    since = datetime.fromtimestamp(moment, tz=timezone.get_current_timezone())
    rows = Admission.objects.filter(rental=rental_pk, is_allowed=True, at__gt=since).order_by()
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


def _standing(rental_pk: int) -> list[Relay]:
    """The rental's relays that may be there, those on their way out too."""
    return list(Relay.objects.live().select_related("server").filter(rental=rental_pk))


def _ask_each(relays: Iterable[Relay], ask: Callable[[ProbeTarget], T]) -> dict[int, T | None]:
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
