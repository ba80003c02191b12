"""Making, withdrawing and ending versions of a customer's map."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max, Q
from django.db.models.functions import Length
from django.utils import timezone, translation
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation
from acl import derpmap
from acl.derpmap import MapNode
from acl.models import RENEW_BEFORE, VALID_FOR, AclConfig, AclEvent, LiveUrl, MapRegion
from containers.models import Relay
from containers.services.rotation import rotate_relay
from derpmgmt.lib import queue
from derpmgmt.lib.places import place_of
from serials.models import Rental

RELAYS_CHANGED = gettext_noop("relays were added or changed")
REGION_CHANGED = gettext_noop("a region ID was changed")
LAPSED = gettext_noop("the version before it lapses")
RENEWED = gettext_noop("renewed by hand")
NOT_ENTITLED = gettext_noop("the rental is not active")
NO_RELAY = gettext_noop("there is no relay left")
CLOSED = gettext_noop("the account was closed")

# Relays that come up together are put into the map together: none waits longer for the others than this, and a sweep.
GATHERS = timedelta(seconds=10)
# So many lapsed versions are looked at in one go.
_LAPSES_AT_ONCE = 1000


class RegionIdRefused(Exception):
    """A region ID cannot be had; `str()` is the sentence that says why."""


def active_config(rental: Rental) -> AclConfig | None:
    """The version that counts now, lapsed or not; None while there is none."""
    return AclConfig.objects.filter(rental=rental, is_active=True).first()


@transaction.atomic
def refresh_map(
    *, rental: Rental, reason: str, by: User | None = None, is_forced: bool = False
) -> AclConfig | None:
    """Make the active version what the rental's relays call for; None when it already is, or when no map is due.

    A new version is made when the way to a relay differs, when the old version lapses within `RENEW_BEFORE`, and when
    `is_forced`; a new name alone waits for that. Of several relays that come up at a time the first ones wait for the others,
    at most `GATHERS` long, unless a person asked (`by`). A rental without rights or relays loses its map. `reason` (an English sentence
    marked for translation) says why the relays may have changed, `by` who did it (None = the system). Harmless when
    doubled, unless forced. Announces `map_changed`.
    """
    rental = Rental.objects.select_for_update().get(pk=rental.pk)
    now = timezone.now()
    active = active_config(rental)
    if not rental.is_entitled(now):
        _withdraw(rental, active, NOT_ENTITLED)
        return None
    relays = list(
        Relay.objects.filter(rental=rental)
        .in_map()
        .select_related("server__region")
        .order_by(F("slot").asc(nulls_last=True), "pk")
    )
    if not relays:
        _withdraw(rental, active, NO_RELAY)
        return None
    if not (is_forced or by) and _is_gathering(relays, active, now):
        return None
    region_ids = _allocate_region_ids(rental, relays)
    with translation.override(rental.user.language):
        derp_map = derpmap.build_map(_map_node(relay, region_ids[relay.pk]) for relay in relays)
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


def _is_gathering(relays: list[Relay], active: AclConfig | None, now: datetime) -> bool:
    """Whether relays that are new to the map came up a moment ago, and others of the same rental are about to."""
    known = {way[-1] for way in derpmap.ways(active.derp_map)} if active else set()
    proven = [
        relay.proven_at for relay in relays if relay.certificate_sha256 not in known and relay.proven_at
    ]
    return (
        bool(proven)
        and now < min(proven) + GATHERS
        and Relay.objects.coming_up().filter(rental=relays[0].rental_id).exists()
    )


def _withdraw(rental: Rental, active: AclConfig | None, reason: str) -> None:
    if active:
        AclConfig.objects.filter(pk=active.pk).update(is_active=None)
        record_event(rental=rental, kind=AclEvent.Kind.WITHDRAWN, version=active.version, reason=reason)
        queue.announce("map_changed", rental.pk)


def _map_node(relay: Relay, region_id: int) -> MapNode:
    region = relay.server.region
    return MapNode(
        region_id=region_id,
        # As the relay's card is headed. One on its way out stands beside its successor: there the region ID tells them apart.
        number=relay.slot or region_id,
        code=region.code,
        name=region.name,
        latitude=region.latitude,
        longitude=region.longitude,
        address=relay.server.address,
        derp_port=relay.derp_port,
        stun_port=relay.stun_port,
        certificate_sha256=relay.certificate_sha256,
    )


def _is_free(row: MapRegion) -> bool:
    """Whether the relay that had this number is gone for the map."""
    return row.relay is None or row.relay.status in {Relay.Status.REMOVING, Relay.Status.RELEASED}


def _allocate_region_ids(rental: Rental, relays: Iterable[Relay]) -> dict[int, int]:
    """The region ID of each relay by its pk; a new relay takes the number of one that is gone, else the lowest free one."""
    rows = list(MapRegion.objects.filter(rental=rental).select_related("relay"))
    taken = {row.region_id for row in rows}
    region_ids = {row.relay_id: row.region_id for row in rows if row.relay_id}
    heirless = [row for row in rows if _is_free(row)]
    # 900 comes last: it is what people choose for relays of their own.
    free = (number for number in [*range(901, 1000), 900] if number not in taken)
    for relay in relays:
        if relay.pk in region_ids:
            continue
        if heirless:
            row = heirless.pop(0)
            row.relay = relay
            row.save(update_fields=["relay"])
        else:
            row = MapRegion.objects.create(rental=rental, relay=relay, region_id=next(free))
        region_ids[relay.pk] = row.region_id
    return region_ids


def due_rentals(now: datetime, *, changed_since: datetime | None) -> list[Rental]:
    """Rentals whose active version lapses within `RENEW_BEFORE`, is missing, or is not what their relays call for.

    Looks at the rentals whose relays changed since `changed_since` (None: at all of them) and at the versions near their end;
    at most four queries, and their cost goes by these, not by how many maps there are.
    """
    relays = Relay.objects.filter(rental__isnull=False)
    configs = AclConfig.objects.filter(is_active=True)
    if changed_since is not None:
        looked_at = set(relays.filter(changed_at__gte=changed_since).values_list("rental_id", flat=True))
        looked_at |= set(configs.filter(ends_at__lte=now + RENEW_BEFORE).values_list("rental_id", flat=True))
        if not looked_at:
            return []
        relays, configs = relays.filter(rental__in=looked_at), configs.filter(rental__in=looked_at)
    wanted: dict[int, set[derpmap.Way]] = defaultdict(set)
    in_map = relays.in_map().filter(rental__in=Rental.objects.entitled(now))
    columns = ("map_region__region_id", "server__address", "derp_port", "stun_port", "certificate_sha256")
    for rental_pk, *way in in_map.values_list("rental_id", *columns):
        wanted[rental_pk].add((way[0], way[1], way[2], way[3], way[4]))
    is_right = {
        rental_pk: now < ends_at - RENEW_BEFORE and derpmap.ways(derp_map) == wanted.get(rental_pk)
        for rental_pk, ends_at, derp_map in configs.values_list("rental_id", "ends_at", "derp_map")
    }
    due = sorted(pk for pk in wanted.keys() | is_right.keys() if not is_right.get(pk))
    return list(Rental.objects.filter(pk__in=due)) if due else []


def change_region_id(
    *, rental: Rental, map_region: MapRegion, region_id: int, by: User, ip: str | None = None
) -> AclConfig | None:
    """Give a relay of this rental another region ID and make the version that has it; None when the number stays.

    Raises `RegionIdRefused` when the number is not from 900 to 999, or another of the customer's relays has it.
    """
    if not derpmap.FIRST_REGION_ID <= region_id <= derpmap.LAST_REGION_ID:
        raise RegionIdRefused(_("Choose a number from 900 to 999: only these are yours to give."))
    with transaction.atomic():
        rental = Rental.objects.select_for_update().get(pk=rental.pk)
        row = MapRegion.objects.filter(rental=rental, pk=map_region.pk).first()
        if row is None:
            raise RegionIdRefused(_("This region is no longer in your map. Reload the page."))
        if row.region_id == region_id:
            return None
        holder = MapRegion.objects.filter(rental=rental, region_id=region_id).select_related("relay").first()
        if holder and not _is_free(holder):
            raise RegionIdRefused(
                gettext("%(number)s is the region ID of another of your relays.") % {"number": region_id}
            )
        if holder:
            holder.delete()
        old, row.region_id = row.region_id, region_id
        row.save(update_fields=["region_id"])
        log_operation(
            by=by, action="map.region_changed", target=f"{old} → {region_id}", subject=rental.user, ip=ip
        )
        return refresh_map(rental=rental, reason=REGION_CHANGED, by=by)


def due_lapses(now: datetime) -> list[AclConfig]:
    """Versions whose last day is over, as far as something can be done about it and is not done yet, the longest lapsed first."""
    lapsed = AclConfig.objects.filter(lapsed_at=None, ends_at__lte=now).order_by("ends_at")
    if settings.ROTATE_PINS:
        # Those of rentals that are over wait for their return, and must not stand in the others' way.
        is_over_for_good = Q(rental__closed_at__isnull=False)
        lapsed = lapsed.filter(is_over_for_good | Q(rental__in=Rental.objects.entitled(now)))
    return list(lapsed.select_related("rental")[:_LAPSES_AT_ONCE])


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


@transaction.atomic
def destroy_maps(*, rental: Rental) -> bool:
    """Empty every version of a closed rental's map and forget who fetched it from where; the history of versions stays.

    False while the rental is not closed. Its live URL goes on to answer that there are no regions. Harmless when doubled.
    """
    rental = Rental.objects.select_for_update().get(pk=rental.pk)
    if rental.closed_at is None:
        return False
    _withdraw(rental, active_config(rental), CLOSED)
    AclConfig.objects.filter(rental=rental).update(derp_map=derpmap.EMPTY_MAP)
    MapRegion.objects.filter(rental=rental).delete()
    AclEvent.objects.filter(rental=rental).update(ip=None, place="", browser="")
    LiveUrl.objects.filter(rental=rental).update(secret="", last_ip=None, last_browser="")
    queue.announce("map_changed", rental.pk)
    return True


def closing_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": the maps, and what tells who fetched them from where, while there is any."""
    maps = AclConfig.objects.filter(rental__user=user).values_list("derp_map", flat=True)
    events = AclEvent.objects.filter(rental__user=user).exclude(ip=None, place="", browser="")
    urls = LiveUrl.objects.filter(rental__user=user).annotate(secret_length=Length("secret"))
    if (
        any(derp_map["Regions"] for derp_map in maps)
        or events.exists()
        or urls.exclude(secret_length=0, last_ip=None, last_browser="").exists()
        or MapRegion.objects.filter(rental__user=user).exists()
    ):
        yield gettext("The maps are not destroyed yet.")


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
        browser=derpmap.clean_text(browser)[:200],
    )
