"""What a year of visits would have measured, for pictures: busy evenings, a week that grows, an outage, a restart."""

import math
import random
import time
from collections.abc import Iterator
from typing import Any

from django.db.models import Min

from containers.models import Relay
from containers.sample_models import RELAY_FIGURES, RelaySample, RelaySampleHour
from fleet.models import Server
from fleet.sample_models import LOAD_FIGURES, LoadHour, LoadSample

HOUR, DAY = 3600, 86400
STEP, RAW_HOURS, YEAR_HOURS = 60, 47, 400 * 24
# Hours ago in which the server did not answer.
OUTAGES = ((20.0, 20.6), (5 * 24.0, 5 * 24 + 4.0), (120 * 24.0, 121 * 24.0))


def _is_out(ago_hours: float) -> bool:
    return any(begin <= ago_hours < end for begin, end in OUTAGES)


def _busyness(at: int, dice: random.Random) -> float:
    """From 0 to 1: evenings in Shanghai are busy, and the year has made it more."""
    hour = (at / HOUR + 8) % 24
    late = (hour - 21 + 12) % 24 - 12
    evening = math.exp(-((late / 3.5) ** 2)) + 0.35 * math.exp(-(((hour - 13) / 3) ** 2))
    growth = 1 - 0.5 * (time.time() - at) / (400 * DAY)
    return max(0.02, min(1.0, (0.12 + 0.75 * evening) * growth * dice.uniform(0.85, 1.15)))


def _of_server(at: int, dice: random.Random) -> dict[str, float]:
    busy = _busyness(at, dice)
    age = (time.time() - at) / (400 * DAY)
    return {
        "load": 0.9 * busy, "cpu": 0.62 * busy, "memory": 0.31 + 0.12 * busy, "swap": 0.02,
        "disk": 0.58 - 0.3 * age, "inodes": 0.12 - 0.05 * age, "root": 0.44 - 0.1 * age, "root_inodes": 0.09,
        "receive_rate": 5.2e6 * busy, "send_rate": 5.4e6 * busy, "connect_ms": 38 + 30 * dice.random(),
        "answer_ms": 55 + 60 * busy, "engine_ms": 20 + 35 * busy, "clock_ms": dice.gauss(3, 2), "containers": 12,
    }  # fmt: skip


def _of_relay(at: int, dice: random.Random) -> dict[str, float]:
    busy = _busyness(at, dice)
    return {
        "cpu": 0.05 * busy, "memory": 1.2e7 + 3e6 * busy, "connections": round(2 + 5 * busy),
        "up_rate": 4.1e5 * busy, "down_rate": 4.3e5 * busy,
    }  # fmt: skip


def _samples(model: Any, key: str, pk: int, figures: Any, now: int, dice: random.Random) -> Iterator[Any]:
    for at in range(now - RAW_HOURS * HOUR, now, STEP):
        if not _is_out((now - at) / HOUR):
            yield model(**{key: pk}, at=at, **figures(at, dice))


def _hours(
    model: Any, key: str, pk: int, names: Any, figures: Any, now: int, dice: random.Random
) -> Iterator[Any]:
    for hour in range(now // HOUR - YEAR_HOURS, now // HOUR):
        if _is_out(now / HOUR - hour):
            continue
        mean = figures(hour * HOUR, dice)
        spread = {f"{name}_min": 0.7 * mean[name] for name in names}
        spread |= {f"{name}_max": 1.3 * mean[name] for name in names}
        yield model(**{key: pk}, hour=hour, samples=240, **mean, **spread)


def measure() -> None:
    """Fill the samples of every server and relay, up to the first that was really taken."""
    dice = random.Random(11)
    now = LoadSample.objects.aggregate(first=Min("at"))["first"] or int(time.time())
    for server in Server.objects.values_list("pk", flat=True):
        LoadSample.objects.bulk_create(
            _samples(LoadSample, "server_id", server, _of_server, now, dice),
            batch_size=500,
            ignore_conflicts=True,
        )
        LoadHour.objects.bulk_create(
            _hours(LoadHour, "server_id", server, LOAD_FIGURES, _of_server, now, dice),
            batch_size=400, ignore_conflicts=True,
        )  # fmt: skip
    for relay in Relay.objects.live().values_list("pk", flat=True):
        RelaySample.objects.bulk_create(
            _samples(RelaySample, "relay_id", relay, _of_relay, now, dice),
            batch_size=500,
            ignore_conflicts=True,
        )
        RelaySampleHour.objects.bulk_create(
            _hours(RelaySampleHour, "relay_id", relay, RELAY_FIGURES, _of_relay, now, dice),
            batch_size=400, ignore_conflicts=True,
        )  # fmt: skip
