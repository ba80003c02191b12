"""Making, withdrawing and ending versions of a customer's map."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q, QuerySet
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation
from acl.maps import derpmap
from acl.maps.derpmap import MapNode
from acl.maps.models import RENEW_BEFORE, VALID_FOR, AclConfig, AclEvent, MapRegion
from acl.maps.services.regions import CHANGES_APART, choose_relays
from containers.models import Relay
from containers.services.rotation import rotate_relay
from derpmgmt.lib import queue
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.places import place_of
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.refusals import Refusal
from serials.rentals.models import Rental

RELAYS_CHANGED = gettext_noop("relays were added or changed")
REGION_CHANGED = gettext_noop("a region ID was changed")
LAPSED = gettext_noop("the version before it lapses")
RENEWED = gettext_noop("renewed by hand")
NOT_ENTITLED = gettext_noop("the rental is not active")
NO_RELAY = gettext_noop("there is no relay left")

# Relays that come up together are put into the map together: none waits longer for the others than this, and a sweep.
GATHERS = timedelta(seconds=10)


class RegionIdRefused(Refusal):
    """A region ID cannot be had."""

    code, field = "region_id_refused", "region_id"


def active_config(rental: Rental) -> AclConfig | None:
    """The version that counts now, lapsed or not; None while there is none."""
    return AclConfig.objects.filter(rental=rental, is_active=True).first()


@transaction.atomic
def refresh_map(
    *, rental: Rental, reason: str, by: User | None = None, is_forced: bool = False
) -> AclConfig | None:
    """Make the active version what the rental's relays call for; None when it already is, or when no map is due.

    A new version is made when the way to a relay differs, when the old version lapses within `RENEW_BEFORE`, and when
    `is_forced`; a new name alone waits for that. Which relay stands under which region ID, and when, is `choose_relays`'s word. Of
    several places that get their first relay at a time the first ones wait for the others, at most `GATHERS` long, unless a
    person asked (`by`). A rental without rights or relays loses its map. `reason` (an English sentence
    marked for translation) says why the relays may have changed, `by` who did it (None = the system). Harmless when
    doubled, unless forced. Announces `map_changed`.
    """
    rental = Rental.objects.select_for_update().get(pk=rental.pk)
    now = timezone.now()
    active = active_config(rental)
    if not rental.is_entitled(now):
        withdraw(rental, active, NOT_ENTITLED)
        return None
    places = rental.relays.in_map().select_related("server__region").defer(*Relay.SECRETS)
    holders = {relay.slot: relay for relay in places if relay.slot is not None}
    regions = MapRegion.objects.filter(rental=rental).select_related("relay__server__region")
    rows = list(regions.defer(*(f"relay__{name}" for name in Relay.SECRETS)))
    if not (is_forced or by) and _is_gathering(rental, holders, rows, active, now):
        return None
    rows += _add_places(rental, holders, rows)
    chosen = choose_relays(rows, holders, now)
    if not chosen:
        withdraw(rental, active, NO_RELAY)
        return None
    _record_choice(rows, chosen, now)
    with translation.override(rental.user.language):
        derp_map = derpmap.build_map(_map_node(row, relay) for row, relay in chosen.items())
    if active and not is_forced and derpmap.ways(active.derp_map) == derpmap.ways(derp_map):
        if now < active.ends_at - RENEW_BEFORE:
            return None
        reason, by = LAPSED, None
    last = AclConfig.objects.filter(rental=rental).aggregate(last=Max("version"))["last"] or 0
    if active:
        AclConfig.objects.filter(pk=active.pk).update(is_active=None)
    config = AclConfig.objects.create(
        rental=rental,
        version=last + 1,
        derp_map=derp_map,
        created_at=now,
        ends_at=now + VALID_FOR,
        reason=reason[:200],
    )
    record_event(rental=rental, kind=AclEvent.Kind.MADE, version=config.version, reason=reason, by=by)
    queue.announce("map_changed", rental.pk)
    return config


def _is_gathering(
    rental: Rental,
    holders: Mapping[int, Relay],
    rows: list[MapRegion],
    active: AclConfig | None,
    now: datetime,
) -> bool:
    """Whether relays came up a moment ago in places that are not in the map yet, and others of the same rental are about to."""
    known = set(active.derp_map["Regions"]) if active else set()
    shown = {row.slot for row in rows if str(row.region_id) in known}
    proven = [relay.proven_at for slot, relay in holders.items() if slot not in shown and relay.proven_at]
    return (
        bool(proven)
        and now < min(proven) + GATHERS
        and Relay.objects.coming_up().filter(rental=rental).exists()
    )


def withdraw(rental: Rental, active: AclConfig | None, reason: str) -> None:
    if active:
        AclConfig.objects.filter(pk=active.pk).update(is_active=None)
        record_event(rental=rental, kind=AclEvent.Kind.WITHDRAWN, version=active.version, reason=reason)
        queue.announce("map_changed", rental.pk)


def _map_node(row: MapRegion, relay: Relay) -> MapNode:
    region = relay.server.region
    return MapNode(
        region_id=row.region_id,
        # As the relay's card is headed. One that retires without a place is told apart by its region ID.
        number=row.slot or row.region_id,
        code=region.code,
        name=region.name,
        latitude=region.latitude,
        longitude=region.longitude,
        address=relay.server.address,
        derp_port=relay.derp_port,
        stun_port=relay.stun_port,
        certificate_sha256=relay.certificate_sha256,
    )


def _add_places(rental: Rental, holders: Mapping[int, Relay], rows: list[MapRegion]) -> list[MapRegion]:
    """Make the places that have a relay for the first time, each with the lowest region ID that is free."""
    taken, known = {row.region_id for row in rows}, {row.slot for row in rows}
    # 900 comes last: it is what people choose for relays of their own.
    free = (number for number in [*range(901, 1000), 900] if number not in taken)
    return [
        MapRegion.objects.create(rental=rental, slot=slot, region_id=next(free))
        for slot in sorted(holders)
        if slot not in known
    ]


def _record_choice(rows: list[MapRegion], chosen: Mapping[MapRegion, Relay], now: datetime) -> None:
    """Write down which relay each place leads to; a region without a place goes with its relay."""
    for row in rows:
        relay = chosen.get(row)
        if relay is None:
            if row.slot is None:
                row.delete()
        elif row.relay_id != relay.pk:
            if row.relay_id is not None:
                row.changed_at = now
            row.relay = relay
            row.save(update_fields=["relay", "changed_at"])


def mapped_relays(rental_pk: int) -> Iterator[int]:
    """Answer to "mapped_relays": the relays (pks) to which the places of a rental led in the last version of its map."""
    places = MapRegion.objects.filter(rental=rental_pk, slot__isnull=False, relay__isnull=False)
    yield from places.values_list("relay_id", flat=True)


_CHANGED = Prepared(
    lambda since: Relay.objects.filter(rental__isnull=False, changed_at__gte=since).values("rental_id")
)
_LAPSING = Prepared(
    lambda until: AclConfig.objects.filter(is_active=True, ends_at__lte=until).values("rental_id")
)


def due_rentals(now: datetime, *, changed_since: datetime | None) -> list[Rental]:
    """Rentals whose active version lapses within `RENEW_BEFORE`, is missing, or is not what their relays call for.

    Looks at the rentals whose relays changed since `changed_since` (None: at all of them) and at the versions near their end;
    at most six queries, and their cost goes by these, not by how many maps there are.
    """
    relays = Relay.objects.filter(rental__isnull=False)
    configs = AclConfig.objects.filter(is_active=True)
    regions = MapRegion.objects.all()
    if changed_since is not None:
        looked_at = {row["rental_id"] for row in _CHANGED.read(since=changed_since)}
        looked_at |= {row["rental_id"] for row in _LAPSING.read(until=now + RENEW_BEFORE)}
        if not looked_at:
            return []
        relays, configs = relays.filter(rental__in=looked_at), configs.filter(rental__in=looked_at)
        regions = regions.filter(rental__in=looked_at)
    entitled = Rental.objects.entitled(now)
    holders: dict[int, dict[int, Relay]] = defaultdict(dict)
    for relay in relays.in_map().filter(rental__in=entitled).select_related("server").only(*_WAY_FIELDS):
        assert relay.rental_id is not None
        assert relay.slot is not None
        holders[relay.rental_id][relay.slot] = relay
    rows: dict[int, list[MapRegion]] = defaultdict(list)
    fields = ["rental_id", "region_id", "slot", "changed_at", *(f"relay__{name}" for name in _WAY_FIELDS)]
    for row in regions.filter(rental__in=entitled).select_related("relay__server").only(*fields):
        rows[row.rental_id].append(row)
    wanted = {pk: _wanted_ways(rows[pk], holders[pk], now) for pk in rows.keys() | holders.keys()}
    is_right = {
        rental_pk: now < ends_at - RENEW_BEFORE and derpmap.ways(derp_map) == wanted.get(rental_pk)
        for rental_pk, ends_at, derp_map in configs.values_list("rental_id", "ends_at", "derp_map")
    }
    due = sorted(
        pk for pk in wanted.keys() | is_right.keys() if not is_right.get(pk, wanted.get(pk) == set())
    )
    return list(Rental.objects.filter(pk__in=due)) if due else []


# What `choose_relays` and a way need to know of a relay.
_WAY_FIELDS = (
    "rental_id", "slot", "status", "proven_at", "released_at",
    "derp_port", "stun_port", "certificate_sha256", "server__address",
)  # fmt: skip


def _wanted_ways(
    rows: list[MapRegion], holders: Mapping[int, Relay], now: datetime
) -> set[derpmap.Way] | None:
    """What the ways of the rental's map should be; None when a place is to be made first."""
    if holders.keys() - {row.slot for row in rows}:
        return None
    chosen = choose_relays(rows, holders, now)
    return {
        (row.region_id, relay.server.address, relay.derp_port, relay.stun_port, relay.certificate_sha256)
        for row, relay in chosen.items()
    }


def change_region_id(
    *, rental: Rental, map_region: MapRegion, region_id: int, by: User, ip: str | None = None
) -> AclConfig | None:
    """Give a place of this rental another region ID and make the version that has it; None when the number stays.

    It is the only way by which a region leaves the map while its relay answers: the customer wants it so, and the page says what it
    costs. Raises `RegionIdRefused` when the number is not from 900 to 999, when another of the customer's relays has it, and, once
    devices may know the map, within `CHANGES_APART` of another place's change.
    """
    if not derpmap.FIRST_REGION_ID <= region_id <= derpmap.LAST_REGION_ID:
        raise RegionIdRefused(
            _("Choose a number from 900 to 999: Tailscale reserves these for custom regions.")
        )
    with transaction.atomic():
        rental = Rental.objects.select_for_update().get(pk=rental.pk)
        now = timezone.now()
        rows = {row.pk: row for row in MapRegion.objects.filter(rental=rental).select_related("relay")}
        row = rows.get(map_region.pk)
        if row is None:
            raise RegionIdRefused(_("This region is no longer in your map. Reload the page."))
        if row.region_id == region_id:
            return None
        holder = next((other for other in rows.values() if other.region_id == region_id), None)
        holders = {relay.slot: relay for relay in rental.relays.in_map() if relay.slot is not None}
        if holder and holder in choose_relays(rows.values(), holders, now):
            raise RegionIdRefused(
                gettext("%(number)s is the region ID of another of your relays.") % {"number": region_id}
            )
        changed = [other.changed_at for other in rows.values() if other != row and other.changed_at]
        if changed and max(changed) > now - CHANGES_APART and was_handed_out(rental):
            raise RegionIdRefused(
                _(
                    "Another region of your map changed a moment ago. Change this one in a minute, so that your devices have a "
                    "relay all the time."
                )
            )
        if holder:
            holder.delete()
        old, row.region_id, row.changed_at = row.region_id, region_id, now
        row.save(update_fields=["region_id", "changed_at"])
        log_operation(
            by=by, action="map.region_changed", target=f"{old} → {region_id}", subject=rental.user, ip=ip
        )
        return refresh_map(rental=rental, reason=REGION_CHANGED, by=by)


def was_handed_out(rental: Rental) -> bool:
    """Whether devices may know the map: somebody took it, or it was fetched."""
    kinds = [AclEvent.Kind.DOWNLOADED, AclEvent.Kind.FETCHED]
    return AclEvent.objects.filter(rental=rental, kind__in=kinds, version__isnull=False).exists()


def due_lapses(now: datetime) -> QuerySet[AclConfig]:
    """Versions whose last day is over, as far as something can be done about it and is not done yet, the longest lapsed first."""
    lapsed = AclConfig.objects.filter(lapsed_at=None, ends_at__lte=now).order_by("ends_at")
    if settings.ROTATE_PINS:
        # Those of rentals that are over wait for their return, and must not stand in the others' way.
        is_over_for_good = Q(rental__closed_at__isnull=False)
        lapsed = lapsed.filter(is_over_for_good | Q(rental__in=Rental.objects.entitled(now)))
    return lapsed.select_related("rental")


def record_lapse(*, config: AclConfig, now: datetime) -> bool:
    """Do what follows from the end of a version; False when it has to be called again. Harmless when doubled.

    With `settings.ROTATE_PINS` the customer's relays whose pins the version names get successors with new ones, make before
    break, so that snippets copied away really stop. It is done when none of these relays stands in its place any more, or would
    come back to it: while a rental is not active there is nothing to be replaced, and its relays return with the pins they had.
    """
    if settings.ROTATE_PINS and config.rental.closed_at is None:
        if not config.rental.is_entitled(now):
            return False
        pins = {way[-1] for way in derpmap.ways(config.derp_map)}
        has_place = Q(slot__isnull=False) | Q(return_slot__isnull=False)
        old = list(Relay.objects.filter(has_place, rental=config.rental, certificate_sha256__in=pins))
        for relay in old:
            if relay.slot is not None:
                rotate_relay(relay=relay, now=now)
        if old:
            return False
    AclConfig.objects.filter(pk=config.pk, lapsed_at=None).update(lapsed_at=now)
    return True


# The log


def record_event(
    *,
    rental: Rental,
    kind: str,
    version: int | None = None,
    file_format: str = "",
    reason: str = "",
    by: User | None = None,
    ip: str | None = None,
    browser: str = "",
) -> AclEvent:
    """Write down what happened to the map; `by` None means the system. Texts are cut to what fits."""
    return AclEvent.objects.create(
        rental=rental,
        version=version,
        kind=kind,
        file_format=file_format,
        reason=reason[:200],
        by=by,
        ip=ip,
        place=place_of(ip),
        browser=one_line(browser)[:200],
    )
