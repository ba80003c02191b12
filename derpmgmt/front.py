"""What the front page says of the panel itself: figures from the rows, and where its servers stand."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from containers.models import Relay, RelayHealth
from derpmgmt.lib.kept import Kept
from fleet.models import Region, Server

DAY = timedelta(days=1)
# Everybody may ask for the front page, and the figures read a day of tests: once in so many seconds is enough.
KNOWN_SECONDS = 30.0


@dataclass(frozen=True)
class Facts:
    """How many customers' relays carry packets, the middle of their handshakes of the last day in milliseconds and the share of its tests
    that passed, in percent (None = no test), and the regions in which servers are in use."""

    relays: int = 0
    handshake_ms: float | None = None
    passed: float | None = None
    regions: tuple[Region, ...] = ()


_FACTS: Kept[Facts] = Kept(1)


def current_facts() -> Facts:
    """The facts as they were half a minute ago at most."""
    return _FACTS.get(int(time.monotonic() / KNOWN_SECONDS), lambda: read_facts(timezone.now()))


def read_facts(now: datetime) -> Facts:
    """The facts as the rows tell them."""
    tests = RelayHealth.objects.filter(at__gt=now - DAY, at__lte=now, relay__rental__isnull=False).order_by()
    number, passed = tests.count(), tests.filter(is_ok=True).count()
    times = tests.filter(is_ok=True).order_by("handshake_ms").values_list("handshake_ms", flat=True)
    middle = times[passed // 2 : passed // 2 + 1]
    in_use = Server.objects.managed().filter(status=Server.Status.HEALTHY)
    return Facts(
        relays=Relay.objects.carrying().filter(rental__isnull=False).count(),
        handshake_ms=next(iter(middle), None) if passed else None,
        # Rounded down: what failed is not rounded away.
        passed=math.floor(1000 * passed / number) / 10 if number else None,
        regions=tuple(Region.objects.filter(pk__in=in_use.values("region")).order_by("code")),
    )


@dataclass(frozen=True)
class Spot:
    """A region on the map: where its dot and its name stand, in the drawing's units; `anchor` is which end of the name stands there."""

    name: str
    x: int
    y: int
    label_x: int
    label_y: int
    anchor: str


@dataclass(frozen=True)
class RegionMap:
    """Regions by their coordinates on a net of meridians and parallels: (position, degrees). No borders and no coasts: which are right is
    for no panel to say."""

    width: int
    height: int
    spots: tuple[Spot, ...]
    meridians: tuple[tuple[int, str], ...]
    parallels: tuple[tuple[int, str], ...]


_WIDTH, _HEIGHT, _MARGIN = 640, 360, 48
# The least that is shown, in degrees, so that two neighbouring cities are not at opposite ends.
_LEAST = 16.0
_LINE = 20


def draw_regions(regions: Iterable[Region]) -> RegionMap | None:
    """The map of the regions whose coordinates are known; None when there is none."""
    known = [
        (region.name, region.longitude, region.latitude)
        for region in regions
        if region.longitude is not None and region.latitude is not None
    ]
    if not known:
        return None
    east, west = max(place[1] for place in known), min(place[1] for place in known)
    north, south = max(place[2] for place in known), min(place[2] for place in known)
    middle_x, middle_y = (east + west) / 2, (north + south) / 2
    # A degree of longitude is as long as one of latitude times the cosine of this.
    squeeze = max(math.cos(math.radians(middle_y)), 0.2)
    scale = min(
        (_WIDTH - 4 * _MARGIN) / max((east - west) * squeeze, _LEAST),
        (_HEIGHT - 2 * _MARGIN) / max(north - south, _LEAST * _HEIGHT / _WIDTH),
    )

    def across(longitude: float) -> int:
        return round(_WIDTH / 2 + (longitude - middle_x) * squeeze * scale)

    def down(latitude: float) -> int:
        return round(_HEIGHT / 2 - (latitude - middle_y) * scale)

    step = next((step for step in (5, 10, 20, 30) if step * scale * squeeze >= 70), 45)
    meridians = _lines(middle_x, _WIDTH / 2 / squeeze / scale, step)
    parallels = _lines(middle_y, _HEIGHT / 2 / scale, step)
    return RegionMap(
        _WIDTH,
        _HEIGHT,
        tuple(_spread([(name, across(x), down(y)) for name, x, y in known])),
        # One at the right edge would have no room for its name.
        tuple(
            (across(line), f"{abs(line)}°{'E' if line >= 0 else 'W'}")
            for line in meridians
            if across(line) < _WIDTH - _MARGIN
        ),
        tuple(
            (down(line), f"{abs(line)}°{'N' if line >= 0 else 'S'}") for line in parallels if abs(line) <= 90
        ),
    )


def _lines(middle: float, reach: float, step: int) -> range:
    return range(math.ceil((middle - reach) / step) * step, math.floor(middle + reach) + 1, step)


def _spread(dots: list[tuple[str, int, int]]) -> Iterable[Spot]:
    """Names beside their dots, towards the middle of the map where those at its edge would leave it, and none on another."""
    taken: list[tuple[str, int]] = []
    for name, x, y in sorted(dots, key=lambda dot: dot[2]):
        anchor, side = ("end", -20) if x > 2 * _WIDTH / 3 else ("start", 20)
        line = y + 5
        while any(anchor == other and abs(line - place) < _LINE for other, place in taken):
            line += 1
        taken.append((anchor, line))
        yield Spot(name, x, y, x + side, line, anchor)
